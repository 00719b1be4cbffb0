"""How a way to erase is spelled on the command line.

SAE hookpoints joined by ``+``, each perhaps with a range of its own (``@0-0.3``), replacement, halves, sensitivity, and
optionally ``start-end`` percent, ``donors=`` (their share) and ``at=`` (blocks with commas, or ``middle`` for the
middle and the SAE's) as in the Patch Replacer, and ``grow=``, ``close=``, ``min_cells=``, ``persistence=``,
``least_share=`` as in the Mask Refiner. Steering is ``"output_blocks.1.1 SAeUron both -5"``: hookpoint, method, halves,
strength, and optionally ``start-end``, ``latents=`` (the best so many) and ``error=``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...erasure.refinement import Refinement
from ...erasure.replacement import LISTED, MIDDLE_TOO, SAE_BLOCK, Replacement
from ...sae_models.concepts import Concept, ConceptBand
from ...steering.steering import METHODS, Steering

SITE = "output_blocks.1.1"  # the block that the shipped SAE of choice reads
MIDDLE = "middle_block.1"
DEFAULTS = "alike conditional 1.0 donors=0.25 at=middle"  # the nodes' own, after the hookpoint


def at_blocks(replacement: Replacement, blocks: Sequence[str]) -> Replacement:
    """Return a replacement that edits these blocks; without any, those that the SAEs read."""
    return replace(replacement, where=LISTED if blocks else SAE_BLOCK, at=tuple(blocks))


def span_of(text: str) -> tuple[float, float]:
    """Read ``start-end``."""
    start, end = text.split("-")
    return float(start), float(end)


@dataclass(frozen=True)
class Setting:
    """One way to erase."""

    sites: tuple[str, ...]
    replacement: Replacement = field(default_factory=Replacement)
    sensitivity: float = 1.0
    start: float = 0.0
    end: float = 1.0
    refinement: Refinement = field(default_factory=Refinement)
    steering: Steering | None = None
    latents: int | None = None

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """The sites without their ranges."""
        return tuple(site.partition("@")[0] for site in self.sites)

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Read a setting as the command line spells it."""
        parts = [part for part in text.split() if "=" not in part]
        extras = dict(part.split("=") for part in text.split() if "=" in part)
        usual = (Replacement().mode, "conditional", "1.0", "0-1")
        mode, halves, strength, span = (*parts[1:], *usual[len(parts) - 1 :])
        start, end = span_of(span)
        if mode in METHODS:
            steering = Steering(mode, float(strength), extras.get("error", "exact"), halves)
            latents = int(extras["latents"]) if "latents" in extras else None
            return cls((parts[0],), start=start, end=end, steering=steering, latents=latents)
        at = extras.pop("at", "")
        replacement = Replacement(mode, halves, donor_share=float(extras.pop("donors", 1)), where=MIDDLE_TOO)
        if at != "middle":
            replacement = at_blocks(replacement, [name for name in at.split(",") if name])
        least_share = float(extras.pop("least_share", 0))
        refinement = Refinement(**{key: int(value) for key, value in extras.items()}, least_share=least_share)
        return cls(tuple(parts[0].split("+")), replacement, float(strength), start, end, refinement)


def best_features(concept: Concept, count: int | None) -> Concept:
    """Return a concept with only its best features by score in each band; all of them where count is None."""
    if count is None:
        return concept

    def best(band: ConceptBand) -> ConceptBand:
        order = sorted(range(len(band.latents)), key=lambda i: -band.scores[i])[:count]
        parts = (band.latents, band.thresholds, band.scores, band.means)
        return ConceptBand(*(tuple(part[i] for i in order if part) for part in parts))

    return replace(concept, bands=tuple(best(band) for band in concept.bands))
