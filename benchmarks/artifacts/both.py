"""The two measures of the comparison: round trip and denoising, see errors.py. Fixed before looking.

An image is damaged by a measure above the 95th percentile of unedited images (`USUAL`) of the same style that, like it,
show some object or show none to the judges: an emptied image is compared with empty ones. The artifact rate AR is the
mean of both shares. ``python dev/host benchmarks.artifacts.both`` prints the finds on images damaged on purpose and the
false alarms. Timestep and window of denoising were chosen by choose.py.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS, STYLES, caption
from ...dev.demo_model import judges
from ...dev.demo_model.sampling import REPORTING_SEEDS, TUNING_SEEDS, encode, generate
from . import deliberate, errors
from .unedited import Unedited

MEASURES = (errors.ROUND_TRIP, errors.DENOISING)
TIMESTEP, WINDOW = 50, 3
SINGLES, EMPTY = 90, 40  # images a style: of one object, and of nothing
TURNS = range(SINGLES + EMPTY)
USUAL = Unedited(
    "both",
    TUNING_SEEDS[700_000:],
    [(OBJECTS[turn % len(OBJECTS)],) if turn < SINGLES else () for turn in TURNS for _ in STYLES],
)


class BothJudge:
    """Both measures, with their limits.

    Args:
        judge: says whether an image shows any object, and its style where none was asked for.
        model, clip, vae: the demo model's, unedited.
        images: unedited, [N, H, W, 3] in 0..1.
        styles: of these.
    """

    def __init__(
        self, judge: judges.Judges, model: Any, clip: Any, vae: Any, images: Tensor, styles: Sequence[str]
    ) -> None:
        self.judge, self.model, self.vae = judge, model, vae
        self.empty = encode(clip, [""])[0][0]
        self.limits = limits_of(self.scores(images), self.groups(images, styles))

    def groups(self, images: Tensor, styles: Sequence[str | None]) -> Tensor:
        """Return with which unedited images each is compared: 2 * style, and 1 more where an object is shown."""
        objects, seen = self.judge.classify(images)
        asked = zip(styles, seen.argmax(1), strict=True)
        own = [int(guess) if style is None else STYLES.index(style) for style, guess in asked]
        return 2 * torch.tensor(own) + (objects > self.judge.threshold).any(1)

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Tensor:
        """Return both measures of images, [N, 2]; larger is worse."""
        return torch.cat([self._scores(part) for part in images.split(64)])

    def _scores(self, images: Tensor) -> Tensor:
        latents = self.vae.encode(images)
        missed = errors.denoising(self.model, self.empty, latents, TIMESTEP)
        return torch.stack([errors.round_trip(self.vae, images, latents), errors.worst(missed, WINDOW)], 1)

    @torch.inference_mode()
    def missed(self, images: Tensor, timestep: int) -> Tensor:
        """Return what the model is wrong about in images at a timestep, a number for each cell of the latents."""
        parts = images.split(64)
        return torch.cat([errors.denoising(self.model, self.empty, self.vae.encode(x), timestep) for x in parts])

    def found(self, images: Tensor, styles: Sequence[str | None]) -> dict[str, list[bool]]:
        """See ArtifactJudge; None takes the style that the judge sees."""
        above = self.scores(images) > self.limits[self.groups(images, styles)]
        return dict(zip(MEASURES, above.T.tolist(), strict=True))


def limits_of(scores: Tensor, groups: Tensor) -> Tensor:
    """Return the limit of each group of unedited images with these scores, [groups, ...]."""
    return torch.stack([scores[groups == g].quantile(errors.QUANTILE, dim=0) for g in range(2 * len(STYLES))])


def fitted(judge: judges.Judges, model: Any, clip: Any, vae: Any) -> BothJudge:
    """Return the judge with limits from the unedited images, generating those that are not there."""
    USUAL.make(model, clip, vae)
    return BothJudge(judge, model, clip, vae, USUAL.images(), USUAL.styles)


def fresh(count: int) -> tuple[Tensor, list[str]]:
    """Generate unedited images of the reporting seeds, four of five with one object, and return their styles."""
    shown = [((OBJECTS[i // 8 % len(OBJECTS)],) if i // 8 % 5 else (), STYLES[i % 8]) for i in range(count)]
    seeds = REPORTING_SEEDS[950_000 : 950_000 + count]
    images = generate(*checkpoint.load(), [caption(*each) for each in shown], seeds, batch=40)
    return images, [style for _, style in shown]


def main() -> None:
    """Print finds and false alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    arguments = parser.parse_args()
    judge = fitted(judges.load(), *checkpoint.load())
    deliberate.print_finds(judge, *fresh(arguments.images))
