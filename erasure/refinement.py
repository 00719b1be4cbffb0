"""Refinement: shape a mask on the grid of patches. Masks are bool [B, H, W], on any device."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

# Patches that touch at a corner belong together.
NEIGHBORS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True, eq=False)
class Refinement:
    """What to do with a mask, in this order: min_area, persistence, close, min_patches, grow, region.

    Attributes:
        persistence: a patch detected at this many noise levels stays detected to the end; 0 is off.
        close: fill holes and gaps up to twice this many patches wide.
        min_patches: drop connected groups (eight neighbors) of fewer patches; 0 and 1 drop none.
        grow: grow by this many patches in each direction, or shrink if negative.
        region: [M, h, w] in 0..1, M = 1 or one an image of the run; patches where it is below one half are never
            detected. None is everywhere.
        min_area: share (0..1) of an image that must be detected at one noise level before any of it counts, from then
            on it does. 0 is off.
    """

    persistence: int = 0
    close: int = 0
    min_patches: int = 0
    grow: int = 0
    region: Tensor | None = None
    min_area: float = 0.0

    @property
    def is_neutral(self) -> bool:
        """True if it changes nothing."""
        shapes = self.persistence or self.close or self.min_patches > 1 or self.grow or self.min_area > 0
        return not shapes and self.region is None


def grow(mask: Tensor, patches: int) -> Tensor:
    """Dilate by a square of ``patches`` in each direction, or erode if it is negative. bool [B, H, W]."""
    operation = _morphology().dilation if patches > 0 else _morphology().erosion
    return operation(mask[:, None].float(), _kernel(abs(patches), mask.device))[:, 0] > 0.5


def close_holes(mask: Tensor, radius: int) -> Tensor:
    """Morphological closing with a square of the given radius. bool [B, H, W]."""
    # Without a margin, what lies between a group and the edge of the grid would count as a gap.
    padded = F.pad(mask[:, None].float(), (radius,) * 4)
    closed = _morphology().closing(padded, _kernel(radius, mask.device))
    return closed[:, 0, radius:-radius, radius:-radius] > 0.5


def _morphology() -> Any:
    """Return kornia's operations. ComfyUI installs kornia but does not require it, so only those who shape need it."""
    try:
        from kornia import morphology
    except ImportError as error:
        raise ImportError(
            "Mask Refiner: inputs 'grow' and 'close_holes' need the Python package kornia, which ComfyUI usually "
            "installs. Install it with 'pip install kornia', or set both to 0."
        ) from error
    return morphology


def _kernel(radius: int, device: torch.device) -> Tensor:
    return torch.ones(2 * radius + 1, 2 * radius + 1, device=device)


def drop_specks(mask: Tensor, min_patches: int) -> Tensor:
    """Drop connected groups of fewer than ``min_patches`` patches. bool [B, H, W].

    It runs on the CPU: the mask is moved there and back, which waits for the device once.
    """
    kept = []
    for image in mask.cpu().numpy():
        labels, _ = ndimage.label(image, NEIGHBORS)
        sizes = np.bincount(labels.ravel())
        kept.append((sizes[labels] >= min_patches) & image)
    return torch.from_numpy(np.stack(kept)).to(mask.device, non_blocking=True)


def resize_mask(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Carry a mask to another grid: a patch is set if it touches a set one. bool [B, H, W] -> bool [B, *grid]."""
    return mask if mask.shape[-2:] == grid else resize_score(mask.float(), grid) > 0.5


def resize_score(score: Tensor, grid: tuple[int, int]) -> Tensor:
    """Carry scores to another grid; the largest of those that a patch touches counts. [B, H, W] -> [B, *grid]."""
    return score if score.shape[-2:] == grid else F.adaptive_max_pool2d(score[:, None], grid)[:, 0]


def region_on_grid(region: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring a mask [M, h, w] in 0..1 of any size to a grid: bool [M, *grid], patches at least half covered."""
    return F.interpolate(region[:, None].float(), size=grid, mode="area")[:, 0] >= 0.5


def shape(mask: Tensor, settings: Refinement, region: Tensor | None = None) -> Tensor:
    """Apply everything but persistence and min_area, which need the earlier steps. bool [B, H, W].

    Args:
        mask: what was detected.
        settings: what to do.
        region: where patches may be detected, bool [B or 1, H, W]; None is everywhere.
    """
    if settings.close:
        mask = close_holes(mask, settings.close)
    if settings.min_patches > 1:
        mask = drop_specks(mask, settings.min_patches)
    if settings.grow:
        mask = grow(mask, settings.grow)
    return mask if region is None else mask & region
