"""What the finder found, as a picture: how well, which latents, and where they fire on sample pictures."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..finding.labelling import Finding
from ..finding.selection import dense
from ..sae_models.concepts import Concept
from ..sae_models.scoring import EPSILON, band_score
from ..unet.capture import FiredLatents
from . import charts

SHOWN_LATENTS = 8


def activations(call: FiredLatents, latents: Sequence[int], num_latents: int) -> Tensor:
    """Return what some latents say in one call of one picture, [H, W, n]."""
    wanted = torch.tensor(latents, dtype=torch.long)
    return dense(call.values[0], call.indices[0], wanted, num_latents).reshape(*call.grid, -1)


def latent_heat(calls: Sequence[FiredLatents], latent: int, num_latents: int) -> Tensor:
    """Return the mean activation of a latent over the calls of one picture, [H, W]."""
    return torch.stack([activations(call, [latent], num_latents)[..., 0] for call in calls]).mean(0)


def concept_heat(calls: Sequence[FiredLatents], concept: Concept, num_latents: int) -> Tensor:
    """Return the share of calls in which each patch of a picture is detected, [H, W] in 0..1."""
    total = torch.zeros(calls[0].grid)
    for call in calls:
        band = concept.bands[concept.band_index(call.timestep)]
        if band.latents:
            latents = activations(call, band.latents + band.against, num_latents)
            total += band_score(latents, band, concept.combine) > 1
    return total / len(calls)


def strongest(concept: Concept, count: int = SHOWN_LATENTS) -> list[tuple[int, float]]:
    """Return the latents that give most evidence on the concept's prompts, and their mean score over the bands."""
    evidence: dict[int, float] = {}
    score: dict[int, float] = {}
    for band in concept.bands:
        for i, latent in enumerate(band.latents):
            evidence[latent] = evidence.get(latent, 0.0) + band.means[i] / max(band.thresholds[i], EPSILON)
            score[latent] = score.get(latent, 0.0) + band.scores[i] / len(concept.bands)
    return [(i, score[i]) for i in sorted(evidence, key=lambda i: -evidence[i])[:count]]


def finder_report(
    finding: Finding,
    pictures: Tensor,
    fired: Sequence[Sequence[FiredLatents]],
    captions: Sequence[str],
    size: int,
    painted: Sequence[Tensor] = (),
) -> Tensor:
    """Draw the report of the Concept Finder, or of Concept From Mask.

    Args:
        finding: what was found.
        pictures: samples to draw over, [n, H, W, 3].
        fired: what fired in each of them.
        captions: what to write below each.
        size: number of latents of the SAE.
        painted: what a person painted in each picture, on the model's grid, [h, w] in 0..1; may be left out.

    Returns:
        [1, H, W, 3].
    """
    concept = finding.concept
    width = charts.LABEL + max(len(pictures), 4) * (charts.TILE + charts.GAP)
    warning = finding.warning
    parts = [charts.heading(warning, width, alarm=True)] if warning else []
    parts.append(charts.heading(finding.summary().removeprefix(warning).strip(), width))
    parts.append(_heats("pictures", pictures, [None] * len(pictures)))
    if painted:
        parts.append(_heats("your mask, on the model's grid", pictures, painted))
    if any(captions):
        parts.append(charts.row([charts.label("", 56), *(charts.caption(text) for text in captions)]))
    if any(band.latents for band in concept.bands):
        heats: list[Any] = [concept_heat(calls, concept, size) for calls in fired]
        parts.append(_heats(f"{concept.name}\nshare of steps in which it is detected", pictures, heats))
    for latent, score in strongest(concept):
        raw = [latent_heat(calls, latent, size) for calls in fired]
        highest = max(float(heat.max()) for heat in raw) or 1.0
        text = f"latent {latent}\nscore {score:.4f}\nhighest {highest:.2f}"
        parts.append(_heats(text, pictures, [heat / highest for heat in raw]))
    return charts.column(parts)


def _heats(text: str, pictures: Tensor, heats: Sequence[Tensor | None]) -> Image.Image:
    tiles = [charts.tile(picture, heat) for picture, heat in zip(pictures, heats, strict=True)]
    return charts.row([charts.label(text), *tiles])
