"""What the detectors of one Patch Replacer answered in one run, laid over the whole images of the run.

It is noted on the device of the model and brought to the CPU once, when the run is over.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..unet.calls import Call, Chunk
from .refinement import resize_mask, resize_score
from .transfer import on_cpu

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Seen:
    """All answers of a run, first step to last, on the CPU.

    Attributes:
        timesteps: 0..999, float [T]; only of steps in which any image was looked at.
        mask: which patches held the concept, bool [T, B, h, w].
        score: raw score of each patch, see Detection; float [T, B, h, w].
        known: whether an image was looked at in a step, bool [T, B].
    """

    timesteps: Tensor
    mask: Tensor
    score: Tensor
    known: Tensor


@dataclass(frozen=True, eq=False)
class _Answer:
    step: int
    chunk: Chunk
    timestep: Tensor
    mask: Tensor
    score: Tensor
    active: Tensor | None


class Evidence:
    """Collects answers while a run lasts."""

    def __init__(self) -> None:
        self._answers: dict[tuple, _Answer] = {}
        self.unplaced = False

    def note(self, chunk: Chunk, call: Call, mask: Tensor, score: Tensor, active: Tensor | None) -> None:
        """Note the answer for a chunk; a later block's, in the same step, takes the place of an earlier one's.

        Args:
            chunk, call: whose.
            mask, score: bool and float [B, h, w].
            active: whether any detector looks at this noise level, bool []; None for always.
        """
        if not chunk.is_placed:
            self.unplaced = True
            return
        self._answers[call.step, chunk.key] = _Answer(call.step, chunk, call.timestep, mask, score, active)

    def gather(self, images: int, size: Grid) -> Seen | None:
        """Bring everything to the CPU, and forget it.

        Args:
            images: of the run.
            size: (height, width) of the latent image.

        Returns:
            None if no detector looked.
        """
        answers, self._answers = list(self._answers.values()), {}
        if not answers:
            return None
        always = torch.ones((), dtype=torch.bool, device=answers[0].mask.device)
        tensors = [
            each
            for answer in answers
            for each in (
                answer.timestep.float(),
                answer.mask,
                answer.score.float(),
                always if answer.active is None else answer.active,
            )
        ]
        moved = iter(on_cpu(tensors))
        on_host = [
            replace(each, timestep=next(moved), mask=next(moved), score=next(moved), active=next(moved))
            for each in answers
        ]
        # Steps that no detector looked at are noted where only the device knew it.
        looked = [each for each in on_host if bool(each.active)]
        if not looked:
            return None
        grid = max((_whole_grid(answer, size) for answer in looked), key=lambda grid: grid[0] * grid[1])
        steps = sorted({answer.step for answer in looked})
        timesteps = torch.zeros(len(steps))
        mask = torch.zeros(len(steps), images, *grid, dtype=torch.bool)
        score, known = torch.zeros(len(steps), images, *grid), torch.zeros(len(steps), images, dtype=torch.bool)
        for answer in looked:
            row = steps.index(answer.step)
            timesteps[row] = answer.timestep
            rows, columns = _place(answer.chunk, size, grid)
            part = rows.stop - rows.start, columns.stop - columns.start
            found, raw = resize_mask(answer.mask, part), resize_score(answer.score, part)
            for image, one, strength in zip(answer.chunk.images or (), found, raw, strict=True):
                mask[row, image, rows, columns] |= one
                score[row, image, rows, columns] = torch.maximum(score[row, image, rows, columns], strength)
                known[row, image] = True
        return Seen(timesteps, mask, score, known)


def _whole_grid(answer: _Answer, size: Grid) -> Grid:
    """Return the grid that the whole image would have at the block of an answer."""
    grid = int(answer.mask.shape[-2]), int(answer.mask.shape[-1])
    if answer.chunk.area is None:
        return grid
    height, width = (
        max(1, round(whole * n / part)) for whole, n, part in zip(size, grid, answer.chunk.area[:2], strict=True)
    )
    return height, width


def _place(chunk: Chunk, size: Grid, grid: Grid) -> tuple[slice, slice]:
    """Return the rows and columns of a grid of the whole image that a chunk covers."""
    if chunk.area is None:
        return slice(0, grid[0]), slice(0, grid[1])
    height, width, top, left = chunk.area
    first, last = round(top * grid[0] / size[0]), round((top + height) * grid[0] / size[0])
    start, end = round(left * grid[1] / size[1]), round((left + width) * grid[1] / size[1])
    return slice(min(first, grid[0] - 1), max(last, first + 1)), slice(min(start, grid[1] - 1), max(end, start + 1))


class RegionMask:
    """A region of a run's images, for any chunk and grid.

    Args:
        region: where an edit may act, bool [B, H, W] on the latent's grid.
    """

    def __init__(self, region: Tensor) -> None:
        self.region = region
        self._kept: dict[tuple, tuple[Tensor, Tensor]] = {}

    def on_grid(self, chunk: Chunk, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return which patches of a chunk lie in the region, and which touch it, bool [B, *grid] each.

        Args:
            chunk: one that ``is_placed``.
            grid: (height, width) of a feature map.
            device: where the answer is needed.
        """
        key = chunk.images, chunk.area, grid, device
        if key not in self._kept:
            rows = self.region[list(chunk.images or ())]
            if chunk.area is not None:
                height, width, top, left = chunk.area
                rows = rows[:, top : top + height, left : left + width]
            covered = F.adaptive_avg_pool2d(rows[:, None].float(), grid)[:, 0]
            both = torch.stack([covered >= COVERED, resize_mask(rows, grid)])
            inside, touched = both.to(device, non_blocking=True)
            self._kept[key] = inside, touched
        return self._kept[key]


# Share of a patch that must lie in the region for the patch to count as inside.
COVERED = 0.5
