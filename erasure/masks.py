"""The masks of one sampling run: what each detector answered last, and what the whole tree makes of it.

Masks are kept for each *key*: one conditioning of some images, see ``unet.calls.Chunk``. The tree is evaluated once an
answer, on the finest grid of the detectors below each node, so that a number of patches means the same wherever the
mask is used; it is then resized to the grid of the block that asks.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..unet.calls import Run, any_active, is_active
from .detection import Detection, DetectionTree, Detector, Join, Refine, detectors, refinements
from .refinement import Refinement, region_on_grid, resize_mask, resize_score, shape


@dataclass
class _Counts:
    """How often each patch was detected, before and including the noise level at hand, int [B, H, W]."""

    sigma: Tensor
    before: Tensor
    now: Tensor


class MaskState:
    """Masks of one detection during one sampling run.

    Args:
        tree: what to find.
        run: the run; its notes are not touched.

    Raises:
        ValueError: a region holds neither one mask nor one for each image of the run.
    """

    def __init__(self, tree: DetectionTree, run: Run) -> None:
        self.tree = tree
        self._limits = {id(each): run.sigma_range(each.start, each.end) for each in detectors(tree)}
        self._detectors = list(detectors(tree))
        self._latest: dict[Hashable, dict[int, Detection]] = {}
        self._masks: dict[Hashable, Tensor] = {}
        self._counts: dict[tuple[int, Hashable], _Counts] = {}
        self._confirmed: dict[tuple[int, Hashable], Tensor] = {}
        self._regions: dict[tuple[int, tuple[int, int], torch.device], Tensor] = {}
        for each in refinements(tree):
            _check_region(each, run.images)

    def is_active(self, detector: Detector, sigma: Tensor) -> Tensor | None:
        """Tell whether a detector looks at a noise level, see ``unet.calls.is_active``."""
        return is_active(sigma, self._limits[id(detector)])

    def any_active(self, sigma: Tensor) -> Tensor | None:
        """Tell whether any detector looks at a noise level."""
        return any_active([self.is_active(each, sigma) for each in self._detectors])

    def update(self, detector: Detector, key: Hashable, detection: Detection) -> None:
        """Note what a detector has just answered, [B, H, W] each."""
        self._latest.setdefault(key, {})[id(detector)] = detection
        self._masks.pop(key, None)

    def forget(self, key: Hashable) -> None:
        """Forget what belongs to a key that will not come again."""
        self._latest.pop(key, None)
        self._masks.pop(key, None)
        for kept in (self._counts, self._confirmed):
            for each in [each for each in kept if each[1] == key]:
                del kept[each]

    def mask(self, key: Hashable, sigma: Tensor, images: Sequence[int] | None) -> Tensor | None:
        """Return what the tree makes of the newest answer of every detector.

        A detector whose block runs later in the UNet contributes what it answered in the step before.

        Args:
            key: whose mask.
            sigma: noise level of this call, [].
            images: places of the images in the run's batch, for the region; None if they are unknown.

        Returns:
            bool [B, H, W] on the detectors' finest grid, or None if none has answered yet.
        """
        if key not in self._latest:
            return None
        if key not in self._masks:
            mask = self._evaluate(self.tree, key, sigma, images)
            if mask is None:
                return None
            self._masks[key] = mask
        return self._masks[key]

    def raw_score(self, key: Hashable, grid: tuple[int, int]) -> Tensor:
        """Return how strongly each patch speaks for any of the concepts, by the newest answer of every detector.

        How detectors are joined and refined plays no part: this is to rank what was not detected.

        Args:
            key: see ``mask``, which gave a mask for it.
            grid: (H, W) of the feature map in question.

        Returns:
            float [B, *grid].
        """
        resized = []
        for each in self._latest[key].values():
            score = each.raw_score if each.active is None else torch.where(each.active, each.raw_score, 0.0)
            resized.append(resize_score(score, grid))
        return resized[0] if len(resized) == 1 else torch.stack(resized).amax(0)

    def score(self, key: Hashable, images: Sequence[int] | None) -> Tensor:
        """Return how strongly each patch speaks for what the whole tree looks for, by the newest answers.

        A union has the larger raw score of its sides, an intersection the smaller one; of refinements only the region
        counts. It is zero where something that speaks against the concept keeps a patch from being detected.

        Args:
            key: see ``mask``, which gave a mask for it.
            images: as for ``mask``.

        Returns:
            float [B, H, W] on the detectors' finest grid.
        """
        found = self._score(self.tree, key, images)
        assert found is not None, "mask() gave a mask for this key"
        return found

    def _score(self, node: DetectionTree, key: Hashable, images: Sequence[int] | None) -> Tensor | None:
        if isinstance(node, Detector):
            seen = self._latest[key].get(id(node))
            if seen is None:
                return None
            counts = seen.active
            if any(band.against for band in node.concept.bands):
                # What speaks against the concept is in the mask alone.
                counts = seen.mask if counts is None else seen.mask & counts
            return seen.raw_score if counts is None else torch.where(counts, seen.raw_score, 0.0)
        if isinstance(node, Refine):
            score = self._score(node.source, key, images)
            region = None if score is None else self._region(node.refinement, score, images)
            return score if score is None or region is None else torch.where(region, score, 0.0)
        first, second = (self._score(side, key, images) for side in (node.first, node.second))
        if first is None or second is None:
            return None if node.mode == "intersection" else second if first is None else first
        finest = max((side.shape[-2:] for side in (first, second)), key=lambda size: size[0] * size[1])
        first, second = (resize_score(side, (int(finest[0]), int(finest[1]))) for side in (first, second))
        return torch.maximum(first, second) if node.mode == "union" else torch.minimum(first, second)

    def _evaluate(
        self, node: DetectionTree, key: Hashable, sigma: Tensor, images: Sequence[int] | None
    ) -> Tensor | None:
        if isinstance(node, Detector):
            seen = self._latest[key].get(id(node))
            if seen is None:
                return None
            return seen.mask if seen.active is None else seen.mask & seen.active
        if isinstance(node, Join):
            first, second = (self._evaluate(side, key, sigma, images) for side in (node.first, node.second))
            return _join(node.mode, first, second)
        mask = self._evaluate(node.source, key, sigma, images)
        if mask is None:
            return None
        if node.refinement.min_area > 0:
            mask = self._confirm(node, key, mask)
        if node.refinement.persistence:
            mask = self._persist(node, key, sigma, mask)
        return shape(mask, node.refinement, self._region(node.refinement, mask, images))

    def _confirm(self, node: Refine, key: Hashable, mask: Tensor) -> Tensor:
        """Clear the masks of images in which too little has been detected at once so far."""
        enough = mask.flatten(1).float().mean(1) >= node.refinement.min_area
        before = self._confirmed.get((id(node), key))
        self._confirmed[id(node), key] = enough = enough if before is None else before | enough
        return mask & enough[:, None, None]

    def _persist(self, node: Refine, key: Hashable, sigma: Tensor, mask: Tensor) -> Tensor:
        counts = self._counts.get((id(node), key))
        if counts is None or counts.now.shape != mask.shape:
            counts = _Counts(sigma, torch.zeros_like(mask, dtype=torch.int32), mask.int())
        else:
            # The same noise level again (a second call of the same step) replaces what it said before.
            before = torch.where(counts.sigma == sigma, counts.before, counts.now)
            counts = _Counts(sigma, before, before + mask)
        self._counts[id(node), key] = counts
        return mask | (counts.now >= node.refinement.persistence)

    def _region(self, refinement: Refinement, mask: Tensor, images: Sequence[int] | None) -> Tensor | None:
        """Return where patches of some images may be detected, bool [B or 1, H, W]; None is everywhere."""
        if refinement.region is None:
            return None
        grid = int(mask.shape[-2]), int(mask.shape[-1])
        key = id(refinement), grid, mask.device
        if key not in self._regions:
            small = region_on_grid(refinement.region, grid)
            self._regions[key] = small.to(mask.device, non_blocking=True)
        small = self._regions[key]
        if len(small) == 1:
            return small
        # Images of a batch mostly are the whole of it, in order; a window holds some of them.
        whole = images is None or list(images) == list(range(len(small)))
        return small if whole else torch.stack([small[i] for i in images or ()])


def _check_region(refinement: Refinement, images: int) -> None:
    held = 1 if refinement.region is None else len(refinement.region)
    if held not in (1, images):
        raise ValueError(
            f"Mask Refiner: input 'region' holds {held} masks, but {images} image(s) are sampled. Connect one mask for "
            "all images, or one for each."
        )


def _join(mode: str, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        # Nothing seen by one side leaves nothing in common.
        return None if mode == "intersection" else second if first is None else first
    finest = max((side.shape[-2:] for side in (first, second)), key=lambda size: size[0] * size[1])
    grid = int(finest[0]), int(finest[1])
    first, second = resize_mask(first, grid), resize_mask(second, grid)
    return first | second if mode == "union" else first & second
