"""Artifacts made on purpose, which the measures are validated on."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..framework.runs import ArtifactJudge
from ..framework.tables import heading, line

Damage = Callable[[np.ndarray, np.random.Generator], None]


def place(rng: np.random.Generator, side: int) -> tuple[slice, slice]:
    """Return a random square of an image."""
    top, left = rng.integers(0, 128 - side, 2)
    return slice(top, top + side), slice(left, left + side)


def blob(x: np.ndarray, rng: np.random.Generator) -> None:
    """Paint a disc of one vivid color, 24 pixels wide."""
    y, z = np.mgrid[0:24, 0:24] - 11.5
    x[place(rng, 24)][y**2 + z**2 < 144] = rng.permutation([1.0, 0.0, rng.random()])


def noise(x: np.ndarray, rng: np.random.Generator) -> None:
    """Add coarse noise to a quarter of the image."""
    x[place(rng, 64)] += 0.25 * rng.standard_normal((16, 16, 3)).repeat(4, 0).repeat(4, 1)


def shuffle(x: np.ndarray, rng: np.random.Generator) -> None:
    """Shuffle the 8 x 8 blocks of a 48 pixel square."""
    part = x[place(rng, 48)]
    blocks = part.reshape(6, 8, 6, 8, 3).swapaxes(1, 2).reshape(36, 8, 8, 3)
    part[:] = rng.permutation(blocks).reshape(6, 6, 8, 8, 3).swapaxes(1, 2).reshape(48, 48, 3)


def smear(x: np.ndarray, rng: np.random.Generator) -> None:
    """Replace a 40 pixel square by its mean."""
    rows, columns = place(rng, 40)
    x[rows, columns] = x[rows, columns].mean((0, 1))


def burn(x: np.ndarray, rng: np.random.Generator) -> None:
    """Push a 48 pixel square's contrast to three times."""
    rows, columns = place(rng, 48)
    x[rows, columns] = 0.5 + 3 * (x[rows, columns] - 0.5)


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
