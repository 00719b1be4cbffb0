"""Find a concept from prompts, or from a painted mask: draw or look, gather, find, and draw the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import functional as F

from ..sae_models.loaded import LoadedSAE
from ..sae_models.observing import INSIDE, OUTSIDE, TIMESTEPS, Finding, Labels, find_concept
from .collecting import Conditioning, Sampling, draw, look
from .reports import finder_report

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


def find_in_mask(
    model: ModelPatcher,
    conditioning: Conditioning,
    vae: Any,
    sae: LoadedSAE,
    name: str,
    image: Tensor,
    mask: Tensor,
    bands: int,
    looks: int,
    seed: int,
) -> tuple[Finding, Tensor]:
    """Find the latents that fire inside a mask and not outside it; every other noise is held out.

    Args:
        model, vae: as ComfyUI gives them.
        conditioning: what the pictures show.
        sae: fits the model.
        name: of the concept.
        image: pictures, [B, H, W, 3 or 4] in 0..1.
        mask: 1 where the concept is, [1 or B, h, w].
        bands: of timesteps; each picture is noised to the middle of each.
        looks: how often each picture is noised anew, 2 or more.
        seed: of the noise.

    Returns:
        What was found, and the report [1, H, W, 3].

    Raises:
        ValueError: the mask covers half of no patch, or leaves no patch free.
    """
    latents = vae.encode(image[..., :3])
    timesteps = [TIMESTEPS * (band + 0.5) / bands for band in reversed(range(bands))]
    fired = []
    for number in range(looks):
        fired += look(model, sae, conditioning, latents, timesteps, seed + number * bands * len(latents))
    cover = F.adaptive_avg_pool2d(mask[:, None].float(), fired[0][0].grid).flatten(1).expand(len(latents), -1)
    if not (cover >= INSIDE).any() or not (cover < OUTSIDE).any():
        grid = "x".join(map(str, fired[0][0].grid))
        raise ValueError(
            f"the mask covers half of {int((cover >= INSIDE).sum())} and nothing of {int((cover < OUTSIDE).sum())} "
            f"cells of the model's grid of {grid}. Paint more generously, and leave something unpainted"
        )
    held = (torch.arange(looks) % 2 == 1).repeat_interleave(len(latents))
    labels = Labels(cover.repeat(looks, 1), held)
    finding = find_concept(name, sae.identity, sae.config.num_latents, fired, labels, bands)
    count = min(len(latents), SHOWN)
    painted = [cover[i].reshape(fired[0][0].grid) for i in range(count)]
    # The last look at each picture was held out.
    report = finder_report(
        finding, image[:count], fired[-len(latents) :][:count], [""] * count, sae.config.num_latents, painted
    )
    return finding, report


def _in_turn(prompts: Sequence[str], count: int) -> list[tuple[str, bool]]:
    """Return prompts in turn, and whether each is held out: every other prompt, or picture of a single prompt."""
    if len(prompts) == 1:
        return [(prompts[0], i % 2 == 1) for i in range(count)]
    places = [i % len(prompts) for i in range(count)]
    return [(prompts[place], place % 2 == 1) for place in places]
