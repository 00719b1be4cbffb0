"""The masks of one sampling run: what each leaf saw last, and what the whole detection makes of it.

Masks are kept for each *stream*: one conditioning (positive, negative, a regional prompt) of one run, named by
the uuid that ComfyUI gives it. Within a stream a mask is bool [B, H, W] and a likeness float [B, H, W], on the CPU.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .detection import Detect, Detection, Join, Look, Refine, leaves
from .refinement import refine, resize_mask


@dataclass
class _Persistence:
    """Counts of how often each cell was detected, before and including the noise level at hand."""

    sigma: float
    before: Tensor
    now: Tensor


class MaskState:
    """Masks of one detection during one sampling run.

    Args:
        detection: the tree.
        is_active: tells whether a leaf looks at a given sigma (its start and end percent).
    """

    def __init__(self, detection: Detection, is_active: Callable[[Detect, float], bool]) -> None:
        self.detection = detection
        self.is_active = is_active
        self._seen: dict[tuple[int, Hashable], Look] = {}
        self._persistence: dict[tuple[int, Hashable, tuple[int, ...]], _Persistence] = {}
        self._confirmed: dict[tuple[int, Hashable, int], Tensor] = {}

    def update(self, leaf: Detect, stream: Hashable, look: Look) -> None:
        """Note what a leaf has just seen in a stream, [B, H, W] each."""
        self._seen[id(leaf), stream] = look

    def mask(self, stream: Hashable, sigma: float, grid: tuple[int, int]) -> Tensor | None:
        """Evaluate the detection with the newest mask of every leaf.

        A leaf whose block runs later in the UNet contributes what it saw in the step before.

        Args:
            stream: which conditioning.
            sigma: noise level of this forward pass.
            grid: (H, W) of the feature map in question.

        Returns:
            bool [B, H, W], or None if no leaf looks at this noise level or none has seen anything yet.
        """
        return self._evaluate(self.detection, stream, sigma, grid)

    def likeness(self, stream: Hashable, sigma: float, grid: tuple[int, int]) -> Tensor:
        """Return how much each cell is like any of the concepts, by the newest look of every leaf.

        How leaves are joined and refined plays no part: this is to rank what was not detected.

        Args:
            stream, sigma, grid: see ``mask``, which gave a mask for them.

        Returns:
            float [B, H, W].
        """
        active = [leaf for leaf in leaves(self.detection) if self.is_active(leaf, sigma)]
        seen = [self._seen[id(leaf), stream].likeness for leaf in active if (id(leaf), stream) in self._seen]
        resized = [
            each if each.shape[-2:] == grid else F.adaptive_max_pool2d(each[:, None], grid)[:, 0] for each in seen
        ]
        return resized[0] if len(resized) == 1 else torch.stack(resized).amax(0)

    def _evaluate(self, node: Detection, stream: Hashable, sigma: float, grid: tuple[int, int]) -> Tensor | None:
        if isinstance(node, Detect):
            seen = self._seen.get((id(node), stream)) if self.is_active(node, sigma) else None
            return None if seen is None else resize_mask(seen.detected, grid)
        if isinstance(node, Join):
            first = self._evaluate(node.first, stream, sigma, grid)
            second = self._evaluate(node.second, stream, sigma, grid)
            return _join(node.mode, first, second)
        mask = self._evaluate(node.source, stream, sigma, grid)
        if mask is None:
            return None
        if node.refinement.least_share > 0:
            mask = self._confirm(node, stream, mask)
        if node.refinement.persistence:
            mask = self._persist(node, stream, sigma, mask)
        return refine(mask, node.refinement)

    def _confirm(self, node: Refine, stream: Hashable, mask: Tensor) -> Tensor:
        """Clear the masks of images in which too little has been detected at once so far."""
        # A share means the same on every grid; a number of cells would not.
        enough = mask.flatten(1).float().mean(1) >= node.refinement.least_share
        key = id(node), stream, len(mask)
        self._confirmed[key] = self._confirmed.get(key, torch.zeros_like(enough)) | enough
        return mask & self._confirmed[key][:, None, None]

    def _persist(self, node: Refine, stream: Hashable, sigma: float, mask: Tensor) -> Tensor:
        key = (id(node), stream, tuple(mask.shape))
        counts = self._persistence.get(key)
        if counts is None:
            counts = _Persistence(sigma, torch.zeros_like(mask, dtype=torch.int32), mask.int())
        elif counts.sigma == sigma:
            # The same noise level again (a second pass of the same step): replace what it said before.
            counts = _Persistence(sigma, counts.before, counts.before + mask)
        else:
            counts = _Persistence(sigma, counts.now, counts.now + mask)
        self._persistence[key] = counts
        return mask | (counts.now >= node.refinement.persistence)


def _join(mode: str, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if mode == "union":
        if first is None or second is None:
            return second if first is None else first
        return first | second
    # Nothing seen by one side leaves nothing in common.
    return None if first is None or second is None else first & second
