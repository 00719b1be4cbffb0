"""From what fired while pictures were drawn to patches in timestep bands, and from those to a concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from .concepts import Concept
from .finding import Found, Patches, find_by_detection, find_by_percentile
from .identity import SAEIdentity

MAX_PATCHES = 400_000  # in a band; more say no more
TIMESTEPS = 1000.0
INSIDE, OUTSIDE = 0.5, 0.02  # share of a patch that is covered; patches between are left out
WAYS = ("held-out detection", "percentile (paper)")


class Fired(Protocol):
    """One picture in one call of the model: latents [1, P, k] and the timestep."""

    @property
    def timestep(self) -> float:
        """0..999."""

    @property
    def values(self) -> Tensor:
        """[1, P, k] float16, zero or more."""

    @property
    def indices(self) -> Tensor:
        """Of the latents, [1, P, k] int32."""


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of the pictures.

    Attributes:
        cover: share of each patch that the concept covers, [pictures, P]; [pictures, 1] if only whole pictures are
            known, 1 or 0.
        held: pictures kept back from fitting, bool [pictures].
    """

    cover: Tensor
    held: Tensor


def band_edges(timesteps: Sequence[float], bands: int) -> tuple[float, ...]:
    """Return edges of at most so many timestep bands, each with about equally many of the timesteps."""
    distinct = sorted({round(t, 3) for t in timesteps})
    count = min(bands, len(distinct))
    firsts = [distinct[i * len(distinct) // count] for i in range(1, count)]
    before = [distinct[i * len(distinct) // count - 1] for i in range(1, count)]
    return (0.0, *((low + high) / 2 for low, high in zip(before, firsts, strict=True)), TIMESTEPS)


def patches_in_band(pictures: Sequence[Sequence[Fired]], labels: Labels, low: float, high: float) -> Patches:
    """Gather the patches of all calls in a band; the first and last band take what lies beyond."""
    whole = labels.cover.shape[1] == 1
    parts = []
    for number, calls in enumerate(pictures):
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


@dataclass(frozen=True, eq=False)
class Finding:
    """A concept and how well it was found.

    Attributes:
        concept: it may have bands without latents, which detect nothing.
        found: one a band.
    """

    concept: Concept
    found: list[Found]

    @property
    def warning(self) -> str:
        """What the artist must be told, "" if all is well."""
        lost = [i for i, found in enumerate(self.found) if not found.band.latents]
        best = max(found.auc for found in self.found)
        if len(lost) == len(self.found):
            return (
                f"WARNING: no latent of this SAE tells '{self.concept.name}' apart: on what was held out the best AUC "
                f"is {best:.2f} (0.5 is chance, {self.found[0].needed:.2f} is needed). The concept finds nothing. Look "
                "whether the pictures show it at all, try other prompts or more pictures, or an SAE of another block."
            )
        if lost:
            spans = ", ".join(self._span(i) for i in lost)
            return (
                f"Warning: not told apart at timesteps {spans}, where the concept finds nothing. An object usually "
                "comes back if it is not erased at nearly all steps."
            )
        return ""

    def _span(self, band: int) -> str:
        low, high = self.concept.band_edges[band : band + 2]
        return f"{low:.0f}-{high:.0f}"

    def summary(self) -> str:
        """Return the warning, then AUC and number of latents in each band, noisiest first."""
        bands = [
            f"t {self._span(i)}: AUC {found.auc:.2f}, {len(found.band.latents)} latents"
            for i, found in reversed(list(enumerate(self.found)))
        ]
        text = f"'{self.concept.name}', held-out separation (0.5 is chance): " + "; ".join(bands) + "."
        return f"{self.warning}\n{text}" if self.warning else text


def find_concept(
    name: str,
    owner: SAEIdentity,
    num_latents: int,
    pictures: Sequence[Sequence[Fired]],
    labels: Labels,
    bands: int,
    way: str = WAYS[0],
    percentile: float = 99.99,
    others: int = 1,
) -> Finding:
    """Find a concept's latents in each timestep band.

    Args:
        name: of the concept.
        owner, num_latents: of the SAE.
        pictures: what fired, see Fired.
        labels: which pictures, or patches, hold the concept.
        bands: at most; fewer if there are fewer timesteps.
        way: see `WAYS`.
        percentile, others: for the paper's way, see ``find_by_percentile``.
    """
    edges = band_edges([call.timestep for call in pictures[0]], bands)
    found = []
    for low, high in pairwise(edges):
        patches = patches_in_band(pictures, labels, low, high)
        if way == WAYS[0]:
            found.append(find_by_detection(patches, num_latents))
        else:
            found.append(find_by_percentile(patches, num_latents, percentile, others))
    combine = "sum" if way == WAYS[0] else "any"
    concept = Concept(name, edges, tuple(each.band for each in found), combine, owner)
    return Finding(concept, found)
