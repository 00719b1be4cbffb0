"""Detection: which patches of a feature map hold a concept, and how several answers are put together.

A Detection is a small immutable tree. Its leaves (``Detect``) ask one SAE for one concept; ``Join`` and
``Refine`` combine and shape the masks. The tree says what to do; ``masks.py`` does it while sampling goes on.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..sae_models.concepts import Concept, ConceptBand
from ..sae_models.loaded import LoadedSAE
from ..sae_models.sae import COMPETING, SparseAutoencoder
from ..unet.calls import NonFiniteActivations
from .refinement import Refinement

JOINS = ("union", "intersection")
# From so many latents on, a patch first competes with one in SOME of them. Below, another product costs more than it
# saves.
MANY, SOME = 4096, 8


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


def concept_score(latents: Tensor, thresholds: Tensor, combine: str, positive: bool = False) -> Tensor:
    """Score patches against thresholds; a patch is detected where the score exceeds one.

    Args:
        latents: activations of the concept's latents, [..., n], non-negative.
        thresholds: [n], zero meaning that any activation at all suffices.
        combine: see Concept.
        positive: whether it is known that no threshold is zero, which saves time.

    Returns:
        [...]
    """
    relative = latents / thresholds if positive else torch.where(latents > 0, latents / thresholds, 0.0)
    return relative.sum(-1) if combine == "sum" else relative.amax(-1)


class BandScore:
    """Scores patches for a concept within a band; a patch is detected where the score exceeds one.

    Args:
        band, combine: see Concept.
        device: where the latents will be.
    """

    def __init__(self, band: ConceptBand, combine: str, device: torch.device) -> None:
        self._own = len(band.latents)
        self._combine = combine
        self._thresholds, self._bounds = (
            torch.tensor(limits, device=device, dtype=torch.float32)
            for limits in (band.thresholds, band.against_thresholds)
        )
        self._positive = min((*band.thresholds, *band.against_thresholds), default=0.0) > 0

    def evidence(self, latents: Tensor) -> Tensor:
        """Return the score without what counts against the concept; see ``__call__``."""
        return concept_score(latents[..., : self._own], self._thresholds, self._combine, self._positive)

    def __call__(self, latents: Tensor) -> Tensor:
        """Score patches.

        Args:
            latents: activations of the band's latents, then of those against it, [..., n + m].

        Returns:
            [...]; NaN where evidence without a threshold meets evidence against it without one.
        """
        score = self.evidence(latents)
        if not len(self._bounds):
            return score
        return score - concept_score(latents[..., self._own :], self._bounds, "sum", self._positive)


def band_score(latents: Tensor, band: ConceptBand, combine: str) -> Tensor:
    """Score patches once; see BandScore, which is for many calls."""
    return BandScore(band, combine, latents.device)(latents)


def detect_patches(sae: SparseAutoencoder, band: ConceptBand, combine: str, sensitivity: float, x: Tensor) -> Look:
    """Tell which patches hold a concept, once; see Detector, which is for many calls."""
    return Detector(sae, band, combine, sensitivity, x.device)(x)


class Detector:
    """Tells which patches hold a concept, within one timestep band.

    The result is that of a full encode, but most of the work is left out: competition can only silence a latent, and
    latents against the concept only take away, so a patch whose concept latents would not suffice without both needs no
    look at the other latents. What does not change from call to call is gathered once, because the calls are short.

    Args:
        sae: the SAE; its encoder must not change as long as the detector is used.
        band: latents and thresholds for the timestep at hand.
        combine: see Concept.
        sensitivity: see Detect.
        device: where the patches will be.
    """

    @torch.no_grad()
    def __init__(
        self, sae: SparseAutoencoder, band: ConceptBand, combine: str, sensitivity: float, device: torch.device
    ) -> None:
        self.sae = sae
        self.band = band
        self.sensitivity = sensitivity
        self.wanted = torch.tensor(band.latents + band.against, device=device, dtype=torch.long)
        weight, bias = sae.encoder.weight, sae.encoder.bias
        # A float32 SAE would be cast to the model's half precision as a whole at every call; the patches are far fewer.
        self._float32 = weight.dtype == torch.float32
        self._rows = weight[self.wanted.to(weight.device)].to(device)
        self._bias = bias[self.wanted.to(bias.device)].to(device)
        self._score = BandScore(band, combine, device)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Look:
        """Look at patch embeddings [N, D].

        Returns:
            of each patch, [N].

        Raises:
            NonFiniteActivations: x holds NaN or infinity.
        """
        sae = self.sae
        if not self.band.latents:
            return Look(torch.zeros(len(x), dtype=torch.bool, device=x.device), torch.zeros(len(x), device=x.device))
        centered = sae.center(x.float() if self._float32 else x)
        loudest = self._pre_activations(centered)
        # A finite sum has finite parts, and only where it is not finite does each of them have to be looked at.
        if not math.isfinite(loudest.sum()) and not torch.isfinite(loudest).all():
            raise NonFiniteActivations("the feature map holds NaN or infinity")
        alone = sae.config.activation not in COMPETING
        latents = (sae.activate_alone(loudest, self.wanted) if alone else sae.loudness(loudest)).float()
        likeness = self._score.evidence(latents) * self.sensitivity
        if alone:
            return Look(self._score(latents) * self.sensitivity > 1, likeness)
        detected = likeness > 1
        candidates = detected.nonzero().squeeze(1)
        if len(candidates) and sae.config.num_latents >= MANY and sae.config.activation != "groupmax":
            detected[candidates] = self._may_outlast(centered[candidates], loudest[candidates])
            candidates = detected.nonzero().squeeze(1)
        if len(candidates):
            latents = competing_latents(sae, centered[candidates], self.wanted).float()
            detected[candidates] = self._score(latents) * self.sensitivity > 1
        return Look(detected, likeness)

    def _pre_activations(self, centered: Tensor) -> Tensor:
        """Return the wanted latents before competition, [N, D] -> [N, n + m]."""
        rows, bias = self._rows.to(centered), self._bias.to(centered)
        if centered.is_contiguous():
            return torch.addmm(bias, centered, rows.T)
        # The patches of a single image lie across; multiplied the other way round, they take a fiftieth of the time.
        return torch.addmm(bias[:, None], rows, centered.T).T

    def _may_outlast(self, centered: Tensor, loudest: Tensor) -> Tensor:
        """Tell which patches may still hold the concept after competition with some of the latents.

        What is silenced by some is silenced by all, and most patches of a large SAE need not be held against all of it.

        Args:
            centered: input of the encoder, [N, D].
            loudest: pre-activations of the wanted latents, [N, n + m].

        Returns:
            bool [N].
        """
        encoder, config = self.sae.encoder, self.sae.config
        some = slice(max(config.k, config.num_latents // SOME))
        rivals = torch.addmm(encoder.bias[some].to(centered), centered, encoder.weight[some].to(centered).T)
        weakest_kept = rivals.topk(config.k, dim=-1).values[:, -1:]
        latents = torch.where(loudest >= weakest_kept, self.sae.loudness(loudest), 0.0).float()
        return self._score.evidence(latents) * self.sensitivity > 1


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
