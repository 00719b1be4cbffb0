"""How a way to erase is spelled on the command line.

``"HOOKPOINT similar positive 1.0 share=0.25 at=middle"``: SAE hookpoints joined by ``+``, each perhaps with a
range of its own (``@0-0.3``), replacement, which prompts are edited, sensitivity, and optionally ``start-end`` percent.
``share=`` is the share of source patches, 1 if left out; ``at=`` the blocks to edit, with commas, or ``middle`` for the
middle and the SAE's, only the SAE's if left out. ``grow=``, ``close=``, ``min_patches=``, ``persistence=`` and
``min_area=`` are those of the Mask Refiner. ``rest=keep`` keeps the rest of the image, with ``attempts=``; ``fill=`` is
then ``omit`` (the prompt without the target), ``empty`` (an empty scene in its style) or ``swap`` (the prompt
with another object, see ``new_object``). Steering is ``"HOOKPOINT SAeUron both -5"``: hookpoint, method,
which prompts, strength, and optionally ``start-end``, ``latents=`` (the best so many features) and ``error=``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...demo_model.vocabulary import OBJECTS, caption
from ...erasure.detection import DetectionTree, blocks_read
from ...erasure.keep import Rest
from ...erasure.refinement import Refinement
from ...erasure.replacement import Replacement
from ...sae_models import shipped
from ...sae_models.concepts import Concept, ConceptBand
from ...steering.steering import METHODS, Steering
from .prompts import Prompt

SITE = shipped.DEFAULT  # the block that the shipped SAE of choice reads
MIDDLE = "middle_block.1"
MIDDLE_TOO = "middle"
ONE_PASS = f"similar positive 1.0 share=0.25 at={MIDDLE_TOO}"  # the nodes' own but for ``rest``, after the hookpoint
KEPT = f"{ONE_PASS} rest=keep"
FILLS = LEFT_OUT, EMPTY, SWAP = ("omit", "empty", "swap")


def span_of(text: str) -> tuple[float, float]:
    """Read ``start-end``."""
    start, end = text.split("-")
    return float(start), float(end)


@dataclass(frozen=True)
class Setting:
    """One way to erase.

    Attributes:
        sites: hookpoints of the SAEs, each perhaps with a range.
        replacement: how patches are replaced, unless latents are steered.
        at: the blocks to edit; see ``blocks``.
        sensitivity, start, end: see Detector.
        refinement: of the mask.
        attempts: of two passes that keep the rest; 0 where the rest may change.
        fill: one of FILLS; "" for none.
        steering: what is done instead of replacing patches; None for replacement.
        latents: how many of the concept's features are steered; None for all.
    """

    sites: tuple[str, ...]
    replacement: Replacement = field(default_factory=Replacement)
    at: tuple[str, ...] = ()
    sensitivity: float = 1.0
    start: float = 0.0
    end: float = 1.0
    refinement: Refinement = field(default_factory=Refinement)
    attempts: int = 0
    fill: str = ""
    steering: Steering | None = None
    latents: int | None = None

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """The sites without their ranges."""
        return tuple(site.partition("@")[0] for site in self.sites)

    def blocks(self, tree: DetectionTree) -> Sequence[str] | None:
        """Return the blocks to edit, as ``erasure.attach.attach`` takes them."""
        return None if self.at == (MIDDLE_TOO,) else self.at or blocks_read(tree)

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Read a setting as the command line spells it."""
        parts = [part for part in text.split() if "=" not in part]
        extras = dict(part.split("=") for part in text.split() if "=" in part)
        usual = (Replacement().mode, Replacement().apply_to, "1.0", "0-1")
        mode, apply_to, strength, span = (*parts[1:], *usual[len(parts) - 1 :])
        start, end = span_of(span)
        if mode in METHODS:
            steering = Steering(mode, float(strength), extras.get("error", "exact"), apply_to)
            latents = int(extras["latents"]) if "latents" in extras else None
            return cls((parts[0],), start=start, end=end, steering=steering, latents=latents)
        kept = extras.pop("rest", "change") == "keep"
        attempts, fill = int(extras.pop("attempts", Rest().attempts)), extras.pop("fill", "")
        at = tuple(name for name in extras.pop("at", "").split(",") if name)
        replacement = Replacement(mode, apply_to, source_share=float(extras.pop("share", 1)))
        min_area = float(extras.pop("min_area", 0))
        refinement = Refinement(**{key: int(value) for key, value in extras.items()}, min_area=min_area)
        if fill and (fill not in FILLS or not kept):
            raise ValueError(f"fill={fill} in {text!r}: known with rest=keep are {', '.join(FILLS)}")
        sites = tuple(parts[0].split("+"))
        return cls(sites, replacement, at, float(strength), start, end, refinement, attempts if kept else 0, fill)


def new_object(target: str) -> str:
    """Return what a target is swapped for."""
    return OBJECTS[(OBJECTS.index(target) + 7) % len(OBJECTS)]


def fill_text(fill: str, target: str, prompt: Prompt) -> str:
    """Return the text of a fill for one prompt."""
    if fill == LEFT_OUT:
        return prompt.without(target)
    if fill == EMPTY:
        return caption([], prompt.style)
    return caption([new_object(target) if name == target else name for name in prompt.objects], prompt.style)


def best_features(concept: Concept, count: int | None) -> Concept:
    """Return a concept with only its best features by score in each band; all of them where count is None."""
    if count is None:
        return concept

    def best(band: ConceptBand) -> ConceptBand:
        order = sorted(range(len(band.features)), key=lambda i: -band.scores[i])[:count]
        parts = (band.features, band.thresholds, band.scores, band.means)
        return ConceptBand(*(tuple(part[i] for i in order if part) for part in parts))

    return replace(concept, bands=tuple(best(band) for band in concept.bands))
