"""Find a concept from prompts, or from a painted mask: draw or look, gather, find, and draw the report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import functional as F

from ..reports import charts
from ..reports.finder_report import finder_report
from ..sae_models.loaded import LoadedSAE
from ..unet.capture import FiredLatents
from ..unet.sampling import Conditioning, Observed, Sampling, at_once, blank, draw, draw_more, look, look_at_each
from .labelling import INSIDE, OUTSIDE, TIMESTEPS, UNKNOWN, Finding, Labels, find_concept

SHOWN = 4  # sample pictures of each kind in the report
CONTRASTS = 2  # pictures without the concept for each with it


@dataclass(frozen=True)
class Search:
    """What to look for in drawn pictures.

    Attributes:
        name: of the concept.
        targets, contrasts: prompts with and without it; they take turns until there are enough pictures.
        pictures: how many show it; twice as many do not.
        bands, way, percentile: see ``find_concept``.
    """

    name: str
    targets: Sequence[str]
    contrasts: Sequence[str]
    pictures: int
    bands: int
    way: str
    percentile: float


def find_by_drawing(
    model: ModelPatcher, clip: Any, vae: Any, sae: LoadedSAE, search: Search, empty: Tensor, sampling: Sampling
) -> tuple[Finding, Tensor]:
    """Draw pictures with and without a concept and find its latents; every other prompt is held out.

    Args:
        model, clip, vae: as ComfyUI gives them.
        sae: fits the model.
        empty, sampling: see ``draw``.

    Returns:
        What was found, and the report [1, H, W, 3].
    """
    targets = _in_turn(search.targets, search.pictures)
    contrasts = _in_turn(search.contrasts, CONTRASTS * search.pictures)
    prompts = [prompt for prompt, _ in targets + contrasts]
    held = torch.tensor([held for _, held in targets + contrasts])
    seen = draw(model, clip, sae, prompts, empty, sampling)
    inside = torch.arange(len(prompts)) < len(targets)
    finding = find_concept(
        search.name,
        sae.identity,
        sae.config.num_latents,
        seen.fired,
        Labels(inside[:, None].float(), held),
        search.bands,
        search.way,
        search.percentile,
        len(search.contrasts),
    )
    shown = [*(inside & held).nonzero()[:SHOWN, 0].tolist(), *(~inside & held).nonzero()[:SHOWN, 0].tolist()]
    pictures = vae.decode(seen.latents[shown])
    report = finder_report(
        finding, pictures, [seen.fired[i] for i in shown], [prompts[i] for i in shown], sae.config.num_latents
    )
    return finding, report


@dataclass(frozen=True, eq=False)
class Painting:
    """Pictures in which somebody painted over a concept.

    Attributes:
        name: of the concept.
        image: [B, H, W, 3 or 4] in 0..1, for the report.
        latents: what the VAE makes of them, [B, C, h, w].
        mask: 1 where the concept is, [1 or B, h, w].
        conditioning: what the pictures show.
    """

    name: str
    image: Tensor
    latents: Tensor
    mask: Tensor
    conditioning: Conditioning


@dataclass(frozen=True, eq=False)
class Drawing:
    """What the model draws beside the painted pictures.

    Attributes:
        clip: the text encoder.
        prompts: of pictures without the concept; they take turns until there are enough pictures.
        pictures: how many do not show it.
        more: how many more are drawn of what the painted pictures show.
        sampling: see ``draw``.
        alike: prompts of these, in turn; if there are none, the painted pictures' conditioning.
    """

    clip: Any
    prompts: Sequence[str]
    pictures: int
    more: int
    sampling: Sampling
    alike: Sequence[str] = ()


def find_in_mask(
    model: ModelPatcher,
    vae: Any,
    sae: LoadedSAE,
    painting: Painting,
    bands: int,
    looks: int,
    seed: int,
    drawing: Drawing | None = None,
) -> tuple[Finding, Tensor]:
    """Find the latents that fire inside a mask and not outside it; every other noise is held out.

    Args:
        model, vae: as ComfyUI gives them; the VAE decodes what is drawn for contrast.
        sae: fits the model.
        painting: the pictures and the mask.
        bands: of timesteps; each picture is noised to the middle of each.
        looks: how often each painted picture is noised anew, 2 or more.
        seed: of the noise.
        drawing: pictures that lie wholly outside, and more of the kind that was painted in, in which the concept is
            looked for. Without them only the rest of the painted pictures tells what the concept is not.

    Returns:
        What was found, and the report [1, H, W, 3].

    Raises:
        ValueError: the mask covers half of no patch, or leaves no patch free.
    """
    image, latents = painting.image, painting.latents
    timesteps = [TIMESTEPS * (band + 0.5) / bands for band in reversed(range(bands))]
    fired = []
    for number in range(looks):
        first = seed + number * bands * len(latents)
        fired += look(model, sae, painting.conditioning, latents, timesteps, first)
    cover = _cover(painting.mask, fired[0][0].grid, len(latents))
    labels = Labels(cover.repeat(looks, 1), (torch.arange(looks) % 2 == 1).repeat_interleave(len(latents)))
    # The last look at each picture was held out.
    count = min(len(latents), SHOWN)
    shown, captions = list(zip(image[:count, ..., :3], fired[-len(latents) :], strict=False)), [""] * count
    if drawing is not None:
        free = _without(model, sae, drawing, latents, timesteps, seed)
        alike = _more(model, sae, drawing, painting.conditioning, latents, timesteps, seed)
        labels = _with_drawn(labels, free, alike)
        for kind in (alike, free):
            examples = kind.held.nonzero()[:CONTRASTS, 0].tolist()
            if examples:
                calls = [kind.fired[i] for i in examples]
                shown += zip(vae.decode(kind.latents[examples]).to(image), calls, strict=True)
                captions += [kind.prompts[i] for i in examples]
        fired += free.fired + alike.fired
    finding = find_concept(painting.name, sae.identity, sae.config.num_latents, fired, labels, bands)
    grid = fired[0][0].grid
    painted = [*(cover[i].reshape(grid) for i in range(count)), *[torch.zeros(grid)] * (len(shown) - count)]
    pictures, calls = torch.stack([charts.shrunk(picture) for picture, _ in shown]), [calls for _, calls in shown]
    return finding, finder_report(finding, pictures, calls, captions, sae.config.num_latents, painted)


def _cover(mask: Tensor, grid: tuple[int, int], pictures: int) -> Tensor:
    """Return the share of each cell of the model's grid that a mask covers, [pictures, cells].

    Raises:
        ValueError: it covers half of no cell, or leaves no cell free.
    """
    cover = F.adaptive_avg_pool2d(mask[:, None].float(), grid).flatten(1).expand(pictures, -1)
    if not (cover >= INSIDE).any() or not (cover < OUTSIDE).any():
        raise ValueError(
            f"the mask covers half of {int((cover >= INSIDE).sum())} and nothing of {int((cover < OUTSIDE).sum())} "
            f"cells of the model's grid of {'x'.join(map(str, grid))}. Paint more generously, and leave something "
            "unpainted"
        )
    return cover


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Drawn pictures: prompts, which are held out, latents, and what fired when they were looked at and drawn."""

    prompts: list[str]
    held: Tensor
    latents: Tensor
    fired: list[list[FiredLatents]]


