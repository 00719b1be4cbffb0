"""Does an edited picture look damaged? What stands in for the paper's vision-language judge; fixed before looking.

Two measures that know nothing of each other, and nothing of the judges of objects:

* **round trip** (see artefacts.py): what the VAE loses of the picture, in its worst window;
* **detector** (see detector.py): a small network that was trained to find damaged cells of 8 x 8 pixels in scenes that
  went through the VAE. Its damages are not those that both are validated on (``artefacts.DAMAGES``). A picture's score
  is the mean of its four highest cells.

A picture is damaged by a measure above the 95th percentile of unedited pictures (`unedited.COUNT`, tuning seeds) of
the same style that, like it, show some object or show none to the judges: an emptied picture is compared with empty
ones. So 5 % of undamaged pictures are false alarms by construction. The artefact rate AR was meant to be the mean of
both shares. The detector hardly finds damages that it was not trained on, so AR is the share of the round trip alone.

``python host benchmarks.comparison.damage`` prints the finds on pictures damaged on purpose and the false alarms.

Your own judge: ``--judge`` of ``benchmarks.comparison`` takes ``module:function``, called with a list of picture files
and returning a score for each, or a command that gets the files as arguments and prints a score a line. A picture is
an artefact above 0.5.
"""

import argparse
import importlib
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...canvas import checkpoint, classifiers
from ...canvas.sampling import REPORTING_SEEDS, generate
from ...canvas.vocabulary import OBJECTS, STYLES, caption
from .. import artefacts
from . import detector, unedited

MEASURES = ("round trip", "detector")
TRUSTED = ("round trip",)  # the detector failed its validation: docs/comparison.md
QUANTILE = 0.95


class DamageJudge:
    """Both measures, with their limits.

    Args:
        judge: says whether a picture shows any object, and its style where none was asked for.
        vae: the small world's VAE.
        network: see detector.py.
        pictures: unedited, uint8 [N, 128, 128, 3].
        styles: of these, indices in STYLES.
    """

    def __init__(
        self,
        judge: classifiers.Classifiers,
        vae: Any,
        network: detector.Detector,
        pictures: Tensor,
        styles: Sequence[int],
    ) -> None:
        self.judge, self.vae, self.network = judge, vae, network
        pictures = pictures.float() / 255
        groups = self.groups(pictures, styles)
        found = self.scores(pictures)
        self.limits = torch.stack([found[groups == g].quantile(QUANTILE, dim=0) for g in range(2 * len(STYLES))])

    def groups(self, pictures: Tensor, styles: Sequence[int | None]) -> Tensor:
        """Return with which unedited pictures each is compared: 2 * style, and 1 more where an object is shown."""
        objects, seen = self.judge.classify(pictures)
        own = [int(s) if asked is None else asked for asked, s in zip(styles, seen.argmax(1), strict=True)]
        return 2 * torch.tensor(own) + (objects > self.judge.threshold).any(1)

    @torch.inference_mode()
    def scores(self, pictures: Tensor) -> Tensor:
        """Return both measures of pictures [N, 128, 128, 3] in 0..1, [N, 2]; larger is worse."""
        return torch.cat([self._scores(part) for part in pictures.split(64)])

    def _scores(self, pictures: Tensor) -> Tensor:
        again = self.vae.decode(self.vae.encode(pictures)).to(pictures)
        error = F.avg_pool2d((again - pictures).square().mean(-1)[:, None], 16, stride=8).sqrt()
        cells = self.network(pictures.movedim(-1, 1) * 2 - 1)
        return torch.stack([error.flatten(1).amax(1), cells.flatten(1).topk(4).values.mean(1)], 1)

    def damaged(self, pictures: Tensor, styles: Sequence[int | None]) -> Tensor:
        """Tell which pictures each measure calls damaged, bool [N, 2].

        Args:
            pictures: [N, 128, 128, 3] in 0..1.
            styles: what was asked for, indices in STYLES; None takes the style that the judge sees.
        """
        return self.scores(pictures) > self.limits[self.groups(pictures, styles)]


def fitted(vae: Any, judge: classifiers.Classifiers) -> DamageJudge:
    """Return the measures with limits from the unedited pictures, which must be there."""
    return DamageJudge(judge, vae, detector.load(vae), unedited.load(), unedited.styles())


def own_judge(spelled: str) -> Callable[[list[Path]], list[float]]:
    """Return a judge of picture files out of ``module:function`` or a command; see the module."""
    module, _, name = spelled.partition(":")
    if name and module.replace(".", "").replace("_", "").isalnum():
        function: Callable[[list[Path]], list[float]] = getattr(importlib.import_module(module), name)
        return function

    def ask(paths: list[Path]) -> list[float]:
        command = [*shlex.split(spelled), *map(str, paths)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        if len(said) != len(paths):
            raise ValueError(f"the judge {spelled!r} gave {len(said)} scores for {len(paths)} pictures")
        return [float(score) for score in said]

    return ask


def fresh(count: int) -> tuple[Tensor, list[int]]:
    """Generate unedited pictures of the reporting seeds, four of five with one object, and return their styles."""
    model, clip, vae = checkpoint.load()
    shown = [((OBJECTS[i // 8 % len(OBJECTS)],) if i // 8 % 5 else (), STYLES[i % 8]) for i in range(count)]
    seeds = REPORTING_SEEDS[950_000 : 950_000 + count]
    pictures = generate(model, clip, vae, [caption(*each) for each in shown], seeds, batch=40)
    return pictures, [STYLES.index(style) for _, style in shown]


def main() -> None:
    """Print finds and false alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=400)
    arguments = parser.parse_args()
    model, clip, vae = checkpoint.load()
    unedited.make(model, clip, vae, unedited.files())
    judge = fitted(vae, classifiers.load())
    pictures, styles = fresh(arguments.pictures)
    print("| pictures | " + " | ".join(MEASURES) + " |\n|---|---|---|")
    kinds = [("unedited", pictures), *((d.__name__, artefacts.with_damage(pictures, d)) for d in artefacts.DAMAGES)]
    for name, shown in kinds:
        shares = judge.damaged(shown, styles).float().mean(0).tolist()
        cells = [f"{100 * share:.1f} %" for share in shares]
        print(f"| {name} (n {len(shown)}) | " + " | ".join(cells) + " |", flush=True)
