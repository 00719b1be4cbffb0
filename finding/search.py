"""Find a concept from prompts, or from a painted mask: generate or noise images, gather what fires, and fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import functional as F

from ..sae_models.loaded import LoadedSAE
from ..unet.capture import FiredFeatures
from ..unet.sampling import (
    Conditioning,
    Observed,
    Sampling,
    at_once,
    blank,
    generate,
    generate_more,
    read_each_noised,
    read_noised,
)
from .examples import Example
from .fitting import Finding, find_concept
from .labelling import INSIDE, OUTSIDE, TIMESTEPS, UNKNOWN, Labels

SHOWN = 4  # examples of each kind
CONTRASTS = 2  # images without the concept for each with it


@dataclass(frozen=True)
class Search:
    """What to look for in generated images.

    Attributes:
        name: of the concept.
        targets, contrasts: prompts with and without it; they take turns until there are enough images.
        images: how many show it; twice as many do not.
        bands, way, percentile: see ``find_concept``.
    """

    name: str
    targets: Sequence[str]
    contrasts: Sequence[str]
    images: int
    bands: int
    way: str
    percentile: float


@dataclass(frozen=True, eq=False)
class Gathered:
    """What fired in images with and without a concept.

    Attributes:
        fired: for each image its calls.
        labels: what is known of the images.
        examples: held-out images to show.
    """

    fired: list[list[FiredFeatures]]
    labels: Labels
    examples: list[Example]


def find_by_prompts(
    model: ModelPatcher, clip: Any, vae: Any, sae: LoadedSAE, search: Search, empty: Tensor, sampling: Sampling
) -> tuple[Finding, list[Example]]:
    """Generate images with and without a concept and find its features; every other prompt is held out.

    Args:
        model, clip, vae: as ComfyUI gives them; the VAE decodes the examples.
        sae: fits the model.
        empty, sampling: see ``generate``.

    Returns:
        What was found, and held-out examples of both kinds.
    """
    gathered = gather_by_prompts(model, clip, vae, sae, search, empty, sampling)
    return fit_search(search, sae, gathered), gathered.examples


def fit_search(search: Search, sae: LoadedSAE, gathered: Gathered) -> Finding:
    """Find the features of what was searched for in what fired."""
    return find_concept(
        search.name,
        sae.identity,
        sae.config.num_latents,
        gathered.fired,
        gathered.labels,
        search.bands,
        search.way,
        search.percentile,
        len(search.contrasts),
    )


def gather_by_prompts(
    model: ModelPatcher, clip: Any, vae: Any, sae: LoadedSAE, search: Search, empty: Tensor, sampling: Sampling
) -> Gathered:
    """Generate images with and without a concept; see ``find_by_prompts``."""
    targets = _in_turn(search.targets, search.images)
    contrasts = _in_turn(search.contrasts, CONTRASTS * search.images)
    prompts = [prompt for prompt, _ in targets + contrasts]
    held = torch.tensor([held for _, held in targets + contrasts])
    seen = generate(model, clip, sae, prompts, empty, sampling)
    inside = torch.arange(len(prompts)) < len(targets)
    shown = [*(inside & held).nonzero()[:SHOWN, 0].tolist(), *(~inside & held).nonzero()[:SHOWN, 0].tolist()]
    images = vae.decode(seen.latents[shown])
    examples = [
        Example(image, seen.fired[i], prompts[i], generated=True) for image, i in zip(images, shown, strict=True)
    ]
    return Gathered(seen.fired, Labels(inside[:, None].float(), held), examples)


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """Images in which somebody painted over a concept.

    Attributes:
        name: of the concept.
        image: [B, H, W, 3 or 4] in 0..1, for the examples.
        latents: what the VAE makes of them, [B, C, h, w].
        mask: 1 where the concept is, [1 or B, h, w].
        conditioning: what the images show.
    """

    name: str
    image: Tensor
    latents: Tensor
    mask: Tensor
    conditioning: Conditioning


@dataclass(frozen=True, eq=False)
class Generation:
    """What the model generates beside the masked images.

    Attributes:
        clip: the text encoder.
        prompts: of images without the concept; they take turns until there are enough images.
        images: how many do not show it.
        more: how many more are generated of what the masked images show.
        sampling: see ``generate``.
        similar: prompts of these, in turn; if there are none, the masked images' conditioning.
    """

    clip: Any
    prompts: Sequence[str]
    images: int
    more: int
    sampling: Sampling
    similar: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class MaskSearch:
    """What is searched for in masked images, and how.

    Attributes:
        masked: the images and the mask.
        bands: of timesteps; each image is noised to the middle of each.
        repeats: how often each masked image is noised anew, 2 or more.
        seed: of the noise.
        generation: images that lie wholly outside, and more of the kind that was painted in, in which the concept is
            looked for. Without them only the rest of the masked images tells what the concept is not.
    """

    masked: MaskedImages
    bands: int
    repeats: int
    seed: int
    generation: Generation | None = None


def find_in_mask(model: ModelPatcher, vae: Any, sae: LoadedSAE, search: MaskSearch) -> tuple[Finding, list[Example]]:
    """Find the features that fire inside a mask and not outside it; every other noise is held out.

    Args:
        model, vae: as ComfyUI gives them; the VAE decodes generated examples.
        sae: fits the model.

    Returns:
        What was found, and examples: the masked images, then held-out ones of those generated.

    Raises:
        ValueError: the mask covers half of no patch, or leaves no patch free.
    """
    gathered = gather_in_mask(model, vae, sae, search)
    return fit_mask(search, sae, gathered), gathered.examples


def fit_mask(search: MaskSearch, sae: LoadedSAE, gathered: Gathered) -> Finding:
    """Find the features of what was painted over in what fired."""
    name, bands = search.masked.name, search.bands
    return find_concept(name, sae.identity, sae.config.num_latents, gathered.fired, gathered.labels, bands)


def gather_in_mask(model: ModelPatcher, vae: Any, sae: LoadedSAE, search: MaskSearch) -> Gathered:
    """Noise masked images, and generate others; see ``find_in_mask``."""
    masked, bands, repeats, seed = search.masked, search.bands, search.repeats, search.seed
    image, latents = masked.image, masked.latents
    timesteps = [TIMESTEPS * (band + 0.5) / bands for band in reversed(range(bands))]
    fired = []
    for number in range(repeats):
        first = seed + number * bands * len(latents)
        fired += read_noised(model, sae, masked.conditioning, latents, timesteps, first)
    grid = fired[0][0].grid
    cover = _cover(masked.mask, grid, len(latents))
    labels = Labels(cover.repeat(repeats, 1), (torch.arange(repeats) % 2 == 1).repeat_interleave(len(latents)))
    # What fired the last time was held out.
    examples = [
        Example(image[i, ..., :3], fired[i - len(latents)], masked=cover[i].reshape(grid))
        for i in range(min(len(latents), SHOWN))
    ]
    if search.generation is not None:
        free = _without(model, sae, search.generation, latents, timesteps, seed)
        similar = _more(model, sae, search.generation, masked.conditioning, latents, timesteps, seed)
        labels = _with_generated(labels, free, similar)
        examples += [*_held_examples(similar, vae), *_held_examples(free, vae)]
        fired += free.fired + similar.fired
    return Gathered(fired, labels, examples)


def _cover(mask: Tensor, grid: tuple[int, int], images: int) -> Tensor:
    """Return the share of each patch of the model's grid that a mask covers, [images, patches].

    Raises:
        ValueError: it covers half of no patch, or leaves no patch free.
    """
    cover = F.adaptive_avg_pool2d(mask[:, None].float(), grid).flatten(1).expand(images, -1)
    if not (cover >= INSIDE).any() or not (cover < OUTSIDE).any():
        raise ValueError(
            f"the mask covers half of {int((cover >= INSIDE).sum())} and nothing of {int((cover < OUTSIDE).sum())} "
            f"patches of the model's grid of {'x'.join(map(str, grid))}. Paint more generously, and leave something "
            "unpainted"
        )
    return cover


@dataclass(frozen=True, eq=False)
class _Generated:
    """Generated images: prompts, which are held out, latents, and what fired when they were noised and generated."""

    prompts: list[str]
    held: Tensor
    latents: Tensor
    fired: list[list[FiredFeatures]]


def _without(
    model: ModelPatcher, sae: LoadedSAE, generation: Generation, like: Tensor, timesteps: Sequence[float], seed: int
) -> _Generated:
    """Generate images without a concept, and noise each as those that were painted in.

    What fires is noted when they are noised as well as while they are generated, or they would be told apart by that
    from masked ones.

    Args:
        like: the latents of the masked images; those generated have their size.
    """
    prompts = _in_turn(generation.prompts, generation.images)
    return _generated(model, sae, generation, prompts, like, timesteps, seed)


def _more(
    model: ModelPatcher,
    sae: LoadedSAE,
    generation: Generation,
    conditioning: Conditioning,
    like: Tensor,
    timesteps: Sequence[float],
    seed: int,
) -> _Generated:
    """Generate more of what the masked images show, and noise each as them; see ``_without``."""
    count = generation.more
    if not count:
        return _Generated([], torch.zeros(0, dtype=torch.bool), like[:0], [])
    # Other noise than that of the images without the concept, or half of what they show would be the same.
    sampling = replace(generation.sampling, seed=generation.sampling.seed + generation.images)
    seed += generation.images * len(timesteps)
    if generation.similar:
        other = replace(generation, sampling=sampling)
        return _generated(model, sae, other, _in_turn(generation.similar, count), like, timesteps, seed)
    batch = at_once(model, like)
    generated = generate_more(model, generation.clip, sae, conditioning, count, blank(like, batch), sampling)
    views = []
    for start in range(0, count, batch):
        first = seed + start * len(timesteps)
        views += read_noised(model, sae, conditioning, generated.latents[start : start + batch], timesteps, first)
    return _seen(["generated like yours"] * count, torch.arange(count) % 2 == 1, generated, views)


def _generated(
    model: ModelPatcher,
    sae: LoadedSAE,
    generation: Generation,
    chosen: Sequence[tuple[str, bool]],
    like: Tensor,
    timesteps: Sequence[float],
    seed: int,
) -> _Generated:
    """Generate prompts, each with whether it is held out, and noise what comes out; see ``_without``."""
    prompts, held = [prompt for prompt, _ in chosen], torch.tensor([held for _, held in chosen])
    batch = at_once(model, like)
    generated = generate(model, generation.clip, sae, prompts, blank(like, batch), generation.sampling)
    views = []
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        first = seed + start * len(timesteps)
        views += read_each_noised(model, generation.clip, sae, prompts[part], generated.latents[part], timesteps, first)
    return _seen(prompts, held, generated, views)


def _seen(prompts: list[str], held: Tensor, generated: Observed, views: Sequence[list[FiredFeatures]]) -> _Generated:
    """Join what fired when images were noised and, which costs nothing more, at each step of generating them."""
    fired = [[*noised, *calls] for noised, calls in zip(views, generated.fired, strict=True)]
    return _Generated(prompts, held, generated.latents, fired)


def _with_generated(masked: Labels, free: _Generated, similar: _Generated) -> Labels:
    """Add generated images to the labels: those without the concept, and those in which it is sought."""
    patches = masked.cover.shape[1]
    covers = (masked.cover, torch.zeros(len(free.fired), patches), torch.full((len(similar.fired), patches), UNKNOWN))
    sought = torch.cat([torch.zeros(len(masked.held) + len(free.fired)), torch.ones(len(similar.fired))]).bool()
    return Labels(torch.cat(covers), torch.cat([masked.held, free.held, similar.held]), sought)


def _held_examples(kind: _Generated, vae: Any) -> list[Example]:
    """Return the first held-out images of a kind."""
    rows = kind.held.nonzero()[:CONTRASTS, 0].tolist()
    if not rows:
        return []
    images = vae.decode(kind.latents[rows])
    return [
        Example(image, kind.fired[i], kind.prompts[i], generated=True) for image, i in zip(images, rows, strict=True)
    ]


def _in_turn(prompts: Sequence[str], count: int) -> list[tuple[str, bool]]:
    """Return prompts in turn, and whether each is held out: every other prompt, or image of a single prompt."""
    if len(prompts) == 1:
        return [(prompts[0], i % 2 == 1) for i in range(count)]
    turns = [i % len(prompts) for i in range(count)]
    return [(prompts[turn], turn % 2 == 1) for turn in turns]