def _without(
    model: ModelPatcher, sae: LoadedSAE, drawing: Drawing, like: Tensor, timesteps: Sequence[float], seed: int
) -> _Drawn:
    """Draw pictures without a concept, and look at each as at those that were painted in.

    They are looked at noised as well as while they are drawn, or they would be told apart by that from painted ones.

    Args:
        like: the latents of the painted pictures; those drawn have their size.
    """
    prompts = _in_turn(drawing.prompts, drawing.pictures)
    return _drawn(model, sae, drawing, prompts, like, timesteps, seed)


def _more(
    model: ModelPatcher,
    sae: LoadedSAE,
    drawing: Drawing,
    conditioning: Conditioning,
    like: Tensor,
    timesteps: Sequence[float],
    seed: int,
) -> _Drawn:
    """Draw more of what the painted pictures show, and look at each as at them; see ``_without``."""
    count = drawing.more
    if not count:
        return _Drawn([], torch.zeros(0, dtype=torch.bool), like[:0], [])
    # Other noise than that of the pictures without the concept, or half of what they show would be the same.
    sampling = replace(drawing.sampling, seed=drawing.sampling.seed + drawing.pictures)
    seed += drawing.pictures * len(timesteps)
    if drawing.alike:
        alike = replace(drawing, sampling=sampling)
        return _drawn(model, sae, alike, _in_turn(drawing.alike, count), like, timesteps, seed)
    batch = at_once(model, like)
    drawn = draw_more(model, drawing.clip, sae, conditioning, count, blank(like, batch), sampling)
    looks = []
    for start in range(0, count, batch):
        first = seed + start * len(timesteps)
        looks += look(model, sae, conditioning, drawn.latents[start : start + batch], timesteps, first)
    return _seen(["drawn like yours"] * count, torch.arange(count) % 2 == 1, drawn, looks)


def _drawn(
    model: ModelPatcher,
    sae: LoadedSAE,
    drawing: Drawing,
    chosen: Sequence[tuple[str, bool]],
    like: Tensor,
    timesteps: Sequence[float],
    seed: int,
) -> _Drawn:
    """Draw prompts, each with whether it is held out, and look at what comes out; see ``_without``."""
    prompts, held = [prompt for prompt, _ in chosen], torch.tensor([held for _, held in chosen])
    batch = at_once(model, like)
    drawn = draw(model, drawing.clip, sae, prompts, blank(like, batch), drawing.sampling)
    looks = []
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        first = seed + start * len(timesteps)
        looks += look_at_each(model, drawing.clip, sae, prompts[part], drawn.latents[part], timesteps, first)
    return _seen(prompts, held, drawn, looks)


def _seen(prompts: list[str], held: Tensor, drawn: Observed, looks: Sequence[list[FiredLatents]]) -> _Drawn:
    """Join what fired when pictures were looked at and, which costs nothing more, at each step of drawing them."""
    fired = [[*noised, *calls] for noised, calls in zip(looks, drawn.fired, strict=True)]
    return _Drawn(prompts, held, drawn.latents, fired)


def _with_drawn(painted: Labels, free: _Drawn, alike: _Drawn) -> Labels:
    """Add drawn pictures to the labels of painted ones: those without the concept, and those in which it is sought."""
    cells = painted.cover.shape[1]
    covers = (painted.cover, torch.zeros(len(free.fired), cells), torch.full((len(alike.fired), cells), UNKNOWN))
    sought = torch.cat([torch.zeros(len(painted.held) + len(free.fired)), torch.ones(len(alike.fired))]).bool()
    return Labels(torch.cat(covers), torch.cat([painted.held, free.held, alike.held]), sought)


def _in_turn(prompts: Sequence[str], count: int) -> list[tuple[str, bool]]:
    """Return prompts in turn, and whether each is held out: every other prompt, or picture of a single prompt."""
    if len(prompts) == 1:
        return [(prompts[0], i % 2 == 1) for i in range(count)]
    places = [i % len(prompts) for i in range(count)]
    return [(prompts[place], place % 2 == 1) for place in places]
