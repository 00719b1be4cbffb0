"""Does an edited run keep to the model's distribution? ``python host benchmarks.distribution`` prints a table.

For every object, pictures of it are sampled unedited and edited; the log2 norms of the patch embeddings at the SAE's
block and in the middle, in the conditional half, are compared step by step with those of the unedited run (see
erasure/statistics.py). The first row compares unedited runs of the same prompt with each other's seed, which says what
difference means nothing. After the figures of "Look But Don't Touch with Sparse Autoencoders for Unlearning in
Diffusion Models" (arXiv 2606.31699), put into numbers.
"""

import argparse
from collections import defaultdict

import torch

from ..canvas.vocabulary import OBJECTS, STYLES, caption
from ..erasure.record import RunRecord
from ..erasure.run_report import USUAL
from ..erasure.statistics import Distance, distance
from .erasure import SPLITS, Setting, World

SITE = "output_blocks.1.1"
REFERENCE = f"{SITE} none conditional 1.0 at=middle"
SETTINGS = (
    f"{SITE} random conditional 1.0 donors=0.25 at=middle",
    f"{SITE} random conditional 1.0",
    *(f"{SITE} SAeUron both {strength}" for strength in (-1, -5, -15, -30)),
)


def sampled(world: World, setting: str, target: str, seeds: list[int]) -> RunRecord:
    """Sample pictures of a target in one style and return the record."""
    model, record = world.edited(Setting.parse(setting), target)
    text = caption((target,), STYLES[OBJECTS.index(target) % len(STYLES)])
    world.pictures(model, [text] * len(seeds), seeds, 40, "")
    assert record.latest is not None
    return record.latest


def distances(run: RunRecord, reference: RunRecord, shift: int = 0) -> list[Distance]:
    """Compare each image of a run with the unedited one, or with that of another seed."""
    pairs = run.shared_statistics(reference)
    return [
        distance([(ours.norms[i], theirs.norms[(i + shift) % run.images]) for ours, theirs in pairs])
        for i in range(run.images)
    ]


def main() -> None:
    """Print median, 5th and 95th percentile of both distances, and the share beyond the report's limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=list(SPLITS), default="reporting")
    parser.add_argument("--pictures", type=int, default=4, help="of each object")
    arguments = parser.parse_args()
    world, found = World(), defaultdict(list)
    for number, target in enumerate(OBJECTS):
        start = SPLITS[arguments.split].start + 800_000 + 100 * number
        seeds = list(range(start, start + arguments.pictures))
        reference = sampled(world, REFERENCE, target, seeds)
        found["unedited, another seed"] += distances(reference, reference, 1)
        for setting in SETTINGS:
            found[setting] += distances(sampled(world, setting, target, seeds), reference)
    print(f"| run | norms outside | norm shift, octaves | beyond {USUAL:.0%} | n |\n|---|---|---|---|---|")
    quantiles = torch.tensor([0.5, 0.05, 0.95])
    for name, figures in found.items():
        outside, shift = (torch.tensor([getattr(d, key) for d in figures]) for key in ("outside", "norm_shift"))
        middle, low, high = (100 * outside.quantile(quantiles)).tolist()
        usual, least, most = shift.quantile(quantiles).tolist()
        print(
            f"| {name} | {middle:.1f} % ({low:.1f} to {high:.1f}) | {usual:.3f} ({least:.3f} to {most:.3f}) | "
            f"{100 * (outside > USUAL).float().mean():.0f} % | {len(figures)} |"
        )
