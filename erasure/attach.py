"""Attach a detection and a replacement to a model."""

from collections.abc import Sequence

from comfy.model_patcher import ModelPatcher

from ..unet.blocks import check_fit, hookpoints, require_blocks
from ..unet.hooks import attach_observer
from ..unet.passes import attach_director, director_of
from .detection import DetectionTree, blocks_read, detectors
from .eraser import Eraser, Show
from .history import ErasureRecord
from .keep import Keeper, Member, Rest
from .replacement import Replacement


def attach(
    model: ModelPatcher,
    tree: DetectionTree,
    replacement: Replacement,
    blocks: Sequence[str] | None = None,
    rest: Rest | None = None,
    show: Show | None = None,
) -> tuple[ModelPatcher, ErasureRecord]:
    """Return a clone of the model that detects and replaces while it samples, and the record of what it does.

    Args:
        model: left as it is.
        tree: what to find.
        replacement: what to do where it is found.
        blocks: the UNet modules to edit; None for those of ``usual_blocks``.
        rest: how the rest of the image is kept; None if it may change.
        show: is told of each step, see ``eraser.Show``; None if nobody watches.

    Raises:
        ValueError: an SAE does not fit the model, or it lacks a block where patches are to be replaced.
    """
    used = list(detectors(tree))
    for detector in used:
        check_fit(model, detector.sae, "Patch Replacer")
    blocks = usual_blocks(model, tree) if blocks is None else blocks
    require_blocks(model, blocks)
    record = ErasureRecord()
    patchers = {id(detector.sae.patcher): detector.sae.patcher for detector in used}
    eraser = Eraser(tree, replacement, record, blocks)
    eraser.show = show
    # What only looks changes nothing.
    if rest is not None and replacement.mode != "none":
        model = _kept(model, Member(eraser, rest))
    return attach_observer(model, eraser, list(patchers.values())), record


def _kept(model: ModelPatcher, member: Member) -> ModelPatcher:
    """Return a clone of the model that keeps the rest, for one more Patch Replacer: all of them share two passes."""
    before = director_of(model)
    members = before.members if isinstance(before, Keeper) else ()
    return attach_director(model, Keeper([*members, member]))


def usual_blocks(model: ModelPatcher, tree: DetectionTree) -> list[str]:
    """Return where patches are replaced unless the artist says otherwise: in the middle, and where the SAEs read."""
    # Some pruned UNets have no transformer in their middle.
    middle = [path for path in hookpoints(model) if path.startswith("middle_block")]
    return list(dict.fromkeys([*middle, *blocks_read(tree)]))
