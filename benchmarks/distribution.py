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

from ..demo_model.vocabulary import OBJECTS, STYLES
from ..erasure.record import RunRecord
from ..erasure.statistics import REACH, Distance, Statistics, distance, pooled_counts
from ..reports.chart import Line, line_chart
from ..reports.erasure_report import EDITED, UNEDITED, USUAL
from ..reports.images import sheet, titled
from ..reports.style import TITLE
from .framework.prompts import SPLITS, Prompt
from .framework.settings import KEPT, LEFT_OUT, ONE_PASS, SITE, Setting
from .framework.tables import Table, add_json, share
from .framework.ways import edited_for
from .framework.world import World

REFERENCE = f"{SITE} none positive 1.0 at=middle"
OTHER_SEED = "unedited, another seed"
# What artists choose between, and the ends and the middle of the published range of strengths.
SETTINGS = {
    "keep exactly (default)": f"{SITE} {KEPT}",
    "keep exactly, fill: prompt without the word": f"{SITE} {KEPT} fill={LEFT_OUT}",
    "may change": f"{SITE} {ONE_PASS}",
    "may change, published": f"{SITE} random positive 1.0",
    **{f"steering, {strength}": f"{SITE} SAeUron both {strength}" for strength in (-1, -5, -15, -30)},
}
FIGURE = ("steering, -1", "steering, -15", "steering, -30", "keep exactly (default)")
BEYOND = f"beyond {USUAL:.0%}"
COLUMNS = ("outside, median %", "5th", "95th", "shift, median", "shift, 5th", "shift, 95th", BEYOND)
MEANT = (
    "Outside: share of the patches' norms that an unedited run of the same seed does not reach. Shift: of the log2 "
    "norms, in octaves. 5th and 95th are percentiles over images; the last column is a share of images, in percent."
)
SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "distribution.jpg"
CHART, GAP = (320, 170), 8

Runs = list[list[Statistics]]  # for each object its steps


def sampled(world: World, setting: str, target: str, seeds: list[int]) -> RunRecord:
    """Sample images of a target in one style and return the record."""
    style = STYLES[OBJECTS.index(target) % len(STYLES)]
    prompts = [Prompt((target,), style, seed) for seed in seeds]
    model, record = edited_for(world, Setting.parse(setting), target, prompts)
    world.latents(model, [prompt.text for prompt in prompts], seeds)
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
        for title in FIGURE:
            run = sampled(world, SETTINGS[title], target, seeds)
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


def measured(world: World, split: str, targets: Sequence[str], images: int) -> dict[str, list[Distance]]:
    """Return how far each setting's images are from the unedited ones."""
    found: dict[str, list[Distance]] = defaultdict(list)
    for target in targets:
        seeds = seeds_of(split, target, images)
        reference = sampled(world, REFERENCE, target, seeds)
        found[OTHER_SEED] += distances(reference, reference, 1)
        for name, setting in SETTINGS.items():
            found[name] += distances(sampled(world, setting, target, seeds), reference)
        print(f"  {target}", flush=True)
    return found


def quantiles(values: Sequence[float], digits: int) -> list[float]:
    """Return median, 5th and 95th percentile."""
    return [round(each, digits) for each in torch.tensor(values).quantile(torch.tensor([0.5, 0.05, 0.95])).tolist()]


def main() -> None:
    """Print median, 5th and 95th percentile of both distances, and the share beyond the report's limit; or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=list(SPLITS), default="reporting")
    parser.add_argument("--images", type=int, default=4, help="of each object, two or more")
    parser.add_argument("--targets", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT")
    parser.add_argument("--figure", action="store_true", help="make the figure instead")
    parser.add_argument("--out", type=Path, default=SHEET, help="the figure's file")
    add_json(parser)
    given = parser.parse_args()
    if given.images < 2:
        parser.error("--images: an unedited run is compared with that of another seed, so it takes two or more")
    if given.figure:
        return make_figure(World(), given.split, given.images, given.targets, given.out)
    table = Table("run", COLUMNS)
    for name, figures in measured(World(), given.split, given.targets, given.images).items():
        far = [each.outside for each in figures]
        percent, shift = quantiles([100 * each for each in far], 1), quantiles([f.norm_shift for f in figures], 3)
        beyond = share([each > USUAL for each in far])
        table.add(name, *percent, *shift, beyond, spelled=SETTINGS.get(name, REFERENCE))
    table.write(given.json, MEANT, split=given.split, images=given.images, targets=list(given.targets))
