"""Does an edited run keep to the model's distribution? ``python dev/host benchmarks.distribution`` prints a table.

``--figure`` makes ``docs/images/distribution.jpg`` instead: the values and norms at the SAE's block behind the table.

For every object, images of it are sampled unedited and edited; the log2 norms of the patch embeddings at the SAE's
block and in the middle, for the positive prompts, are compared step by step with those of the unedited run (see
erasure/statistics.py). The first row compares unedited runs of the same prompt with each other's seed, which says what
difference means nothing. After the figures of "Look But Don't Touch with Sparse Autoencoders for Unlearning in
Diffusion Models" (arXiv 2606.31699), put into numbers.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..demo_model.vocabulary import OBJECTS, STYLES, caption
from ..erasure.record import RunRecord
from ..erasure.statistics import REACH, Distance, Statistics, distance, pooled_counts
from ..reports.chart import Line, line_chart
from ..reports.erasure_report import EDITED, UNEDITED, USUAL
from ..reports.images import sheet, titled
from ..reports.style import TITLE
from .framework.prompts import SPLITS
from .framework.settings import ONE_PASS, SITE, Setting
from .framework.tables import heading, line
from .framework.world import World

REFERENCE = f"{SITE} none positive 1.0 at=middle"
SETTINGS = (
    f"{SITE} {ONE_PASS}",
    f"{SITE} random positive 1.0",
    *(f"{SITE} SAeUron both {strength}" for strength in (-1, -5, -15, -30)),
)

# The ends and the middle of the published range of strengths, and replacement.
FIGURE = {
    "SAeUron's steering, -1": f"{SITE} SAeUron both -1",
    "SAeUron's steering, -15": f"{SITE} SAeUron both -15",
    "SAeUron's steering, -30": f"{SITE} SAeUron both -30",
    "Replaced, the defaults": SETTINGS[0],
}
SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "distribution.jpg"
CHART, GAP = (320, 170), 8

Runs = list[list[Statistics]]  # for each object its steps


def sampled(world: World, setting: str, target: str, seeds: list[int]) -> RunRecord:
    """Sample images of a target in one style and return the record."""
    model, record = world.edited(Setting.parse(setting), target)
    text = caption((target,), STYLES[OBJECTS.index(target) % len(STYLES)])
    world.images(model, [text] * len(seeds), seeds, 40)
    assert record.latest is not None
    return record.latest


def distances(run: RunRecord, reference: RunRecord, shift: int = 0) -> list[Distance]:
    """Compare each image of a run with the unedited one, or with that of another seed."""
    pairs = run.shared_statistics(reference)
    return [
        distance([(ours.norms[i], theirs.norms[(i + shift) % run.images]) for ours, theirs in pairs])
        for i in range(run.images)
    ]


def at_block(run: RunRecord) -> list[Statistics]:
    """Return the numbers of what the SAE's block passed on at each step."""
    return [found for sigma in run.sigmas() if (found := run.statistics_at(SITE, sigma)) is not None]


def outside_each_step(edited: Runs, unedited: Runs, shift: int = 0) -> list[float]:
    """Return the share of norms that the unedited run of the same seed does not reach, percent, for each step.

    Args:
        edited, unedited: the runs.
        shift: 1 for the unedited run of the next seed.
    """
    shares = []
    for ours, theirs in zip(zip(*edited, strict=True), zip(*unedited, strict=True), strict=True):
        norms = torch.cat([step.norms.roll(shift, 0) for step in ours])
        usual = torch.cat([step.norms for step in theirs])
        low, high = usual.amin(1, keepdim=True), usual.amax(1, keepdim=True)
        shares.append(100 * float(((norms < low) | (norms > high)).float().mean()))
    return shares


