"""Attach a detection and a replacement to a model."""

from dataclasses import replace

from comfy.model_patcher import ModelPatcher

from ..unet.blocks import check_fit, hookpoints, require_blocks
from ..unet.hooks import attach_observer
from .detection import Detection, leaves
from .eraser import Eraser
from .record import ErasureRecord
from .replacement import LISTED, MIDDLE_TOO, Replacement


def attach(model: ModelPatcher, detection: Detection, replacement: Replacement) -> tuple[ModelPatcher, ErasureRecord]:
    """Return a clone of the model that detects and replaces while it samples, and the record of what it does.

    Raises:
        ValueError: an SAE does not fit the model, or it lacks a block where patches are to be replaced.
    """
    used = list(leaves(detection))
    for leaf in used:
        check_fit(model, leaf.sae, "Patch Replacer")
    replacement = _placed(model, detection, replacement)
    record = ErasureRecord()
    patchers = {id(leaf.sae.patcher): leaf.sae.patcher for leaf in used}
    patched = attach_observer(model, Eraser(detection, replacement, record), list(patchers.values()))
    return patched, record


def _placed(model: ModelPatcher, detection: Detection, replacement: Replacement) -> Replacement:
    """Return a replacement with its blocks listed, if they are not just those that the SAEs read."""
    if replacement.where == MIDDLE_TOO:
        # Some pruned UNets have no transformer in their middle.
        middle = [path for path in hookpoints(model) if path.startswith("middle_block")]
        blocks = [*middle, *(leaf.hookpoint for leaf in leaves(detection))]
        return replace(replacement, where=LISTED, at=tuple(dict.fromkeys(blocks)))
    require_blocks(model, replacement.at)
    return replacement
