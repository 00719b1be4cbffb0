"""A small network that finds damaged cells of 8 x 8 pixels; trained on damages that it is not validated on.

It learns from scenes that went through the VAE, half of them with one damaged spot. What it is worth on other damages
and on generated pictures: ``python host benchmarks.comparison.damage``.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom
from torch import Tensor, nn

from ...canvas import checkpoint, scenes
from .networks import fit, kept
from .unedited import WORK

GRID = 16  # cells a side
TRAIN_SCENES, STEPS, BATCH = 1600, 700, 32
UNKNOWN = -1.0  # label of a cell beside a damage


class Detector(nn.Module):
    """Tells damaged cells: pictures [B, 3, 128, 128] in -1..1 -> logits [B, 16, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 1, 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)[:, 0]


def region(rng: np.random.Generator) -> np.ndarray:
    """Return an irregular spot of 4 to about 60 cells, bool [16, 16]."""
    y, x = np.mgrid[0:GRID, 0:GRID] + 0.5
    (cy, cx), (ry, rx) = rng.uniform(2, 14, 2), rng.uniform(1.3, 4.5, 2)
    wobble = zoom(rng.standard_normal((5, 5)), GRID / 5, order=1) * 0.5
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 + wobble < 1


def latent_noise(latent: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise to latents [4, 16, 16]."""
    return latent + rng.uniform(0.7, 2) * rng.standard_normal(latent.shape)


def latent_scale(latent: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Enlarge latents."""
    return latent * rng.uniform(1.8, 4)


def latent_foreign(latent: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take the latents of a picture in another style."""
    return other


def latent_flip(latent: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the sign of two channels."""
    signs = rng.permutation([1, 1, -1, -1])
    return latent * signs[:, None, None]


def pixel_channels(picture: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exchange the colour channels, [128, 128, 3]."""
    return picture[..., rng.permutation([[1, 2, 0], [2, 0, 1], [1, 0, 2], [2, 1, 0]])[0]]


def pixel_ghost(picture: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let a picture of another style shine through."""
    return picture + rng.uniform(0.3, 0.6) * (other - picture)


def pixel_stripes(picture: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a slanted ripple."""
    y, x = np.mgrid[0:128, 0:128]
    angle, period = rng.uniform(0, np.pi), rng.uniform(3, 9)
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    return picture + rng.uniform(0.1, 0.3) * wave[..., None] * rng.permutation([1, 1, rng.uniform(-1, 1)])


Damage = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
LATENT_DAMAGES: tuple[Damage, ...] = (latent_noise, latent_scale, latent_foreign, latent_flip)
PIXEL_DAMAGES: tuple[Damage, ...] = (pixel_channels, pixel_ghost, pixel_stripes)


@torch.inference_mode()
def examples(vae: Any) -> tuple[Tensor, Tensor]:
    """Return pictures uint8 [N, 128, 128, 3] and labels int8 [N, 16, 16] (1 damaged, 0 not, -1 beside).

    Every scene is there once unharmed and once damaged, both as the VAE gives it back.
    """
    rendered = [scenes.render(seed) for seed in scenes.TRAIN[5_000_000 : 5_000_000 + TRAIN_SCENES]]
    pictures = torch.from_numpy(np.stack([scene.image for scene in rendered])).float() / 255
    latents = vae.encode(pictures)
    clean = vae.decode(latents)
    rng = np.random.default_rng(0)
    masks = np.stack([region(rng) for _ in rendered])
    spots = torch.from_numpy(masks)[:, None]
    others = [other_style(i, rendered, rng) for i in range(len(rendered))]
    kinds = [int(kind) for kind in rng.integers(len(LATENT_DAMAGES) + len(PIXEL_DAMAGES), size=len(rendered))]
    changed = latents.clone()
    for i, kind in enumerate(kinds):
        if kind < len(LATENT_DAMAGES):
            new = LATENT_DAMAGES[kind](latents[i].numpy(), latents[others[i]].numpy(), rng)
            changed[i] = torch.where(spots[i], torch.from_numpy(new).float(), latents[i])
    damaged = vae.decode(changed).clone()
    for i, kind in enumerate(kinds):
        if kind >= len(LATENT_DAMAGES):
            new = PIXEL_DAMAGES[kind - len(LATENT_DAMAGES)](clean[i].numpy(), clean[others[i]].numpy(), rng)
            inside = torch.from_numpy(masks[i].repeat(8, 0).repeat(8, 1))[..., None]
            damaged[i] = torch.where(inside, torch.from_numpy(new).float().clamp(0, 1), clean[i])
    near = F.max_pool2d(spots.float(), 3, 1, 1)[:, 0] > 0
    labels = torch.where(spots[:, 0], 1, torch.where(near, -1, 0)).to(torch.int8)
    both = torch.cat([clean, damaged])
    return (both * 255).round().byte(), torch.cat([torch.zeros_like(labels), labels])


def other_style(i: int, rendered: Sequence[scenes.Scene], rng: np.random.Generator) -> int:
    """Draw a scene whose style is not that of the i-th."""
    while True:
        j = int(rng.integers(len(rendered)))
        if rendered[j].style != rendered[i].style:
            return j


def train(vae: Any) -> Detector:
    """Train the detector."""
    pictures, labels = examples(vae)
    torch.manual_seed(0)
    network = Detector().to(memory_format=torch.channels_last)

    def loss_of(rows: Tensor, step: int) -> Tensor:
        x, y = pictures[rows].permute(0, 3, 1, 2).float() / 127.5 - 1, labels[rows].float()
        if step % 2:
            x, y = x.flip(3), y.flip(2)
        losses = F.binary_cross_entropy_with_logits(network(x), y.clamp(min=0), reduction="none")
        return losses[y != UNKNOWN].mean()

    fit("damage detector", network.parameters(), 2e-3, STEPS, BATCH, len(pictures), loss_of)
    return network


def load(vae: Any) -> Detector:
    """Return the trained detector, training it the first time."""
    stamp = zlib.crc32(checkpoint.DEFAULT_PATH.read_bytes() + bytes((STEPS % 256, BATCH)))
    return kept(WORK / f"detector.{stamp:08x}.safetensors", Detector, lambda: train(vae))
