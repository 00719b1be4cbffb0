"""What to look for: an immutable tree of detectors, and what one detector answers.

Its leaves (``Detector``) ask one SAE for one concept; ``Join`` and ``Refine`` combine and shape the masks. The tree
says what to do; ``scorer.py`` answers for one detector, and ``masks.py`` carries the answers through a sampling run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..sae_models.concepts import Concept
from ..sae_models.loaded import LoadedSAE
from .refinement import Refinement

JOINS = ("union", "intersection")


class Detection(NamedTuple):
    """One detector's answer for one call, on the device of the feature map.

    Attributes:
        mask: which patches hold the concept, bool.
        raw_score: how strongly each patch speaks for the concept before other features compete, float from 0, same
            shape. A patch of the mask has more than one.
        active: whether the detector looks at this noise level, bool []; None for always.
        each: the same as ``mask`` for each concept of the detector, with one dimension more in front; None if nobody
            needs it.
    """

    mask: Tensor
    raw_score: Tensor
    active: Tensor | None = None
    each: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Detector:
    """Find one concept, or any of several, with one SAE.

    Attributes:
        sae: the SAE, which also says where in the UNet it reads.
        concept: features and thresholds.
        sensitivity: divides the thresholds; 1 uses them as they are, 0 detects nothing.
        start, end: share of the sampling range (0..1) in which it looks, as ComfyUI's start_percent and
            end_percent.
        also: further concepts of the same SAE; a patch is detected where any of them is found.
    """

    sae: LoadedSAE
    concept: Concept
    sensitivity: float = 1.0
    start: float = 0.0
    end: float = 1.0
    also: tuple[Concept, ...] = ()

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """All that it finds."""
        return (self.concept, *self.also)

    @property
    def hookpoint(self) -> str:
        """The UNet module it reads."""
        return self.sae.config.hookpoint


@dataclass(frozen=True, eq=False)
class Join:
    """Union or intersection of two detections."""

    mode: str
    first: "DetectionTree"
    second: "DetectionTree"

    def __post_init__(self) -> None:
        if self.mode not in JOINS:
            raise ValueError(f"join mode {self.mode!r}; known are {', '.join(JOINS)}")


@dataclass(frozen=True, eq=False)
class Refine:
    """A detection whose mask is shaped on the grid of its detectors."""

    source: "DetectionTree"
    refinement: Refinement


DetectionTree = Detector | Join | Refine


def detectors(tree: DetectionTree) -> Iterator[Detector]:
    """Yield every detector of a tree, first to last."""
    if isinstance(tree, Detector):
        yield tree
    elif isinstance(tree, Join):
        yield from detectors(tree.first)
        yield from detectors(tree.second)
    else:
        yield from detectors(tree.source)


def refinements(tree: DetectionTree) -> Iterator[Refinement]:
    """Yield every refinement of a tree."""
    if isinstance(tree, Refine):
        yield tree.refinement
        yield from refinements(tree.source)
    elif isinstance(tree, Join):
        yield from refinements(tree.first)
        yield from refinements(tree.second)


def blocks_read(tree: DetectionTree) -> tuple[str, ...]:
    """Return the UNet modules that the detectors of a tree read, without repetition."""
    return tuple(dict.fromkeys(detector.hookpoint for detector in detectors(tree)))
