"""Collect patch embeddings, or an SAE's latents of them, while a model samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sae_models.loaded import LoadedSAE
from ..sae_models.sae import as_read
from ..sae_models.sparse_codes import encode_sparsely
from .calls import POSITIVE, Call, NonFiniteActivations, Run, is_active, patches_of
from .hooks import Observer


@dataclass(frozen=True, eq=False)
class Captured:
    """The output of one block for the positive prompts of one call.

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


class Capture(Observer):
    """Watches blocks without changing anything. Attach it with ``unet.hooks.attach_observer``.

    What it keeps goes to the CPU at each call, so sampling waits for it.

    Args:
        hookpoints: blocks to watch.
        reads: ``output`` or ``output_minus_input``, as in SAEConfig.
        part: the share of the sampling range (0..1) to watch, as ComfyUI's start_percent and end_percent.
    """

    def __init__(
        self, hookpoints: Sequence[str], reads: str = "output", part: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self._hookpoints = list(hookpoints)
        self.reads = reads
        self.part = part
        self._limits: tuple[float, float] | None = None
        self.collected: list[Captured] = []

    @property
    def hookpoints(self) -> list[str]:
        """The blocks to watch."""
        return self._hookpoints

    def begin(self, run: Run) -> None:
        """Learn which noise levels are watched; what was collected stays until it is taken."""
        self._limits = run.sigma_range(*self.part)

    def take(self) -> list[Captured]:
        """Return what was collected since the last call, and forget it."""
        taken, self.collected = self.collected, []
        return taken

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, call: Call) -> Tensor:
        """Note a block's output for the positive prompts; return it unchanged."""
        active = is_active(call.sigma, self._limits)
        if active is not None and not bool(active):
            return output
        timestep = float(call.timestep)
        for chunk in call.chunks:
            if chunk.role == POSITIVE and not chunk.again:
                self.keep(hookpoint, timestep, as_read(self.reads, x[chunk.rows], output[chunk.rows]))
        return output

    def keep(self, hookpoint: str, timestep: float, read: Tensor) -> None:
        """Note what was read of one chunk, [B, C, H, W]."""
        embeddings = patches_of(read).to("cpu", torch.float16)
        self.collected.append(Captured(hookpoint, timestep, embeddings, (read.shape[-2], read.shape[-1])))


@dataclass(frozen=True, eq=False)
class FiredFeatures:
    """Which latents fired for the positive prompts of one call.

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


class FeatureCapture(Capture):
    """Watches what one SAE sees, and keeps its few firing latents instead of the embeddings.

    Args:
        sae: must be loaded beside the model, see ``unet.hooks.attach_observer``.
    """

    def __init__(self, sae: LoadedSAE) -> None:
        super().__init__([sae.config.hookpoint], sae.config.reads)
        self.sae = sae
        self.fired: list[FiredFeatures] = []

    def take_fired(self) -> list[FiredFeatures]:
        """Return what was collected since the last call, and forget it."""
        taken, self.fired = self.fired, []
        return taken

    def keep(self, hookpoint: str, timestep: float, read: Tensor) -> None:
        """Encode what was read of one chunk.

        Raises:
            NonFiniteActivations: it holds NaN or infinity.
        """
        values, indices = encode_sparsely(self.sae.module, patches_of(read))
        if not torch.isfinite(values).all():
            raise NonFiniteActivations(
                f"the activations of {hookpoint} hold NaN or infinity at timestep {timestep:.0f}. The model itself is "
                "producing invalid values: try another precision (for example --force-fp32)"
            )
        self.fired.append(FiredFeatures(timestep, values, indices, (read.shape[-2], read.shape[-1])))
