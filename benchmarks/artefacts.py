"""Does an edited picture look damaged? Two measures, fixed before any edited picture was looked at.

* **strange patches**: the judges' features of 8 x 8 pixel places, compared with those of unedited pictures in the
  same style; a picture's score is the mean of its four largest distances to the nearest one (after PatchCore, Roth et
  al. 2022, arXiv 2106.08265). It sees what no unedited picture of the style contains.
* **round trip**: what is lost when the picture goes through the VAE once more, in its worst 16 x 16 pixel window.
  It does not use the judges. A decoder handed values outside the latents' distribution paints what the
  encoder cannot express.

A picture counts as damaged above the 95th percentile of unedited pictures that neither measure was fitted to, so 5 %
of undamaged pictures are false alarms by construction. ``python dev/host benchmarks.artefacts`` prints how many on
fresh unedited pictures, and how many deliberately damaged ones each measure finds.
"""

import argparse
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..demo_model import checkpoint
from ..demo_model.vocabulary import OBJECTS, STYLES, caption
from ..dev.demo_model import classifiers
from ..dev.demo_model.sampling import REPORTING_SEEDS, TUNING_SEEDS, generate
from . import work

CACHE = work.folder("artefacts")
MEASURES = ("strange patches", "round trip")
A_STYLE = 48  # unedited pictures a style: two thirds to compare with, one third to set the limits
QUANTILE = 0.95


class ArtefactJudge:
    """The two measures, fitted to unedited pictures.

    Args:
        judge: the small world's judges, whose features are used.
        vae: the small world's VAE.
        pictures: unedited, [N, 128, 128, 3] in 0..1.
        styles: their styles, indices in STYLES.
    """

    def __init__(self, judge: classifiers.Classifiers, vae: Any, pictures: Tensor, styles: Sequence[int]) -> None:
        self.body, self.vae = judge.network.body, vae
        names = torch.tensor(styles)
        fitted = torch.arange(len(names)) % 3 != 2
        features = self.features(pictures[fitted])
        self.scale = features.flatten(0, 1).std(0).clamp(min=1e-6)
        self.bank = {s: (features[names[fitted] == s] / self.scale).flatten(0, 1) for s in range(len(STYLES))}
        held, held_styles = pictures[~fitted], names[~fitted]
        raw = self.raw_scores(held, held_styles.tolist())
        self.usual = torch.stack([raw[held_styles == s].median(0).values for s in range(len(STYLES))])
        self.limits = (raw / self.usual[held_styles]).quantile(QUANTILE, dim=0)

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        """Return the judges' features of each 8 x 8 pixel place, [N, 256, 192]."""
        x = pictures.movedim(-1, 1) * 2 - 1
        middle = self.body[:5](x)
        deep = F.interpolate(self.body[5:7](middle), middle.shape[-2:], mode="bilinear")
        return torch.cat([middle, deep], 1).flatten(2).transpose(1, 2)

    @torch.inference_mode()
    def raw_scores(self, pictures: Tensor, styles: Sequence[int]) -> Tensor:
        """Return both measures of pictures, [N, 2]; larger is stranger."""
        features = self.features(pictures) / self.scale
        far = [
            torch.cdist(f, self.bank[s]).amin(1).topk(4).values.mean() for f, s in zip(features, styles, strict=True)
        ]
        again = self.vae.decode(self.vae.encode(pictures)).to(pictures)
        error = F.avg_pool2d((again - pictures).square().mean(-1)[:, None], 16, stride=8).sqrt()
        return torch.stack([torch.stack(far), error.flatten(1).amax(1)], 1)

    def damaged(self, pictures: Tensor, styles: Sequence[int]) -> Tensor:
        """Tell which pictures each measure calls damaged.

        Args:
            pictures: [N, 128, 128, 3] in 0..1.
            styles: the styles they should have, indices in STYLES.

        Returns:
            bool [N, 2].
        """
        return self.raw_scores(pictures, styles) / self.usual[list(styles)] > self.limits


def unedited(model: Any, clip: Any, vae: Any, seeds: range) -> tuple[Tensor, list[int]]:
    """Generate `A_STYLE` pictures a style, of one, two and no objects, and return them with their styles.

    They are kept on disk for the weights at hand.
    """
    contents = [content(i) for i in range(A_STYLE * len(STYLES))]
    styles = [i % len(STYLES) for i in range(len(contents))]
    stamp = zlib.crc32(checkpoint.DEFAULT_PATH.read_bytes() + bytes(str(seeds), "ascii"))
    path = CACHE / f"unedited.{stamp:08x}.npy"
    if not path.exists():
        prompts = [caption(dict.fromkeys(names), STYLES[s]) for names, s in zip(contents, styles, strict=True)]
        made = generate(model, clip, vae, prompts, seeds[: len(prompts)], batch=40)
        CACHE.mkdir(parents=True, exist_ok=True)
        np.save(path, (made * 255).round().byte().numpy())
    return torch.from_numpy(np.load(path)).float() / 255, styles


def content(i: int) -> tuple[str, ...]:
    """Return what the i-th unedited picture shows: in turn nothing, one object twice, and two objects twice."""
    first, second = OBJECTS[i // 5 % len(OBJECTS)], OBJECTS[(i // 5 * 7 + 3) % len(OBJECTS)]
    return ((), (first,), (first,), (first, second), (second, first))[i % 5]


def fitted(model: Any, clip: Any, vae: Any, judge: classifiers.Classifiers) -> ArtefactJudge:
    """Return the measures, fitted to unedited pictures of the tuning seeds."""
    return ArtefactJudge(judge, vae, *unedited(model, clip, vae, TUNING_SEEDS[900_000:]))


def place(rng: np.random.Generator, side: int) -> tuple[slice, slice]:
    """Return a random square of a picture."""
    top, left = rng.integers(0, 128 - side, 2)
    return slice(top, top + side), slice(left, left + side)


def blob(x: np.ndarray, rng: np.random.Generator) -> None:
    """Paint a disc of one vivid colour, 24 pixels wide."""
    y, z = np.mgrid[0:24, 0:24] - 11.5
    x[place(rng, 24)][y**2 + z**2 < 144] = rng.permutation([1.0, 0.0, rng.random()])


def noise(x: np.ndarray, rng: np.random.Generator) -> None:
    """Add coarse noise to a quarter of the picture."""
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


DAMAGES: tuple[Callable[[np.ndarray, np.random.Generator], None], ...] = (blob, noise, shuffle, smear, burn)


def with_damage(pictures: Tensor, damage: Callable[[np.ndarray, np.random.Generator], None]) -> Tensor:
    """Return copies of pictures with one kind of damage each, in a place drawn for each."""
    damaged = pictures.numpy().copy()
    for i, picture in enumerate(damaged):
        damage(picture, np.random.default_rng(i))
    return torch.from_numpy(damaged.clip(0, 1))


def main() -> None:
    """Print false alarms and finds."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    model, clip, vae = checkpoint.load()
    judge = fitted(model, clip, vae, classifiers.load())
    fresh, styles = unedited(model, clip, vae, REPORTING_SEEDS[900_000:])
    print("| pictures | " + " | ".join(MEASURES) + " | either |\n|---|---|---|---|")
    for name, pictures in [("unedited", fresh), *((d.__name__, with_damage(fresh, d)) for d in DAMAGES)]:
        found = judge.damaged(pictures, styles)
        shares = [*found.float().mean(0).tolist(), float(found.any(1).float().mean())]
        print(
            f"| {name} (n {len(found)}) | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |", flush=True
        )
