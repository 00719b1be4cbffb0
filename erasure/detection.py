"""Detection: which patches of a feature map hold a concept, and how several answers are put together.

A Detection is a small immutable tree. Its leaves (``Detect``) ask one SAE for one concept; ``Join`` and
``Refine`` combine and shape the masks. The tree says what to do; ``masks.py`` does it while sampling goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..sae_models.concepts import Concept, ConceptBand
from ..sae_models.loaded import LoadedSAE
from ..sae_models.sae import COMPETING, SparseAutoencoder
from .refinement import Refinement

JOINS = ("union", "intersection")


class NonFiniteActivations(RuntimeError):
    """The feature map holds NaN or infinity, so nothing can be said about it."""


class Look(NamedTuple):
    """What one leaf says of patches.

    Attributes:
        detected: which patches hold the concept, bool.
        likeness: how much each is like the concept, float from 0, same shape: the score it would have if no
            other latent silenced those of the concept or counted against it. A detected patch has more than one.
    """

    detected: Tensor
    likeness: Tensor


@dataclass(frozen=True, eq=False)
class Detect:
    """Find one concept with one SAE.

    Attributes:
        sae: the SAE, which also says where in the UNet it reads.
        concept: latents and thresholds.
        sensitivity: divides the thresholds; 1 uses them as they are, 0 detects nothing.
        start, end: share of the sampling range (0..1) in which it looks, as ComfyUI's start_percent and
            end_percent.
    """

    sae: LoadedSAE
    concept: Concept
    sensitivity: float = 1.0
    start: float = 0.0
    end: float = 1.0

    @property
    def hookpoint(self) -> str:
        """The UNet module it reads."""
        return self.sae.config.hookpoint


@dataclass(frozen=True, eq=False)
class Join:
    """Union or intersection of two detections."""

    mode: str
    first: "Detection"
    second: "Detection"

    def __post_init__(self) -> None:
        if self.mode not in JOINS:
            raise ValueError(f"join mode {self.mode!r}; known are {', '.join(JOINS)}")


@dataclass(frozen=True, eq=False)
class Refine:
    """A detection whose mask is shaped on the token grid."""

    source: "Detection"
    refinement: Refinement


Detection = Detect | Join | Refine


def leaves(detection: Detection) -> Iterator[Detect]:
    """Yield every ``Detect`` of the tree, first to last."""
    if isinstance(detection, Detect):
        yield detection
    elif isinstance(detection, Join):
        yield from leaves(detection.first)
        yield from leaves(detection.second)
    else:
        yield from leaves(detection.source)


def concept_score(latents: Tensor, thresholds: Tensor, combine: str) -> Tensor:
    """Score patches against thresholds; a patch is detected where the score exceeds one.

    Args:
        latents: activations of the concept's latents, [..., n], non-negative.
        thresholds: [n], zero meaning that any activation at all suffices.
        combine: see Concept.

    Returns:
        [...]
    """
    relative = torch.where(latents > 0, latents / thresholds, 0.0)
    return relative.sum(-1) if combine == "sum" else relative.amax(-1)


def band_score(latents: Tensor, band: ConceptBand, combine: str) -> Tensor:
    """Score patches for a concept within a band; a patch is detected where the score exceeds one.

    Args:
        latents: activations of the band's latents, then of those against it, [..., n + m].
        band, combine: see Concept.

    Returns:
        [...]; NaN where evidence without a threshold meets evidence against it without one.
    """
    n = len(band.latents)
    thresholds = torch.tensor(band.thresholds, device=latents.device, dtype=torch.float32)
    score = concept_score(latents[..., :n], thresholds, combine)
    if not band.against:
        return score
    bounds = torch.tensor(band.against_thresholds, device=latents.device, dtype=torch.float32)
    return score - concept_score(latents[..., n:], bounds, "sum")


@torch.no_grad()
def detect_patches(sae: SparseAutoencoder, band: ConceptBand, combine: str, sensitivity: float, x: Tensor) -> Look:
    """Tell which patches hold a concept.

    The result is that of a full encode, but most of the work is left out: competition can only silence a latent, and
    latents against the concept only take away, so a patch whose concept latents would not suffice without both needs no
    look at the other latents.

    Args:
        sae: the SAE.
        band: latents and thresholds for the timestep at hand.
        combine: see Concept.
        sensitivity: see Detect.
        x: patch embeddings [N, D].

    Returns:
        of each patch, [N].

    Raises:
        NonFiniteActivations: x holds NaN or infinity.
    """
    if not band.latents:
        return Look(torch.zeros(len(x), dtype=torch.bool, device=x.device), torch.zeros(len(x), device=x.device))
    wanted = torch.tensor(band.latents + band.against, device=x.device)
    # A float32 SAE would be cast to the model's half precision as a whole at every call; the patches are far fewer.
    centered = sae.center(x.float() if sae.encoder.weight.dtype == torch.float32 else x)
    weight, bias = sae.encoder.weight, sae.encoder.bias
    rows = weight[wanted.to(weight.device)].to(centered)
    loudest = torch.addmm(bias[wanted.to(bias.device)].to(centered), centered, rows.T)
    if not torch.isfinite(loudest).all():
        raise NonFiniteActivations("the feature map holds NaN or infinity")
    alone = sae.config.activation not in COMPETING
    latents = (sae.activate_alone(loudest, wanted) if alone else sae.loudness(loudest)).float()
    favourable = replace(band, against=(), against_thresholds=()) if band.against else band
    likeness = band_score(latents, favourable, combine) * sensitivity
    if alone:
        return Look(band_score(latents, band, combine) * sensitivity > 1 if band.against else likeness > 1, likeness)
    detected = likeness > 1
    candidates = detected.nonzero().squeeze(1)
    if len(candidates):
        latents = competing_latents(sae, centered[candidates], wanted).float()
        detected[candidates] = band_score(latents, band, combine) * sensitivity > 1
    return Look(detected, likeness)


def competing_latents(sae: SparseAutoencoder, centered: Tensor, wanted: Tensor) -> Tensor:
    """Return some latents of patches after the competition with all others.

    Args:
        centered: input of the encoder, [N, D].
        wanted: indices of the latents, [n].

    Returns:
        [N, n].
    """
    every = sae.encoder(centered)
    if sae.config.activation == "groupmax":
        return sae.activate(every)[:, wanted]
    weakest_kept = every.topk(sae.config.k, dim=-1).values[:, -1:]
    ours = every[:, wanted]
    return torch.where(ours >= weakest_kept, sae.loudness(ours), 0.0)
