"""Artifacts made on purpose, which the measures are validated on."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..framework.runs import ArtifactJudge
from ..framework.tables import heading, line

Damage = Callable[[np.ndarray, np.random.Generator], None]


def square(x: np.ndarray, rng: np.random.Generator, sixteenths: int) -> np.ndarray:
    """Return a view of a random square of an image, so many sixteenths of its height a side."""
    side = sixteenths * len(x) // 16
    top, left = rng.integers(0, np.array(x.shape[:2]) - side)
    return x[top : top + side, left : left + side]


def blob(x: np.ndarray, rng: np.random.Generator) -> None:
    """Paint a disc of one vivid color, three sixteenths wide."""
    part = square(x, rng, 3)
    radius = len(part) / 2
    y, z = np.mgrid[0 : len(part), 0 : len(part)] - radius + 0.5
    part[y**2 + z**2 < radius**2] = rng.permutation([1.0, 0.0, rng.random()])


def noise(x: np.ndarray, rng: np.random.Generator) -> None:
    """Add coarse noise to a quarter of the image."""
    part = square(x, rng, 8)
    grain = len(part) // 16
    part += 0.25 * rng.standard_normal((16, 16, 3)).repeat(grain, 0).repeat(grain, 1)


def shuffle(x: np.ndarray, rng: np.random.Generator) -> None:
    """Shuffle the 36 blocks of a square."""
    part = square(x, rng, 6)
    side = len(part) // 6
    blocks = part.reshape(6, side, 6, side, 3).swapaxes(1, 2).reshape(36, side, side, 3)
    part[:] = rng.permutation(blocks).reshape(6, 6, side, side, 3).swapaxes(1, 2).reshape(part.shape)


def smear(x: np.ndarray, rng: np.random.Generator) -> None:
    """Replace a square by its mean."""
    part = square(x, rng, 5)
    part[:] = part.mean((0, 1))


def burn(x: np.ndarray, rng: np.random.Generator) -> None:
    """Push a square's contrast to three times."""
    part = square(x, rng, 6)
    part[:] = 0.5 + 3 * (part - 0.5)


DAMAGES: tuple[Damage, ...] = (blob, noise, shuffle, smear, burn)


def damaged(images: Tensor, damage: Damage) -> Tensor:
    """Return copies of images with one kind of damage each, in a place drawn for each."""
    changed = images.numpy().copy()
    for i, image in enumerate(changed):
        damage(image, np.random.default_rng(i))
    return torch.from_numpy(changed.clip(0, 1))


def print_finds(judge: ArtifactJudge, images: Tensor, styles: Sequence[str]) -> None:
    """Print in how many unedited images a judge finds artifacts, and in how many with each damage."""
    kinds = [("unedited", images), *((damage.__name__, damaged(images, damage)) for damage in DAMAGES)]
    for name, shown in kinds:
        found = judge.found(shown, styles)
        if shown is images:
            print(heading("images", *found))
        shares = (f"{100 * sum(hits) / len(hits):.1f} %" for hits in found.values())
        print(line(f"{name} (n {len(shown)})", *shares), flush=True)
