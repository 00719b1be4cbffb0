"""The record of what one Patch Replacer did: which cells it detected and replaced at each step.

Only small CPU tensors are kept, and only of the latest sampling run.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..unet.calls import CONDITIONAL, UNCONDITIONAL
from .refinement import resize_mask
from .statistics import Statistics


@dataclass(frozen=True, eq=False)
class StepEntry:
    """What happened at one block, in one conditioning, at one noise level.

    Attributes:
        hookpoint: the block.
        half: CONDITIONAL or UNCONDITIONAL.
        sigma, timestep: the noise level, both ways.
        mask: detected cells, bool [B, H, W].
        replaced: number of replaced cells of each image.
        whole_image: False if the conditioning covered only an area of the image.
        looked: False if the block was only edited, by a mask that another block gave, perhaps a step before.
        before, after: its patch embeddings in numbers, as the block gave them and as they were passed on.
    """

    hookpoint: str
    half: int
    sigma: float
    timestep: float
    mask: Tensor
    replaced: tuple[int, ...]
    whole_image: bool = True
    looked: bool = True
    before: Statistics | None = None
    after: Statistics | None = None


@dataclass
class RunRecord:
    """One sampling run.

    Attributes:
        number: 1 for the first run of this Patch Replacer since it was executed.
        seed: noise seed of the run, None if the sampler gave none.
        images: batch size.
        latent_size: (height, width) of the latent image.
        entries: by (hookpoint, stream, sigma); a repeated pass overwrites its entry.
        notes: why something was left as it was, and how often.
    """

    number: int
    seed: int | None
    images: int
    latent_size: tuple[int, int]
    entries: dict[tuple[str, Hashable, float], StepEntry] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def sigmas(self) -> list[float]:
        """Return the noise levels of the run, noisiest first."""
        return sorted({entry.sigma for entry in self.entries.values()}, reverse=True)

    def timestep(self, sigma: float) -> float:
        """Return the timestep (0..999) that belongs to a recorded noise level."""
        return next(entry.timestep for entry in self.entries.values() if entry.sigma == sigma)

    def grid(self) -> tuple[int, int] | None:
        """Return the finest token grid (H, W) with a mask of the whole image, None if there is none."""
        grids = [(entry.mask.shape[-2], entry.mask.shape[-1]) for entry in self.entries.values() if entry.whole_image]
        return max(grids, key=lambda grid: grid[0] * grid[1], default=None)

    def step_mask(self, sigma: float) -> Tensor:
        """Return what was detected at one noise level, by any block in any conditioning.

        The unconditional half counts only where no conditional one was looked at.

        Returns:
            bool [B, H, W] on the finest grid; all False if nothing covers the whole image.
        """
        grid = self.grid() or (1, 1)
        union = torch.zeros(self.images, *grid, dtype=torch.bool)
        for half in (CONDITIONAL, UNCONDITIONAL):
            found = [
                entry
                for entry in self.entries.values()
                if entry.sigma == sigma and entry.half == half and entry.whole_image and entry.looked
            ]
            for entry in found:
                union = union | resize_mask(entry.mask, grid)
            if found:
                break
        return union

    def heat(self) -> Tensor:
        """Return the share of steps (0..1) in which each cell was detected, float [B, H, W]."""
        sigmas = self.sigmas()
        grid = self.grid() or (1, 1)
        total = torch.zeros(self.images, *grid)
        for sigma in sigmas:
            total += self.step_mask(sigma)
        return total / max(len(sigmas), 1)

    def shared_statistics(self, reference: "RunRecord | None") -> list[tuple[Statistics, Statistics]]:
        """Pair the numbers of this run's patch embeddings with those of an unedited run, for each block and step.

        Args:
            reference: the record of an unedited run; None compares with what the blocks gave in this run before
                they were edited.

        Returns:
            (this run's, unedited) of the conditional half; empty if the runs have no block and step in common.
        """
        pairs = []
        for (hookpoint, _, sigma), entry in self.entries.items():
            if entry.half != CONDITIONAL or not entry.whole_image or entry.after is None or entry.before is None:
                continue
            unedited = entry.before if reference is None else reference.statistics_at(hookpoint, sigma)
            if unedited is not None and unedited.norms.shape == entry.after.norms.shape:
                pairs.append((entry.after, unedited))
        return pairs

    def statistics_at(self, hookpoint: str, sigma: float) -> Statistics | None:
        """Return what a block passed on at one noise level in the conditional half, None if it is not known."""
        for entry in self.entries.values():
            if (entry.hookpoint, entry.sigma, entry.half) == (hookpoint, sigma, CONDITIONAL) and entry.whole_image:
                return entry.after
        return None

    def replaced_shares(self, image: int) -> list[float]:
        """Return which share (0..1) of an image's cells was replaced at each noise level, noisiest first.

        Where several blocks were edited, the largest share counts.
        """
        shares = dict.fromkeys(self.sigmas(), 0.0)
        for entry in self.entries.values():
            if entry.whole_image and entry.half == CONDITIONAL:
                share = entry.replaced[image] / entry.mask[image].numel()
                shares[entry.sigma] = max(shares[entry.sigma], share)
        return list(shares.values())

    def replaced(self) -> int:
        """Return how many patch embeddings were replaced in the whole run."""
        return sum(sum(entry.replaced) for entry in self.entries.values())

    def summary(self) -> str:
        """Return one or two sentences for a person."""
        if not self.entries:
            return f"Run {self.number} (seed {self.seed}): the detector did not look at any step."
        share = float(self.heat().mean())
        text = (
            f"Run {self.number} (seed {self.seed}, {self.images} image(s), {len(self.sigmas())} steps looked at): "
            f"{share:.1%} of all cells detected, {self.replaced()} patch embeddings replaced."
        )
        for note, count in self.notes.items():
            text += f" {note} ({count} times)."
        return text


class ErasureRecord:
    """The handle that travels through the ERASURE_RECORD socket; it always shows the latest run.

    ComfyUI may take the Patch Replacer from its cache and run only the sampler again, so the handle outlives a
    run and each run begins its content anew.
    """

    def __init__(self) -> None:
        self.latest: RunRecord | None = None
        self._runs = 0

    def begin(self, seed: int | None, images: int, latent_size: tuple[int, int]) -> RunRecord:
        """Start the record of a new run and make it the latest."""
        self._runs += 1
        self.latest = RunRecord(self._runs, seed, images, latent_size)
        return self.latest
