"""Find the features of a concept in each timestep band, then again by where in the images it was located."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..sae_models.concepts import Concept
from ..sae_models.identity import SAEIdentity
from .labelling import Fired, Labels, band_edges, located, patches_in_band
from .selection import LEAST_AUC, Found, Patches, evidence_in, find_by_detection, find_by_percentile, judged

# Chosen on the tuning split, with six objects: docs/decisions/0009.
REFITS = 2
MASKED_REFITS = 5  # from a few masked patches on, it takes longer until other styles are reached
# Where noise hides most, patches are told apart less well, and one step with a poor detector is better than none.
LEAST_LOCATED_AUC = 0.6
WAYS = ("held-out detection", "percentile (paper)")


@dataclass(frozen=True, eq=False)
class Finding:
    """A concept and how well it was found.

    Attributes:
        concept: it may have bands without features, which detect nothing.
        found: one a band.
    """

    concept: Concept
    found: list[Found]

    @property
    def warning(self) -> str:
        """What the artist must be told, "" if all is well."""
        lost = [i for i, found in enumerate(self.found) if not found.band.features]
        best = max(found.auc for found in self.found)
        if len(lost) == len(self.found):
            return (
                f"WARNING: no feature of this SAE tells '{self.concept.name}' apart: on what was held out the best AUC "
                f"is {best:.2f} (0.5 is chance, {self.found[0].needed:.2f} is needed). The concept finds nothing. Look "
                "whether the images show it at all, try other prompts or more images, or an SAE of another block."
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
        """Return the warning, if there is one, then the figures."""
        return f"{self.warning}\n{self.figures()}" if self.warning else self.figures()

    def figures(self) -> str:
        """Return AUC and number of features in each band, noisiest first."""
        bands = [
            f"t {self._span(i)}: AUC {found.auc:.2f}, {len(found.band.features)} features"
            for i, found in reversed(list(enumerate(self.found)))
        ]
        return f"'{self.concept.name}', held-out separation (0.5 is chance): " + "; ".join(bands) + "."


def find_concept(
    name: str,
    owner: SAEIdentity,
    num_features: int,
    images: Sequence[Sequence[Fired]],
    labels: Labels,
    bands: int,
    way: str = WAYS[0],
    percentile: float = 99.99,
    others: int = 1,
) -> Finding:
    """Find a concept's features in each timestep band.

    Args:
        name: of the concept.
        owner, num_features: of the SAE.
        images: what fired, see Fired.
        labels: which images, or patches, hold the concept.
        bands: at most; fewer if there are fewer timesteps.
        way: see `WAYS`.
        percentile, others: for the paper's way, see ``find_by_percentile``.
    """
    edges = band_edges([call.timestep for call in images[0]], bands)

    def in_bands(known: Labels) -> Iterator[Patches]:
        return (patches_in_band(images, known, low, high) for low, high in pairwise(edges))

    def search(bands: Iterable[Patches], least: float = LEAST_AUC) -> Finding:
        if way == WAYS[0]:
            found = [find_by_detection(patches, num_features, least) for patches in bands]
        else:
            found = [find_by_percentile(patches, num_features, percentile, others) for patches in bands]
        combine = "sum" if way == WAYS[0] else "any"
        return Finding(Concept(name, edges, tuple(each.band for each in found), combine, owner), found)

    given = list(in_bands(labels))
    finding = search(given)
    refits = REFITS if labels.sought is None else MASKED_REFITS
    for _ in range(refits if way == WAYS[0] else 0):
        regions = located(images, labels, finding.concept, num_features)
        if regions is None:
            break
        finding = _judged_on(given, search(in_bands(regions), LEAST_LOCATED_AUC), num_features)
    return finding


def _judged_on(given: Sequence[Patches], finding: Finding, num_features: int) -> Finding:
    """Judge each band anew by the patches as they were given, since the regions that it was fitted to were found.

    Few masked patches say little where there is much noise. If most bands do well by them, the others stay that did
    well by the regions that were found.
    """
    found = []
    for each, patches in zip(finding.found, given, strict=True):
        held = patches.rows(patches.held)
        found.append(judged(each.band, evidence_in(each.band, held.values, held.indices, num_features), held))
    if not given[0].whole and 2 * sum(bool(each.band.features) for each in found) > len(found):
        found = [replace(new, band=old.band) for new, old in zip(found, finding.found, strict=True)]
    bands = tuple(each.band for each in found)
    return Finding(replace(finding.concept, bands=bands), found)
