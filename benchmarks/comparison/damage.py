"""Does an edited picture look damaged? What stands in for the paper's vision-language judge; fixed before looking.

Two measures that know nothing of each other, and nothing of the judges of objects:

* **round trip** (see artefacts.py): what the VAE loses of the picture, in its worst window;
* **denoising**: a little noise is added to the picture's latents, and the unedited model, without a prompt, says what
  it was; its mean squared error in the worst window of 3 x 3 latent cells. The model is wrong about what it would not
  draw itself. Timestep and window were chosen (``--choose``) on tuning pictures with other damages (damages.py) than
  those that both measures are validated on (``artefacts.DAMAGES``).

A picture is damaged by a measure above the 95th percentile of unedited pictures (`unedited.COUNT`, tuning seeds) of
the same style that, like it, show some object or show none to the judges: an emptied picture is compared with empty
ones. So 5 % of undamaged pictures are false alarms by construction. The artefact rate AR is the mean of both shares.

``python dev/host benchmarks.comparison.damage`` prints the finds on pictures damaged on purpose and the false alarms.

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

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS, STYLES, caption
from ...dev.demo_model import classifiers
from ...dev.demo_model.sampling import REPORTING_SEEDS, encode, generate
from .. import artefacts
from . import damages, unedited

MEASURES = ("round trip", "denoising")
QUANTILE = 0.95
TIMESTEP, NOISES, WINDOW = 50, 6, 3


class DamageJudge:
    """Both measures, with their limits.

    Args:
        judge: says whether a picture shows any object, and its style where none was asked for.
        model, clip, vae: the small world's, unedited.
        pictures: unedited, uint8 [N, 128, 128, 3].
        styles: of these, indices in STYLES.
    """

    def __init__(
        self,
        judge: classifiers.Classifiers,
        model: Any,
        clip: Any,
        vae: Any,
        pictures: Tensor,
        styles: Sequence[int],
    ) -> None:
        self.judge, self.model, self.vae = judge, model, vae
        self.empty = encode(clip, [""])[0][0]
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
        latents = self.vae.encode(pictures)
        again = self.vae.decode(latents).to(pictures)
        lost = F.avg_pool2d((again - pictures).square().mean(-1)[:, None], 16, stride=8).sqrt()
        missed = F.avg_pool2d(self._missed(latents)[:, None], WINDOW, stride=1)
        return torch.stack([lost.flatten(1).amax(1), missed.flatten(1).amax(1)], 1)

    def _missed(self, latents: Tensor, timestep: int = TIMESTEP) -> Tensor:
        """Return the mean squared error of the noise that the model sees in each latent cell, [N, 16, 16]."""
        comfy.model_management.load_models_gpu([self.model])
        inner = self.model.model
        sigma = inner.model_sampling.sigma(torch.tensor(float(timestep)))
        clean, errors = inner.process_latent_in(latents), []
        for i in range(NOISES):
            noise = torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(i // 2))
            noisy = clean + (1 - 2 * (i % 2)) * sigma * noise  # each noise with both signs
            found = inner.apply_model(
                noisy, sigma.expand(len(clean)), c_crossattn=self.empty.expand(len(clean), -1, -1)
            )
            errors.append(((found - clean) / sigma).square().mean(1))
        return torch.stack(errors).mean(0)

    @torch.inference_mode()
    def missed(self, pictures: Tensor, timestep: int) -> Tensor:
        """Return what the model is wrong about in pictures [N, 128, 128, 3] at a timestep, [N, 16, 16]."""
        return torch.cat([self._missed(self.vae.encode(part), timestep) for part in pictures.split(64)])

    def damaged(self, pictures: Tensor, styles: Sequence[int | None]) -> Tensor:
        """Tell which pictures each measure calls damaged, bool [N, 2].

        Args:
            pictures: [N, 128, 128, 3] in 0..1.
            styles: what was asked for, indices in STYLES; None takes the style that the judge sees.
        """
        return self.scores(pictures) > self.limits[self.groups(pictures, styles)]


def fitted(model: Any, clip: Any, vae: Any, judge: classifiers.Classifiers) -> DamageJudge:
    """Return the measures with limits from the unedited pictures, which must be there."""
    return DamageJudge(judge, model, clip, vae, unedited.load(), unedited.styles())


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


def choose(judge: DamageJudge) -> None:
    """Print how many spots each timestep and window finds; limits and spots are of different tuning pictures."""
    pictures, styles = unedited.load().float() / 255, torch.tensor(unedited.styles())
    groups, turn = judge.groups(pictures, styles.tolist()), torch.arange(len(pictures)) // len(STYLES)
    usual, spotted = turn % 2 == 0, turn % 6 == 1
    kinds = {"untouched": pictures[spotted]}
    for damage in (*damages.LATENT_DAMAGES, *damages.PIXEL_DAMAGES):
        kinds[damage.__name__] = damages.spotted(pictures[spotted], styles[spotted].tolist(), damage, judge.vae)
    print("| timestep, window | " + " | ".join(kinds) + " |\n|---" + "|---" * len(kinds) + "|")
    for timestep in (50, 100, 200, 300):
        maps = {name: judge.missed(shown, timestep) for name, shown in [("usual", pictures[usual]), *kinds.items()]}
        for window in (1, 2, 3, 5):
            worst = {name: F.avg_pool2d(each[:, None], window, 1).flatten(1).amax(1) for name, each in maps.items()}
            limits = torch.stack(
                [worst["usual"][groups[usual] == g].quantile(QUANTILE) for g in range(2 * len(STYLES))]
            )
            found = [(worst[name] > limits[groups[spotted]]).float().mean().item() for name in kinds]
            print(f"| {timestep}, {window} | " + " | ".join(f"{100 * share:.0f}" for share in found) + " |", flush=True)


def main() -> None:
    """Print finds and false alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--choose", action="store_true", help="print what the second measure was chosen by")
    arguments = parser.parse_args()
    model, clip, vae = checkpoint.load()
    unedited.make(model, clip, vae, unedited.files())
    judge = fitted(model, clip, vae, classifiers.load())
    if arguments.choose:
        choose(judge)
        return
    pictures, styles = fresh(arguments.pictures)
    print("| pictures | " + " | ".join(MEASURES) + " |\n|---|---|---|")
    kinds = [("unedited", pictures), *((d.__name__, artefacts.with_damage(pictures, d)) for d in artefacts.DAMAGES)]
    for name, shown in kinds:
        shares = judge.damaged(shown, styles).float().mean(0).tolist()
        cells = [f"{100 * share:.1f} %" for share in shares]
        print(f"| {name} (n {len(shown)}) | " + " | ".join(cells) + " |", flush=True)
