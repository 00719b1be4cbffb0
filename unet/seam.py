"""Make what is edited in a region continue what lies around it. PyTorch alone; no ComfyUI in here.

A model that draws a region anew, with all around it given, likes other colors there than its surroundings have: the
noise that it starts from once became the object. So the step across the region's border is taken away, and with it what
that step says about the inside: a smooth correction that is the step at the border, as in gradient-domain cloning
(Perez et al., 2003), here by weights of inverse distance instead of a solver.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Along the border the step is averaged over about so many cells: what was left of an object there is not spread.
ALONG = 2.0
NEAREST = 0.5  # added to squared distances
# Weights of one region that are held at once: 64 MiB. Beyond that, on very large latents, the border is thinned out.
MOST_AT_ONCE = 2**24


class _Part(NamedTuple):
    """One image's region.

    Attributes:
        cells: of the region, indices int64 [m] into H * W.
        border: cells along its border, on both sides, [n].
        along: how steps are averaged along the border, [n, k]; columns sum to 1.
        across: how each cell follows the border, [k, m]; columns sum to 1.
    """

    cells: Tensor
    border: Tensor
    along: Tensor
    across: Tensor


class Seam:
    """The borders of a batch's regions, prepared once for all steps of a run.

    Args:
        free: the regions, bool [B, H, W] on the CPU. Nothing is corrected in one that is empty or the whole image.
        device: where predictions will be.
    """

    def __init__(self, free: Tensor, device: torch.device) -> None:
        self.size = tuple(free.shape[-2:])
        inside = free[:, None].float()
        self._sides = [(side.to(device), _near(side).clamp(min=1e-6).to(device)) for side in (inside, 1 - inside)]
        self._parts = [
            (image, _Part(*(each.to(device, non_blocking=True) for each in _part(region))))
            for image, region in enumerate(free)
            if bool(region.any()) and not bool(region.all())
        ]

    def continued(self, edited: Tensor, around: Tensor, strength: Tensor) -> Tensor:
        """Return predictions whose regions continue what lies around them.

        Args:
            edited: predictions in which the regions were edited, [B, C, H, W].
            around: predictions of the unedited run.
            strength: 0 to leave them as they are, 1 for all of it; [B] or [].
        """
        if tuple(edited.shape[-2:]) != self.size or edited.ndim != 4 or not self._parts:
            return edited
        within, beyond = (
            _near(each.to(edited.device, torch.float32) * side) / number
            for each, (side, number) in zip((edited, around), self._sides, strict=True)
        )
        step = ((beyond - within) * strength.reshape(-1, 1, 1, 1)).flatten(2)
        # In its own precision, so that no other value is rounded.
        result = edited.flatten(2).clone()
        for image, part in self._parts:
            spread = step[image, :, part.border] @ part.along @ part.across
            result[image, :, part.cells] += spread.to(result.dtype)
        return result.view_as(edited)


def _near(x: Tensor) -> Tensor:
    """Return the mean over each cell and its neighbors."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _part(region: Tensor) -> _Part:
    """Prepare a region, bool [H, W]."""
    alike = region[None, None].float()
    outer = (F.max_pool2d(alike, 3, 1, 1) > 0)[0, 0] & ~region
    inner = (F.max_pool2d(1 - alike, 3, 1, 1) > 0)[0, 0] & region
    cells, border = region.nonzero().float(), (outer | inner).nonzero().float()
    kept = border[:: 1 + len(cells) * len(border) // MOST_AT_ONCE]
    along = torch.exp(-torch.cdist(border, kept).square() / (2 * ALONG**2))
    across = 1 / (torch.cdist(kept, cells).square() + NEAREST)
    places = [mask.flatten().nonzero()[:, 0] for mask in (region, outer | inner)]
    return _Part(places[0], places[1], along / along.sum(0), across / across.sum(0))
