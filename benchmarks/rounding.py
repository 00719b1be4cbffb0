"""How much does an image depend on rounding? By each choice of source patches.

The same sums in another order, as on another device or in a batch of another size, end in other last bits. Without an
edit they stay last bits; an edit has thresholds, and a source patch that is chosen for being most similar can change
where two are almost so. ``python dev/host benchmarks.rounding`` samples images of half the model's size and of its
own, whose grid is as large as SD1.5's at 512, in a batch, alone, and in a batch in which every input of the UNet,
each number for itself, was made larger or smaller by ``--nudge``, at every step. It prints how far the last two are
from the first, and of how many replaced patches the source patch was another.
"""

import argparse
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..demo_model.sizes import FACTOR, SIDE
from ..demo_model.vocabulary import OBJECTS, STYLES, caption
from ..dev.demo_model.sampling import REPORTING_SEEDS, sample
from ..erasure.attach import attach
from ..erasure.detection import Detector
from ..erasure.record import RunRecord
from ..erasure.replacement import Replacement
from .framework.settings import SITE
from .framework.world import World

MODES = ("none", "random", "similar")
FIRST_SEED = REPORTING_SEEDS.start + 900_000  # of no other benchmark
Place = tuple[Hashable, ...]
Sampled = tuple[Tensor, dict[Place, int]]


def sources_of(run: RunRecord, first: int) -> dict[Place, int]:
    """Return which patch came into which place: by image, counted from ``first``, block, noise level and place."""
    found: dict[Place, int] = {}
    for entry in run.entries.values():
        if entry.after is None or entry.after.source is None:
            continue
        for image, sources in enumerate(entry.after.source.tolist()):
            moved = {place: source for place, source in enumerate(sources) if place != source}
            found |= {(first + image, entry.hookpoint, entry.sigma, place): moved[place] for place in moved}
    return found


def nudged(model: Any, nudge: float) -> Any:
    """Return the model with every number that goes into its UNet changed by a share of itself, up or down."""

    def wrapper(apply_model: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        latents = given["input"]
        signs = torch.randint(2, latents.shape, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        return apply_model(latents * (1 + nudge * signs.to(latents)), given["timestep"], **given["c"])

    changed = model.clone()
    changed.set_model_unet_function_wrapper(wrapper)
    return changed


def sampled(world: World, mode: str, target: str, seeds: Sequence[int], side: int, batch: int, nudge: float) -> Sampled:
    """Sample images of a target, so many at once; return them and the source patches."""
    sae = world.sae(SITE)
    base = nudged(world.model, nudge) if nudge else world.model
    model, record = attach(base, Detector(sae, sae.concept(target)), Replacement(mode))
    text = caption((target,), STYLES[OBJECTS.index(target) % len(STYLES)])
    images, sources = [], {}
    for first in range(0, len(seeds), batch):
        some = seeds[first : first + batch]
        latents = sample(model, world.clip, [text] * len(some), some, size=(side // FACTOR, side // FACTOR))
        images.append(world.vae.decode(latents))
        assert record.latest is not None
        sources |= sources_of(record.latest, first)
    return torch.cat(images), sources


class Apart:
    """How far images are from those that they should be equal to, summed up over targets."""

    def __init__(self) -> None:
        self.images: list[float] = []
        self.same = self.other = self.alone = 0

    def add(self, one: Sampled, two: Sampled) -> None:
        """Compare two samplings of the same images."""
        (images, ours), (repeated, theirs) = one, two
        self.images += (images - repeated).abs().mean((1, 2, 3)).tolist()
        shared = ours.keys() & theirs.keys()
        changed = sum(ours[place] != theirs[place] for place in shared)
        self.same, self.other = self.same + len(shared) - changed, self.other + changed
        self.alone += len(ours.keys() ^ theirs.keys())

    def row(self) -> str:
        """Return the columns of the table."""
        low, middle, high, most = 100 * np.quantile(self.images, [0.25, 0.5, 0.75, 1])
        total = self.same + self.other + self.alone
        shares = [f"{100 * n / total:.2f} %" if total else "-" for n in (self.other, self.alone)]
        apart = f"{middle:.4f} % ({low:.4f} to {high:.4f})"
        return f"{apart} | {most:.4f} % | {len(self.images)} | {' | '.join(shares)} | {total} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", type=int, default=(SIDE // 2, SIDE), help="of the images, in pixels")
    parser.add_argument("--targets", type=int, default=5, help="how many objects")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--nudge", type=float, default=1e-6, help="as a share of each number")
    given = parser.parse_args()
    world, step = World(), len(OBJECTS) // given.targets
    print("| | images apart: median (quartiles) | most | images | another source | replaced in one only | patches |")
    print("|---|---|---|---|---|---|---|")
    for side in given.sides:
        for mode in MODES:
            alone, moved = Apart(), Apart()
            for number, target in enumerate(OBJECTS[::step][: given.targets]):
                seeds = [FIRST_SEED + 100 * number + i for i in range(given.batch)]
                together = sampled(world, mode, target, seeds, side, given.batch, 0)
                alone.add(together, sampled(world, mode, target, seeds, side, 1, 0))
                moved.add(together, sampled(world, mode, target, seeds, side, given.batch, given.nudge))
            print(f"| {side} px, {mode}: alone | {alone.row()}")
            print(f"| {side} px, {mode}: nudged | {moved.row()}", flush=True)
