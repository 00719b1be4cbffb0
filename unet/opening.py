"""What a later pass of a run may change: where, from which noise, and how that meets what is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .seam import Seam


@dataclass(frozen=True, eq=False)
class Opening:
    """Where a later pass may differ from the first.

    Attributes:
        region: bool [B, h, w] on the CPU.
        at_end: a larger one that holds it, for the steps with little noise. They no longer draw anything new, but take
            away what was left of an object around the region, and blur the border.
        end: noise level (sigma) from which down that is so.
        continue_to: noise level (sigma) down to which each image's region is made to continue its surroundings, see
            ``seam``; float [B].
        number: of the pass, from 1. Each begins with other noise in the region: that of the first pass became the
            object, and would become something of its shape again.
    """

    region: Tensor
    at_end: Tensor
    end: float
    continue_to: Tensor
    number: int


class Edit:
    """An opening, prepared once for all steps of a pass.

    Args:
        opening: where, and how.
        device: where predictions will be.
    """

    def __init__(self, opening: Opening, device: torch.device) -> None:
        self.opening = opening
        self._region, self._at_end = (
            each[:, None].to(device, non_blocking=True) for each in (opening.region, opening.at_end)
        )
        self._seam = Seam(opening.region, device)
        self._continue_to = opening.continue_to.to(device, non_blocking=True)

    def free(self, sigma: Tensor) -> Tensor:
        """Return what may differ at noise levels [B], bool [B, 1, h, w]."""
        return torch.where((sigma <= self.opening.end)[:, None, None, None], self._at_end, self._region)

    def continued(self, edited: Tensor, around: Tensor, sigma: Tensor, same: Tensor) -> Tensor:
        """Let what was edited continue its surroundings.

        Args:
            edited, around: see ``Seam.continued``.
            sigma: noise levels, [B].
            same: whether the first pass was asked at these levels too, bool [B].
        """
        return self._seam.continued(edited, around, (same & (sigma >= self._continue_to)).float())

    def noise(self, noise: Tensor) -> Tensor:
        """Return the starting noise [B, ..., h, w] of the pass."""
        shape = (len(noise), *(1,) * (noise.ndim - 3), *noise.shape[-2:])
        region = resized(self.opening.region[:, None], noise.shape[-2:]).to(noise.device)
        return torch.where(region.view(shape), rearranged(noise, self.opening.number), noise)


def rearranged(noise: Tensor, number: int) -> Tensor:
    """Return noise [..., h, w] whose cells have changed places.

    Every image's change alike, so that one is the same alone and in a batch; and noise of any kind stays of its kind,
    none stays none.

    Args:
        noise: of any kind.
        number: of one order of the places; another has another.
    """
    flat = noise.flatten(-2)
    order = torch.randperm(flat.shape[-1], generator=torch.Generator().manual_seed(number))
    return flat[..., order.to(noise.device)].view_as(noise)


def resized(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a mask [B, 1, h, w] to the size of latents that a sampler has made larger or smaller."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    return F.adaptive_max_pool2d(mask.float(), (int(size[0]), int(size[1]))) > 0.5
