"""Replacement with a mask from outside."""

import torch.nn.functional as F
from torch import Tensor

from ...erasure.replacement import Edit, alike_donors, replace_patches
from ...unet.calls import CONDITIONAL, Forward, RunInfo
from ..framework.settings import MIDDLE, SITE


class GivenMask:
    """Replaces given patches by others of the same map, which and where as the Patch Replacer's defaults do it.

    But for one thing: any patch outside may be a source patch, because nothing says which of them score low.

    Args:
        masks: of each image of the batch, bool [B, 16, 16].
    """

    hookpoints = (MIDDLE, SITE)

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks

    def sampling_ranges(self) -> list[tuple[float, float]]:
        """No part of the sampling range is special."""
        return []

    def begin(self, info: RunInfo) -> None:
        """Nothing to set up."""

    def end(self) -> None:
        """Nothing to clean up."""

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, forward: Forward) -> Tensor:
        """Return a block's output with the masked patches of the conditional half replaced."""
        grid = output.shape[-2:]
        inside = F.adaptive_max_pool2d(self.masks[:, None].float(), grid)[:, 0].flatten(1) > 0
        edited = output.clone()
        for chunk, half in enumerate(forward.halves):
            if half != CONDITIONAL:
                continue
            for image, mask in enumerate(inside.numpy()):
                targets, free = mask.nonzero()[0], (~mask).nonzero()[0]
                if not len(targets) or not len(free):
                    continue
                row = chunk * len(self.masks) + image
                donors = alike_donors(output[row].flatten(1).T, targets, free)
                replace_patches(edited, [Edit(row, targets, row, donors)], output)
        return edited
