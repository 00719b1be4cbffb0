"""Where each object is in a finished image: the best guess there is, for replacement with a mask from outside.

Scenes know their masks, generations do not. A small head on the frozen judges' features is trained on scenes that went
through the VAE. ``python dev/host benchmarks.comparison.segmenter`` trains it and prints how well it finds held-out
scenes' objects.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS
from ...dev.demo_model import classifiers, scenes
from ..framework import storage
from .folder import WORK
from .networks import fit, kept

GRID = scenes.GRID
TRAIN_SCENES, STEPS, BATCH = 2000, 400, 48
COVERED = 0.3  # share of a cell from which on it counts as the object's


class Segmenter(nn.Module):
    """A head on the judges' features, and the threshold of its probabilities.

    Args:
        judge: its body is used and not changed.
    """

    threshold: Tensor

    def __init__(self, judge: classifiers.Classifiers) -> None:
        super().__init__()
        self._body = [judge.network.body]  # in a list, so that it is no part of the weights
        width = sum(classifiers.CHANNELS[1:])
        self.head = nn.Sequential(
            nn.Conv2d(width, 64, 1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, len(OBJECTS), 1),
        )
        self.register_buffer("threshold", torch.tensor(0.5))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the judges' features of images [B, 128, 128, 3] in 0..1, [B, 384, 16, 16]."""
        x, parts = images.movedim(-1, 1) * 2 - 1, []
        for stage in (slice(0, 5), slice(5, 7), slice(7, 9)):
            x = self._body[0][stage](x)
            parts.append(F.interpolate(x, (GRID, GRID), mode="bilinear"))
        return torch.cat(parts, 1)

    @torch.inference_mode()
    def masks(self, images: Tensor, target: str) -> Tensor:
        """Return the cells that show an object, bool [B, 16, 16]."""
        logits = self.head(self.features(images))[:, OBJECTS.index(target)]
        return logits.sigmoid() > self.threshold


@torch.inference_mode()
def examples(vae: Any, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return scenes as the VAE gives them back, and which cells each object covers.

    Returns:
        uint8 [N, 128, 128, 3] and bool [N, 20, 16, 16].
    """
    rendered = [scenes.render(seed) for seed in seeds]
    images = torch.from_numpy(np.stack([scene.image for scene in rendered])).float() / 255
    cover = torch.zeros(len(rendered), len(OBJECTS), GRID, GRID, dtype=torch.bool)
    for i, scene in enumerate(rendered):
        for name, mask in scene.masks.items():
            cover[i, OBJECTS.index(name)] = torch.from_numpy(mask > COVERED)
    return (vae.decode(vae.encode(images)) * 255).round().byte(), cover


def train(judge: classifiers.Classifiers, vae: Any) -> Segmenter:
    """Train the head; its threshold is the one with the best overlap on validation scenes."""
    images, cover = examples(vae, scenes.TRAIN[6_000_000 : 6_000_000 + TRAIN_SCENES])
    torch.manual_seed(0)
    segmenter = Segmenter(judge)

    def loss_of(rows: Tensor, _: int) -> Tensor:
        logits = segmenter.head(segmenter.features(images[rows].float() / 255))
        # An object covers a seventieth of all (cell, object) pairs.
        return F.binary_cross_entropy_with_logits(logits, cover[rows].float(), pos_weight=torch.tensor(4.0))

    fit("segmenter", segmenter.head.parameters(), 3e-3, STEPS, BATCH, len(images), loss_of)
    images, cover = examples(vae, scenes.VALIDATION[5_000_000:5_000_300])
    tried = [round(0.1 * i, 1) for i in range(2, 10)]
    overlaps = []
    for threshold in tried:
        segmenter.threshold.fill_(threshold)
        overlaps.append(float(overlap(segmenter, images, cover).mean()))
    segmenter.threshold.fill_(tried[int(np.argmax(overlaps))])
    return segmenter


def overlap(segmenter: Segmenter, images: Tensor, cover: Tensor) -> Tensor:
    """Return intersection over union of each object that an image shows, [n]."""
    found = []
    for i, name in enumerate(OBJECTS):
        rows = cover[:, i].flatten(1).any(1)
        if bool(rows.any()):
            ours, true = segmenter.masks(images[rows].float() / 255, name), cover[rows, i]
            found.append((ours & true).sum((1, 2)) / (ours | true).sum((1, 2)).clamp(min=1))
    return torch.cat(found)


def load(judge: classifiers.Classifiers, vae: Any) -> Segmenter:
    """Return the segmenter, training it the first time."""
    path = WORK / f"segmenter.{storage.stamp()}.safetensors"
    return kept(path, lambda: Segmenter(judge), lambda: train(judge, vae))


def main() -> None:
    """Print how well held-out scenes' objects are found."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    _, _, vae = checkpoint.load()
    segmenter = load(classifiers.load(), vae)
    found = overlap(segmenter, *examples(vae, scenes.HELD_OUT[5_000_000:5_000_400]))
    missed = float((found == 0).float().mean())
    spread = 1.96 * found.std() / len(found) ** 0.5
    print(f"threshold {float(segmenter.threshold):.1f}, IoU {found.mean():.3f} ± {spread:.3f}")
    print(f"missed altogether {100 * missed:.1f} %, n {len(found)} objects")
