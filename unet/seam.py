"""Make what is edited in a region continue what lies around it. PyTorch alone; no ComfyUI in here.

A model that draws a region anew, with all around it given, likes other colors there than its surroundings have: the
noise that it starts from once became the object. So the step across the region's border is taken away, and with it what
that step says about the inside: a smooth correction that is the step at the border, as in gradient-domain cloning
(Perez et al., 2003), here by weights of inverse distance instead of a solver.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Along the border the step is averaged over about so many cells: what was left of an object there is not spread.
ALONG = 2.0
NEAREST = 0.5  # added to squared distances


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
        self._parts: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for image, region in enumerate(free):
            if bool(region.any()) and not bool(region.all()):
                cells, border, weights = (each.to(device, non_blocking=True) for each in _weights(region))
                self._parts.append((image, cells, border, weights))

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
        for image, cells, border, weights in self._parts:
            result[image, :, cells] += (step[image, :, border] @ weights).to(result.dtype)
        return result.view_as(edited)


def _near(x: Tensor) -> Tensor:
    """Return the mean over each cell and its neighbors."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _weights(region: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a region's cells, those along its border on both sides, and how each cell follows the border.

    Args:
        region: bool [H, W].

    Returns:
        indices int64 [m] and [n] into H * W, and weights [n, m], whose columns sum to 1.
    """
    alike = region[None, None].float()
    outer = (F.max_pool2d(alike, 3, 1, 1) > 0)[0, 0] & ~region
    inner = (F.max_pool2d(1 - alike, 3, 1, 1) > 0)[0, 0] & region
    cells, border = region.nonzero().float(), (outer | inner).nonzero().float()
    along = torch.exp(-torch.cdist(border, border).square() / (2 * ALONG**2))
    across = 1 / (torch.cdist(cells, border).square() + NEAREST)
    weights = across / across.sum(1, keepdim=True) @ (along / along.sum(1, keepdim=True))
    return region.flatten().nonzero()[:, 0], (outer | inner).flatten().nonzero()[:, 0], weights.T.contiguous()
