"""From what fired while pictures were drawn to patches in timestep bands, and from those to a concept."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ..sae_models.concepts import Concept
from ..sae_models.identity import SAEIdentity
from .selection import LEAST_AUC, Found, Patches, evidence_in, find_by_detection, find_by_percentile, judged

MAX_PATCHES = 400_000  # in a band; more say no more
TIMESTEPS = 1000.0
INSIDE, OUTSIDE = 0.5, 0.02  # share of a patch that is covered; patches between are left out
UNKNOWN = (INSIDE + OUTSIDE) / 2
# Chosen on the tuning split, with six objects: docs/decisions/0009.
REFITS = 2
PAINTED_REFITS = 5  # from a few painted places on, it takes longer until other styles are reached
# Where noise hides most, patches are told apart less well, and one step with a poor detector is better than none.
LEAST_IN_PLACES = 0.6
CERTAIN = 0.999  # share of the patches without the concept that one with it must exceed
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
        sought: pictures that show the concept somewhere, but nobody knows where, bool [pictures]; None for all that
            are covered as a whole.
    """

    cover: Tensor
    held: Tensor
    sought: Tensor | None = None

    @property
    def where_unknown(self) -> Tensor:
        """Pictures in which the concept can only be looked for, bool [pictures]."""
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

    def in_bands(known: Labels) -> Iterator[Patches]:
        return (patches_in_band(pictures, known, low, high) for low, high in pairwise(edges))

    def search(bands: Iterable[Patches], least: float = LEAST_AUC) -> Finding:
        if way == WAYS[0]:
            found = [find_by_detection(patches, num_latents, least) for patches in bands]
        else:
            found = [find_by_percentile(patches, num_latents, percentile, others) for patches in bands]
        combine = "sum" if way == WAYS[0] else "any"
        return Finding(Concept(name, edges, tuple(each.band for each in found), combine, owner), found)

    given = list(in_bands(labels))
    finding = search(given)
    refits = REFITS if labels.sought is None else PAINTED_REFITS
    for _ in range(refits if way == WAYS[0] else 0):
        places = located(pictures, labels, finding.concept, num_latents)
        if places is None:
            break
        finding = _judged_on(given, search(in_bands(places), LEAST_IN_PLACES), num_latents)
    return finding


def located(pictures: Sequence[Sequence[Fired]], labels: Labels, concept: Concept, num_latents: int) -> Labels | None:
    """Tell where in drawn pictures a concept is, from what is known of it so far.

    A picture's patches keep their places while it is drawn, so the steps with little noise, in which a concept is told
    apart well, say where it is in those with much.

    Args:
        pictures, labels: as for ``find_concept``; some pictures lie wholly outside.
        concept: as found so far.
        num_latents: of the SAE.

    Returns:
        Labels of patches: where the concept was sought, 1 if the mean score over all calls exceeds that of nearly all
        patches of the pictures outside, else unknown; elsewhere as before. None if that leaves nothing to fit or to
        check.
    """
    sought, outside = labels.where_unknown, (labels.cover < OUTSIDE).all(1)
    if not sought.any() or not outside.any():
        return None
    scores = torch.stack([_mean_score(calls, concept, num_latents) for calls in pictures])
    certain = (scores > torch.quantile(scores[outside].flatten(), CERTAIN)) & sought[:, None]
    if not certain[labels.held].any() or not certain[~labels.held].any():
        return None
    cover = torch.where(certain, 1.0, UNKNOWN)
    cover[~sought] = labels.cover[~sought].expand(-1, cover.shape[1])
    return Labels(cover, labels.held)


def _mean_score(calls: Sequence[Fired], concept: Concept, num_latents: int) -> Tensor:
    """Return the evidence for a concept in each patch of a picture, mean over the calls that can tell, [P]."""
    bands = [concept.bands[concept.band_index(call.timestep)] for call in calls]
    scores = [
        evidence_in(band, call.values[0], call.indices[0], num_latents)
        for band, call in zip(bands, calls, strict=True)
        if band.latents
    ]
    return torch.stack(scores).mean(0) if scores else torch.zeros(calls[0].values.shape[1])


def _judged_on(given: Sequence[Patches], finding: Finding, num_latents: int) -> Finding:
    """Judge each band anew by the patches as they were given, since the places that it was fitted to were found.

    Few painted patches say little where there is much noise. If most bands do well by them, the others stay that did
    well by the places that were found.
    """
    found = []
    for each, patches in zip(finding.found, given, strict=True):
        held = patches.rows(patches.held)
        found.append(judged(each.band, evidence_in(each.band, held.values, held.indices, num_latents), held))
    if not given[0].whole and 2 * sum(bool(each.band.latents) for each in found) > len(found):
        found = [replace(new, band=old.band) for new, old in zip(found, finding.found, strict=True)]
    bands = tuple(each.band for each in found)
    return Finding(replace(finding.concept, bands=bands), found)
