"""Collect patch embeddings, or an SAE's latents of them, while a model samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sae_models.loaded import LoadedSAE
from ..sae_models.sae import as_read
from ..sae_models.sparse_codes import encode_sparsely
from .calls import CONDITIONAL, Forward, NonFiniteActivations, RunInfo


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
        part: the share of the sampling range (0..1) to watch, as ComfyUI's start_percent and end_percent.
    """

    def __init__(
        self, hookpoints: Sequence[str], reads: str = "output", part: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self.hookpoints = list(hookpoints)
        self.reads = reads
        self.part = part
        self._sigmas = (float("inf"), 0.0)
        self.collected: list[Captured] = []

    def sampling_ranges(self) -> list[tuple[float, float]]:
        """The part that is watched."""
        return [self.part]

    def begin(self, info: RunInfo) -> None:
        """Learn which noise levels are watched; what was collected stays until it is taken."""
        (self._sigmas,) = info.sigma_ranges

    def end(self) -> None:
        """Nothing to clean up."""

    def take(self) -> list[Captured]:
        """Return what was collected since the last call, and forget it."""
        taken, self.collected = self.collected, []
        return taken

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, forward: Forward) -> Tensor:
        """Note the conditional chunks of a block's output; return it unchanged."""
        highest, lowest = self._sigmas
        if not lowest < forward.sigma <= highest:
            return output
        for chunk, half in enumerate(forward.halves):
            if half == CONDITIONAL:
                rows = forward.rows(chunk, len(output))
                self.keep(hookpoint, forward.timestep, as_read(self.reads, x[rows], output[rows]))
        return output

    def keep(self, hookpoint: str, timestep: float, read: Tensor) -> None:
        """Note what was read of one chunk, [B, C, H, W]."""
        embeddings = read.flatten(2).transpose(1, 2).to("cpu", torch.float16)
        self.collected.append(Captured(hookpoint, timestep, embeddings, (read.shape[-2], read.shape[-1])))


@dataclass(frozen=True, eq=False)
class FiredLatents:
    """Which latents fired in the conditional half of one call.

    Attributes:
        timestep: 0..999.
        values: [B, H * W, k] float16, zero or more, strongest first.
        indices: of the latents, [B, H * W, k] int32.
        grid: (H, W).
    """

    timestep: float
    values: Tensor
    indices: Tensor
    grid: tuple[int, int]


class LatentCapture(Capture):
    """Watches what one SAE sees, and keeps its few firing latents instead of the embeddings.

    Args:
        sae: must be loaded beside the model, see ``model_patcher.attach_observer``.
    """

    def __init__(self, sae: LoadedSAE) -> None:
        super().__init__([sae.config.hookpoint], sae.config.reads)
        self.sae = sae
        self.fired: list[FiredLatents] = []

    def take_fired(self) -> list[FiredLatents]:
        """Return what was collected since the last call, and forget it."""
        taken, self.fired = self.fired, []
        return taken

    def keep(self, hookpoint: str, timestep: float, read: Tensor) -> None:
        """Encode what was read of one chunk.

        Raises:
            NonFiniteActivations: it holds NaN or infinity.
        """
        values, indices = encode_sparsely(self.sae.module, read.flatten(2).transpose(1, 2))
        if not torch.isfinite(values).all():
            raise NonFiniteActivations(
                f"the activations of {hookpoint} hold NaN or infinity at timestep {timestep:.0f}. The model itself is "
                "producing invalid values: try another precision (for example --force-fp32)"
            )
        self.fired.append(FiredLatents(timestep, values, indices, (read.shape[-2], read.shape[-1])))
