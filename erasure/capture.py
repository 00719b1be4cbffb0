"""Collect patch embeddings while a model samples: the material for training and calibrating SAEs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .eraser import Forward, RunInfo
from .record import CONDITIONAL


@dataclass(frozen=True, eq=False)
class Captured:
    """The conditional half of one block's output in one call.

    Attributes:
        hookpoint: the block.
        timestep: 0..999.
        embeddings: [B, H * W, C] float16 on the CPU.
        grid: (H, W).
    """

    hookpoint: str
    timestep: float
    embeddings: Tensor
    grid: tuple[int, int]


class Capture:
    """Watches blocks without changing anything. Attach it with ``model_patcher.attach_observer``.

    Args:
        hookpoints: blocks to watch.
        reads: ``output`` or ``output_minus_input``, as in SAEConfig.
    """

    def __init__(self, hookpoints: Sequence[str], reads: str = "output") -> None:
        self.hookpoints = list(hookpoints)
        self.reads = reads
        self.collected: list[Captured] = []

    def sampling_ranges(self) -> list[tuple[float, float]]:
        """No part of the sampling range is special."""
        return []

    def begin(self, info: RunInfo) -> None:
        """Nothing to prepare; what was collected stays until it is taken."""

    def end(self) -> None:
        """Nothing to clean up."""

    def take(self) -> list[Captured]:
        """Return what was collected since the last call, and forget it."""
        taken, self.collected = self.collected, []
        return taken

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, forward: Forward) -> Tensor:
        """Note the conditional chunks of a block's output; return it unchanged."""
        images = output.shape[0] // len(forward.halves)
        for chunk, half in enumerate(forward.halves):
            if half == CONDITIONAL:
                rows = slice(chunk * images, (chunk + 1) * images)
                read = output[rows] if self.reads == "output" else output[rows] - x[rows]
                embeddings = read.flatten(2).transpose(1, 2).to("cpu", torch.float16)
                grid = (output.shape[-2], output.shape[-1])
                self.collected.append(Captured(hookpoint, forward.timestep, embeddings, grid))
        return output
