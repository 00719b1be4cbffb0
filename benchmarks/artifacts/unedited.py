"""Unedited images, which say what is usual for the model.

They are generated once for the checkpoint at hand and kept in ``dev/work/unedited``, some a file, so that an
interrupted run resumes and several processes can share the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...demo_model.vocabulary import STYLES, caption
from ...dev.demo_model.sampling import generate
from ..framework import storage

CHUNK = 40


@dataclass(frozen=True, eq=False)
class Unedited:
    """A set of unedited images.

    Attributes:
        name: of its files.
        seeds: at least one an image.
        objects: what each image shows; styles take turns.
    """

    name: str
    seeds: range
    objects: Sequence[tuple[str, ...]]

    @property
    def styles(self) -> list[str]:
        """The style of each image."""
        return [STYLES[i % len(STYLES)] for i in range(len(self.objects))]

    def files(self) -> list[Path]:
        """Return the file of each `CHUNK` of images, there or not."""
        folder, stamp = storage.folder("unedited"), storage.stamp(self.seeds.start)
        return [folder / f"{self.name}.{stamp}.{i:05d}.npy" for i in range(0, len(self.objects), CHUNK)]

    def make(self, model: Any, clip: Any, vae: Any, todo: Sequence[Path] | None = None) -> None:
        """Generate those files that are not there yet; some of them, or all."""
        for path in self.files() if todo is None else todo:
            if path.exists():
                continue
            start = int(path.stem.rpartition(".")[2])
            part = slice(start, start + CHUNK)
            texts = [caption(*each) for each in zip(self.objects[part], self.styles[part], strict=True)]
            made = generate(model, clip, vae, texts, self.seeds[part][: len(texts)], batch=CHUNK)
            with storage.whole(path) as partial, partial.open("wb") as file:
                np.save(file, (made * 255).round().byte().numpy())

    def images(self) -> Tensor:
        """Return all images, which must be there, [N, H, W, 3] in 0..1."""
        return torch.from_numpy(np.concatenate([np.load(path) for path in self.files()])).float() / 255
