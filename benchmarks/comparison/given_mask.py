"""Replacement with a mask from outside."""

from torch import Tensor

from ...erasure.refinement import resize_mask
from ...erasure.replacement import replace_patches, similar_sources
from ...unet.calls import POSITIVE, Call, patches_of
from ...unet.hooks import Observer
from ..framework.settings import MIDDLE, SITE


class GivenMask(Observer):
    """Replaces given patches by others of the same feature map, which and where as the Patch Replacer's defaults do it.

    But for one thing: any patch outside may be a source patch, because nothing says which of them score low.

    Args:
        masks: of each image of the run, bool [B, H, W], on any grid.
    """

    hookpoints = (MIDDLE, SITE)

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, call: Call) -> Tensor:
        """Return a block's output with the masked patches of the positive prompts replaced."""
        inside = resize_mask(self.masks, (output.shape[-2], output.shape[-1])).flatten(1)
        edited = output.clone()
        for chunk in call.chunks:
            if chunk.role != POSITIVE:
                continue
            assert chunk.images is not None
            part, mask = output[chunk.rows], inside[list(chunk.images)]
            edited[chunk.rows] = replace_patches(part, similar_sources(patches_of(part), mask, ~mask))
        return edited
