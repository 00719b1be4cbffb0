"""The demo model's VAE: pictures to latents of an eighth of their sides and back, convolutional throughout.

There is no normalisation layer: the network is shallow, and without one a patch's colour does not depend
on the rest of the picture.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sizes import LATENT_CHANNELS


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside an identity; starts as the identity."""

    def __init__(self, channels: int, operations: Any) -> None:
        super().__init__()
        self.first = operations.Conv2d(channels, channels, 3, padding=1)
        self.second = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class CanvasAutoencoder(nn.Module):
    """Encoder and decoder with latents of zero mean and unit variance per channel.

    Args:
        operations: the layers to build from: `torch.nn` to train, `comfy.ops` classes inside ComfyUI.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, operations: Any = nn) -> None:
        super().__init__()
        conv, block = operations.Conv2d, ResidualBlock
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            conv(48, 64, 3, padding=1),
            block(64, operations),
            conv(64, 128, 3, stride=2, padding=1),
            block(128, operations),
            block(128, operations),
            nn.SiLU(),
            conv(128, 2 * LATENT_CHANNELS, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            conv(LATENT_CHANNELS, 128, 3, padding=1),
            block(128, operations),
            block(128, operations),
            conv(128, 4 * 64, 3, padding=1),
            nn.PixelShuffle(2),
            block(64, operations),
            block(64, operations),
            block(64, operations),
            conv(64, 4 * 32, 3, padding=1),
            nn.PixelShuffle(2),
            block(32, operations),
            block(32, operations),
            nn.SiLU(),
            conv(32, 4 * 3, 3, padding=1),
            nn.PixelShuffle(2),
        )
        # Set after training, so that the diffusion model sees unit variance.
        self.register_buffer("latent_mean", torch.zeros(1, LATENT_CHANNELS, 1, 1))
        self.register_buffer("latent_std", torch.ones(1, LATENT_CHANNELS, 1, 1))

    def raw_posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance before normalisation, each [B, 4, H/8, W/8]."""
        mean, log_variance = self.encoder(pixels).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 4)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latents of pixels [B, 3, H, W], -1 to 1."""
        mean, log_variance = self.raw_posterior(pixels)
        return (mean - self.latent_mean) / self.latent_std, (0.5 * log_variance).exp() / self.latent_std

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the mean latent [B, 4, H/8, W/8] of pixels [B, 3, H, W], -1 to 1; always the same."""
        return self.posterior(pixels)[0].to(pixels.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Return pixels [B, 3, H, W], about -1 to 1, of a latent [B, 4, H/8, W/8]."""
        return self.decoder(latent * self.latent_std + self.latent_mean)


def load_trained(path: Path) -> CanvasAutoencoder:
    """Load the file that ``train_vae.py`` wrote, in float32."""
    from safetensors.torch import load_file

    vae = CanvasAutoencoder()
    vae.load_state_dict(load_file(path))
    return vae.eval()
