"""Unedited pictures of the tuning seeds, which say what is usual for the model.

They are generated once for the checkpoint at hand and kept in ``dev/work/comparison/unedited``, some a file, so that
an interrupted run goes on and several processes can share the work.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS, STYLES, caption
from ...dev.demo_model.sampling import TUNING_SEEDS, generate
from .. import work

WORK = work.folder("comparison")
SEEDS = TUNING_SEEDS[700_000:]
SINGLES, EMPTY = 90, 40  # pictures a style: of one object, and of nothing
COUNT = (SINGLES + EMPTY) * len(STYLES)
CHUNK = 40


def content(i: int) -> tuple[tuple[str, ...], str]:
    """Return what the i-th picture shows, and its style; styles take turns, then objects, then nothing."""
    turn, style = divmod(i, len(STYLES))
    return ((OBJECTS[turn % len(OBJECTS)],) if turn < SINGLES else ()), STYLES[style]


def files() -> list[Path]:
    """Return the file of each `CHUNK` of pictures, there or not."""
    stamp = zlib.crc32(checkpoint.DEFAULT_PATH.read_bytes())
    return [WORK / "unedited" / f"{stamp:08x}.{start:05d}.npy" for start in range(0, COUNT, CHUNK)]


def make(model: Any, clip: Any, vae: Any, todo: Sequence[Path]) -> None:
    """Generate those files that are not there yet."""
    for path in todo:
        if path.exists():
            continue
        numbers = range(int(path.stem.split(".")[1]), int(path.stem.split(".")[1]) + CHUNK)
        prompts = [caption(*content(i)) for i in numbers]
        made = generate(model, clip, vae, prompts, [SEEDS[i] for i in numbers], batch=CHUNK)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.npy")
        np.save(partial, (made * 255).round().byte().numpy())
        partial.rename(path)


def load() -> Tensor:
    """Return all pictures, uint8 [`COUNT`, 128, 128, 3]."""
    return torch.from_numpy(np.concatenate([np.load(path) for path in files()]))


def styles() -> list[int]:
    """Return the style of each picture, an index in STYLES."""
    return [STYLES.index(content(i)[1]) for i in range(COUNT)]
