"""The published way to edit a block with an SAE, transcribed by us: what the pack's cost is compared with.

As SAeUron's and sdxl-unbox's hooks do it: every patch of both halves of the batch is encoded and decoded in float32,
and what the SAE does not explain is added again. Written with the pack's own fast encode and sparse decode, so the
comparison is not with slow code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..sae_models.sae import SparseAutoencoder, as_read
from ..unet.calls import Forward, RunInfo


class FullReconstruction:
    """An observer that multiplies latents of a block by zero. Attach it with ``attach_observer``.

    Args:
        sae: with its decoder, in float32.
        latents: which to silence.
    """

    def __init__(self, sae: SparseAutoencoder, latents: Sequence[int]) -> None:
        self.sae = sae
        self.latents = list(latents)
        self.hookpoints = [sae.config.hookpoint]

    def sampling_ranges(self) -> list[tuple[float, float]]:
        """It acts in all steps."""
        return []

    def begin(self, info: RunInfo) -> None:
        """Nothing to prepare."""

    def end(self) -> None:
        """Nothing to clean up."""

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, forward: Forward) -> Tensor:
        """Return the output with the latents taken out of every patch."""
        read = as_read(self.sae.config.reads, x, output)
        patches = read.flatten(2).transpose(1, 2).float()
        values, indices = self.sae.encode(patches)
        unexplained = patches - self.sae.decode(values, indices)
        silenced = torch.isin(indices, torch.tensor(self.latents, device=indices.device))
        edited = self.sae.decode(values.masked_fill(silenced, 0.0), indices) + unexplained
        return output + (edited - patches).transpose(1, 2).reshape(output.shape).to(output)
