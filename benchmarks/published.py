"""The published way to edit a block with an SAE, transcribed by us: what the pack's cost is compared with.

As SAeUron's and sdxl-unbox's hooks do it: every patch of every prompt is encoded and decoded in float32, and what the
SAE does not explain is added again. Written with the pack's own fast encode and sparse decode, so the comparison is not
with slow code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..sae_models.sae import SparseAutoencoder, as_read
from ..unet.calls import Call, patches_of
from ..unet.hooks import Observer


class FullReconstruction(Observer):
    """An observer that multiplies features of a block by zero. Attach it with ``attach_observer``.

    Args:
        sae: with its decoder, in float32.
        features: which to silence.
    """

    def __init__(self, sae: SparseAutoencoder, features: Sequence[int]) -> None:
        self.sae = sae
        self._features = torch.tensor(list(features))

    @property
    def hookpoints(self) -> list[str]:
        """The block that the SAE reads."""
        return [self.sae.config.hookpoint]

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, call: Call) -> Tensor:
        """Return the output with the features taken out of every patch."""
        # Moved once: to bring them to a GPU at every call would wait for it.
        self._features = self._features.to(output.device)
        patches = patches_of(as_read(self.sae.config.reads, x, output)).float()
        values, indices = self.sae.encode(patches)
        unexplained = patches - self.sae.decode(values, indices)
        silenced = torch.isin(indices, self._features)
        edited = self.sae.decode(values.masked_fill(silenced, 0.0), indices) + unexplained
        return output + (edited - patches).transpose(1, 2).reshape(output.shape).to(output)