def row(title: str, edited: Runs, unedited: Runs) -> Image.Image:
    """Draw the charts of one way to edit below its title."""
    norms = [torch.cat([step.norms.flatten() for run in side for step in run]) for side in (unedited, edited)]
    low, high = float(min(n.min() for n in norms)), float(max(n.max() for n in norms))
    heights = [(torch.histc(n, 64, low, high) / len(n)).tolist() for n in norms]
    counts = [pooled_counts(step.counts.sum(0) for run in side for step in run) for side in (unedited, edited)]
    # As in the report: only a logarithm shows rare large values beside the many small ones.
    logs = [(1 + share * 1e5).log10().tolist() for share in counts]
    far = outside_each_step(unedited, unedited, 1), outside_each_step(edited, unedited)
    reach = f"{float(torch.tensor(REACH).sinh()):.0f}"
    title_far = f"norms outside a step (most {max(map(max, far)):.0f} %)"
    charts = [
        line_chart(CHART, "log2 norm of patch embeddings", both(*heights), (f"{low:.1f}", f"{high:.1f}")),
        line_chart(CHART, "activations (asinh axis), log share", both(*logs), (f"-{reach}", reach)),
        line_chart(CHART, title_far, both(*far, "other seed"), ("first step", "last")),
    ]
    return titled(title, sheet([charts], GAP), TITLE)


def both(unedited: list[float], edited: list[float], name: str = "unedited") -> list[Line]:
    """Return two lines of a chart, the unedited one below the other."""
    return [Line.even(unedited, UNEDITED, name), Line.even(edited, EDITED, "edited")]


def make_figure(world: World, split: str, images: int, targets: Sequence[str], out: Path) -> None:
    """Sample every object unedited and edited in each of FIGURE's ways, and draw a row of charts for each."""
    unedited: Runs = []
    edited: dict[str, Runs] = {title: [] for title in FIGURE}
    figures: dict[str, list[Distance]] = defaultdict(list)
    for target in targets:
        seeds = seeds_of(split, target, images)
        reference = sampled(world, REFERENCE, target, seeds)
        unedited.append(at_block(reference))
        for title, setting in FIGURE.items():
            run = sampled(world, setting, target, seeds)
            edited[title].append(at_block(run))
            steps = zip(edited[title][-1], unedited[-1], strict=True)
            pairs = [(ours.norms, theirs.norms) for ours, theirs in steps]
            figures[title] += [distance([(a[i], b[i]) for a, b in pairs]) for i in range(len(seeds))]
    rows = []
    for title, runs in edited.items():
        shift, far = (torch.tensor([getattr(d, key) for d in figures[title]]) for key in ("norm_shift", "outside"))
        text = f"{title}: {100 * far.median():.1f} % of norms outside, moved by {shift.median():.2f} octaves (medians)"
        rows.append(row(text, runs, unedited))
    sheet([[strip] for strip in rows], GAP).save(out, quality=80)
    print(f"{out}: {len(targets) * images} images a row")


def seeds_of(split: str, target: str, images: int) -> list[int]:
    """Return the seeds of an object's images."""
    start = SPLITS[split].start + 800_000 + 100 * OBJECTS.index(target)
    return list(range(start, start + images))


def main() -> None:
    """Print median, 5th and 95th percentile of both distances, and the share beyond the report's limit; or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=list(SPLITS), default="reporting")
    parser.add_argument("--images", type=int, default=4, help="of each object")
    parser.add_argument("--targets", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT")
    parser.add_argument("--figure", action="store_true", help="make the figure instead")
    parser.add_argument("--out", type=Path, default=SHEET, help="the figure's file")
    arguments = parser.parse_args()
    if arguments.figure:
        return make_figure(World(), arguments.split, arguments.images, arguments.targets, arguments.out)
    world, found = World(), defaultdict(list)
    for target in arguments.targets:
        seeds = seeds_of(arguments.split, target, arguments.images)
        reference = sampled(world, REFERENCE, target, seeds)
        found["unedited, another seed"] += distances(reference, reference, 1)
        for setting in SETTINGS:
            found[setting] += distances(sampled(world, setting, target, seeds), reference)
    print(heading("run", "norms outside", "norm shift, octaves", f"beyond {USUAL:.0%}", "n"))
    quantiles = torch.tensor([0.5, 0.05, 0.95])
    for name, figures in found.items():
        far, shift = (torch.tensor([getattr(d, key) for d in figures]) for key in ("outside", "norm_shift"))
        middle, low, high = (100 * far.quantile(quantiles)).tolist()
        usual, least, most = shift.quantile(quantiles).tolist()
        outside, moved = f"{middle:.1f} % ({low:.1f} to {high:.1f})", f"{usual:.3f} ({least:.3f} to {most:.3f})"
        print(line(name, outside, moved, f"{100 * (far > USUAL).float().mean():.0f} %", str(len(figures))))
