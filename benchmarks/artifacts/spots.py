"""Damages by which the denoising measure was chosen; it is validated on others (deliberate.py).

Each changes an irregular spot of an image, in its latents or in its pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import zoom
from torch import Tensor

from ...demo_model.sizes import FACTOR, GRID


def region(rng: np.random.Generator) -> np.ndarray:
    """Return an irregular spot of about a hundredth to a quarter of a latent's cells, bool [H, W]."""
    y, x = (np.mgrid[0:GRID, 0:GRID] + 0.5) * 16 / GRID  # in sixteenths of a side
    (cy, cx), (ry, rx) = rng.uniform(2, 14, 2), rng.uniform(1.3, 4.5, 2)
    wobble = zoom(rng.standard_normal((5, 5)), GRID / 5, order=1) * 0.5
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 + wobble < 1


def latent_noise(latent: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise to latents [4, H, W]."""
    return latent + rng.uniform(0.7, 2) * rng.standard_normal(latent.shape)


def latent_scale(latent: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Enlarge latents."""
    return latent * rng.uniform(1.8, 4)


def latent_foreign(latent: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take the latents of an image in another style."""
    return other


def latent_flip(latent: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the sign of two channels."""
    signs = rng.permutation([1, 1, -1, -1])
    return latent * signs[:, None, None]


def pixel_channels(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exchange the color channels, [H, W, 3]."""
    return image[..., rng.permutation([[1, 2, 0], [2, 0, 1], [1, 0, 2], [2, 1, 0]])[0]]


def pixel_ghost(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let an image of another style shine through."""
    return image + rng.uniform(0.3, 0.6) * (other - image)


def pixel_stripes(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a slanted ripple."""
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]] * 128 / len(image)
    angle, period = rng.uniform(0, np.pi), rng.uniform(3, 9)
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    return image + rng.uniform(0.1, 0.3) * wave[..., None] * rng.permutation([1, 1, rng.uniform(-1, 1)])


Damage = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
LATENT_DAMAGES: tuple[Damage, ...] = (latent_noise, latent_scale, latent_foreign, latent_flip)
PIXEL_DAMAGES: tuple[Damage, ...] = (pixel_channels, pixel_ghost, pixel_stripes)


@torch.inference_mode()
def spotted(images: Tensor, styles: Sequence[str], damage: Damage, vae: Any) -> Tensor:
    """Return copies of images [N, H, W, 3] in 0..1 with one damaged spot each.

    Args:
        images: as the VAE decodes them.
        styles: of these; the other image that some damages use is of another style.
        damage: which.
        vae: the demo model's.
    """
    rng = np.random.default_rng(0)
    in_latents = damage in LATENT_DAMAGES
    given = (vae.encode(images) if in_latents else images).numpy()
    damaged = given.copy()
    for i in range(len(given)):
        others = [j for j, style in enumerate(styles) if style != styles[i]]
        inside = region(rng)
        new = damage(given[i], given[rng.permutation(others)[0]], rng)
        spot = inside[None] if in_latents else inside.repeat(FACTOR, 0).repeat(FACTOR, 1)[..., None]
        damaged[i] = np.where(spot, new, given[i])
    result = torch.from_numpy(damaged).float()
    return vae.decode(result) if in_latents else result.clamp(0, 1)
