"""Refinement: shape a mask on the token grid. Masks are bool [B, H, W]."""

from dataclasses import dataclass

import torch
from kornia.contrib import connected_components
from kornia.morphology import closing, dilation, erosion
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Refinement:
    """What to do with a mask, in this order.

    Attributes:
        persistence: a cell detected at this many noise levels stays detected to the end; 0 is off.
        close: fill holes and gaps up to twice this many cells wide.
        min_cells: drop connected groups (eight neighbours) of fewer cells; 0 and 1 drop none.
        grow: grow by this many cells in each direction, or shrink if negative.
        region: [M, h, w] in 0..1, M = 1 or one an image; cells where it is below one half are never
            detected. None is everywhere.
        least_share: share (0..1) of an image's cells that must be detected at one noise level before any of them count,
            from then on they do; looked at before all else. 0 is off.
    """

    persistence: int = 0
    close: int = 0
    min_cells: int = 0
    grow: int = 0
    region: Tensor | None = None
    least_share: float = 0.0

    @property
    def is_neutral(self) -> bool:
        """True if it changes nothing."""
        shapes = self.persistence or self.close or self.min_cells > 1 or self.grow or self.least_share > 0
        return not shapes and self.region is None


def _kernel(radius: int) -> Tensor:
    return torch.ones(2 * radius + 1, 2 * radius + 1)


def close_holes(mask: Tensor, radius: int) -> Tensor:
    """Morphological closing with a square of the given radius. bool [B, H, W] -> bool [B, H, W]."""
    # Without a margin, what lies between a group and the edge of the grid would count as a gap.
    padded = F.pad(mask[:, None].float(), (radius,) * 4)
    closed = closing(padded, _kernel(radius))[:, 0, radius:-radius, radius:-radius]
    return closed > 0.5


def grow(mask: Tensor, cells: int) -> Tensor:
    """Dilate by ``cells``, or erode if it is negative. bool [B, H, W] -> bool [B, H, W]."""
    operation = dilation if cells > 0 else erosion
    return operation(mask[:, None].float(), _kernel(abs(cells)))[:, 0] > 0.5


def drop_specks(mask: Tensor, min_cells: int) -> Tensor:
    """Drop connected groups of fewer than ``min_cells`` cells. bool [B, H, W] -> bool [B, H, W]."""
    height, width = mask.shape[-2:]
    # A label spreads one cell an iteration; the longest path through a grid is bounded by its area.
    labels = connected_components(mask[:, None].float(), num_iterations=height * width)[:, 0].long()
    kept = torch.zeros_like(mask)
    for image, label_map in enumerate(labels):
        _, inverse, counts = label_map.unique(return_inverse=True, return_counts=True)
        kept[image] = counts[inverse] >= min_cells
    return kept & mask


def resize_mask(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Carry a mask to another grid: a cell is set if it touches a set cell. bool [B, H, W] -> bool [B, *grid]."""
    if mask.shape[-2:] == grid:
        return mask
    return F.adaptive_max_pool2d(mask[:, None].float(), grid)[:, 0] > 0.5


def region_on_grid(region: Tensor, grid: tuple[int, int], images: int) -> Tensor:
    """Bring an artist's mask to the token grid.

    Args:
        region: [M, h, w] in 0..1 of any size.
        grid: (H, W) of the feature map.
        images: batch size B.

    Returns:
        bool [B, H, W]: cells at least half covered.

    Raises:
        ValueError: M is neither 1 nor B.
    """
    if region.shape[0] not in (1, images):
        raise ValueError(f"the region mask holds {region.shape[0]} masks for {images} images")
    small = F.interpolate(region[:, None].float(), size=grid, mode="area")[:, 0] >= 0.5
    return small.expand(images, *grid)


def refine(mask: Tensor, settings: Refinement) -> Tensor:
    """Apply everything but persistence, which needs the earlier steps. bool [B, H, W] -> bool [B, H, W]."""
    if settings.close:
        mask = close_holes(mask, settings.close)
    if settings.min_cells > 1:
        mask = drop_specks(mask, settings.min_cells)
    if settings.grow:
        mask = grow(mask, settings.grow)
    if settings.region is not None:
        mask = mask & region_on_grid(settings.region, (mask.shape[-2], mask.shape[-1]), len(mask))
    return mask
