"""Which patches hold the concept: as it was said of images or regions, and as far as it was located since."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..sae_models.concepts import Concept
from .selection import Patches, evidence_in

MAX_PATCHES = 400_000  # in a band; more say no more
TIMESTEPS = 1000.0
INSIDE, OUTSIDE = 0.5, 0.02  # share of a patch that is covered; patches between are left out
UNKNOWN = (INSIDE + OUTSIDE) / 2
CERTAIN = 0.999  # share of the patches without the concept that one with it must exceed


class Fired(Protocol):
    """One image in one call of the model: features [1, P, k] and the timestep."""

    @property
    def timestep(self) -> float:
        """0..999."""

    @property
    def values(self) -> Tensor:
        """[1, P, k] float16, zero or more."""

    @property
    def indices(self) -> Tensor:
        """Of the features, [1, P, k] int32."""


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of the images.

    Attributes:
        cover: share of each patch that the concept covers, [images, P]; [images, 1] if only whole images are
            known, 1 or 0.
        held: images kept back from fitting, bool [images].
        sought: images that show the concept somewhere, but nobody knows where, bool [images]; None for all that
            are covered as a whole.
    """

    cover: Tensor
    held: Tensor
    sought: Tensor | None = None

    @property
    def where_unknown(self) -> Tensor:
        """Images in which the concept can only be looked for, bool [images]."""
        if self.sought is not None:
            return self.sought
        return self.cover[:, 0] >= INSIDE if self.cover.shape[1] == 1 else torch.zeros_like(self.held)


def band_edges(timesteps: Sequence[float], bands: int) -> tuple[float, ...]:
    """Return edges of at most so many timestep bands, each with about equally many of the timesteps."""
    distinct = sorted({round(t, 3) for t in timesteps})
    count = min(bands, len(distinct))
    firsts = [distinct[i * len(distinct) // count] for i in range(1, count)]
    before = [distinct[i * len(distinct) // count - 1] for i in range(1, count)]
    return (0.0, *((low + high) / 2 for low, high in zip(before, firsts, strict=True)), TIMESTEPS)


def patches_in_band(images: Sequence[Sequence[Fired]], labels: Labels, low: float, high: float) -> Patches:
    """Gather the patches of all calls in a band; the first and last band take what lies beyond."""
    whole = labels.cover.shape[1] == 1
    parts = []
    for number, calls in enumerate(images):
        cover, held = labels.cover[number], labels.held[number]
        for call in calls:
            if not (low <= call.timestep < high or (low == 0 > call.timestep) or (high == TIMESTEPS <= call.timestep)):
                continue
            values, indices = call.values[0], call.indices[0]
            share = cover.expand(len(values))
            known = (share >= INSIDE) | (share < OUTSIDE)
            n = int(known.sum())
            parts.append(
                Patches(values[known], indices[known], share[known] >= INSIDE, torch.full((n,), number), held.expand(n))
            )
    joined = Patches(
        torch.cat([part.values for part in parts]),
        torch.cat([part.indices for part in parts]),
        torch.cat([part.inside for part in parts]),
        torch.cat([part.image for part in parts]),
        torch.cat([part.held for part in parts]),
        whole,
    )
    step = -(-len(joined.values) // MAX_PATCHES)
    return joined.rows(torch.arange(0, len(joined.values), step)) if step > 1 else joined


def located(images: Sequence[Sequence[Fired]], labels: Labels, concept: Concept, num_features: int) -> Labels | None:
    """Tell where in generated images a concept is, from what is known of it so far.

    An image's patches stay where they are while it is generated, so the steps with little noise, in which a concept is
    told apart well, say where it is in those with much.

    Args:
        images, labels: as for ``find_concept``; some images lie wholly outside.
        concept: as found so far.
        num_features: of the SAE.

    Returns:
        Labels of patches: where the concept was sought, 1 if the mean score over all calls exceeds that of nearly all
        patches of the images outside, else unknown; elsewhere as before. None if that leaves nothing to fit or to
        check.
    """
    sought, outside = labels.where_unknown, (labels.cover < OUTSIDE).all(1)
    if not sought.any() or not outside.any():
        return None
    scores = torch.stack([_mean_score(calls, concept, num_features) for calls in images])
    certain = (scores > torch.quantile(scores[outside].flatten(), CERTAIN)) & sought[:, None]
    if not certain[labels.held].any() or not certain[~labels.held].any():
        return None
    cover = torch.where(certain, 1.0, UNKNOWN)
    cover[~sought] = labels.cover[~sought].expand(-1, cover.shape[1])
    return Labels(cover, labels.held)


def _mean_score(calls: Sequence[Fired], concept: Concept, num_features: int) -> Tensor:
    """Return the evidence for a concept in each patch of an image, mean over the calls that can tell, [P]."""
    bands = [concept.bands[concept.band_index(call.timestep)] for call in calls]
    scores = [
        evidence_in(band, call.values[0], call.indices[0], num_features)
        for band, call in zip(bands, calls, strict=True)
        if band.features
    ]
    return torch.stack(scores).mean(0) if scores else torch.zeros(calls[0].values.shape[1])
