"""The measure of benchmarks/erasure.py: the round trip of errors.py, against unedited images of the same style.

An image counts as damaged above the 95th percentile of unedited images. ``python dev/host
benchmarks.artifacts.round_trip`` prints how many of fresh unedited images are above it, and how many of deliberately
damaged ones.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS, STYLES
from ...dev.demo_model.sampling import REPORTING_SEEDS, TUNING_SEEDS
from . import deliberate, errors
from .unedited import Unedited

NAME = errors.ROUND_TRIP
COUNT = 48 * len(STYLES)


def content(i: int) -> tuple[str, ...]:
    """Return what the i-th unedited image shows: in turn nothing, one object twice, and two objects twice."""
    first, second = OBJECTS[i // 5 % len(OBJECTS)], OBJECTS[(i // 5 * 7 + 3) % len(OBJECTS)]
    return tuple(dict.fromkeys(((), (first,), (first,), (first, second), (second, first))[i % 5]))


FITTED, FRESH = (
    Unedited("round_trip", seeds[900_000:], [content(i) for i in range(COUNT)])
    for seeds in (TUNING_SEEDS, REPORTING_SEEDS)
)


class RoundTripJudge:
    """The measure with its limit.

    Args:
        vae: the demo model's.
        images: unedited, [N, H, W, 3] in 0..1.
        styles: of these.
    """

    def __init__(self, vae: Any, images: Tensor, styles: Sequence[str]) -> None:
        self.vae = vae
        found, names = self.scores(images), torch.tensor([STYLES.index(style) for style in styles])
        self.usual = torch.stack([found[names == s].median() for s in range(len(STYLES))])
        self.limit = (found / self.usual[names]).quantile(errors.QUANTILE)

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Tensor:
        """Return the error of images, [N]."""
        return errors.round_trip(self.vae, images, self.vae.encode(images))

    def found(self, images: Tensor, styles: Sequence[str | None]) -> dict[str, list[bool]]:
        """See ArtifactJudge; each image must have a style."""
        usual = self.usual[[STYLES.index(str(style)) for style in styles]]
        return {NAME: (self.scores(images) / usual > self.limit).tolist()}


def fitted(model: Any, clip: Any, vae: Any) -> RoundTripJudge:
    """Return the judge, fitted to unedited images of the tuning seeds."""
    FITTED.make(model, clip, vae)
    return RoundTripJudge(vae, FITTED.images(), FITTED.styles)


def main() -> None:
    """Print false alarms and finds."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    world = checkpoint.load()
    judge = fitted(*world)
    FRESH.make(*world)
    deliberate.print_finds(judge, FRESH.images(), FRESH.styles)
