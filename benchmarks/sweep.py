"""How hard must latents be steered? ``python dev/host benchmarks.sweep`` makes ``docs/images/strength_sweep.jpg``.

Columns: unedited, SAeUron's steering from -1 to -30, and replacement at the defaults, each with UA and IRA on the
tuning split above it. Rows: a tuning prompt of every fourth object, the n-th for the n-th row, so that
each has another style; nothing is picked. The table is printed too.
"""

import argparse
from pathlib import Path

from PIL import Image

from ..demo_model.vocabulary import OBJECTS
from ..reports.images import scaled, sheet, to_pil, words
from ..reports.style import SMALL
from .framework.prompts import SPLITS, Plan, Prompt, prompts_of
from .framework.runs import Scope, results_of
from .framework.settings import ONE_PASS, SITE, Setting
from .framework.tables import heading, line, percent
from .framework.ways import PLAIN
from .framework.world import World

COLUMNS = {
    "unedited": PLAIN,
    **{f"steered {strength}": f"{SITE} SAeUron both {strength}" for strength in (-1, -5, -10, -15, -20, -25, -30)},
    "replaced": f"{SITE} {ONE_PASS}",
}
SHOWN = OBJECTS[::4]
SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "strength_sweep.jpg"
SIDE = 110  # pixels


def prompt_of(target: str, number: int) -> Prompt:
    """Return the first tuning prompt of a target in its n-th style."""
    return prompts_of(target, Plan(number + 1, 0, 0), SPLITS["tuning"])[number]


def image(world: World, setting: str, target: str, number: int) -> Image.Image:
    """Return the image of ``prompt_of``."""
    prompt = prompt_of(target, number)
    model = world.model if setting == PLAIN else world.edited(Setting.parse(setting), target)[0]
    return scaled(to_pil(world.images(model, [prompt.text], [prompt.seed], 1)[0]), SIDE)


def main() -> None:
    """Make the sheet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3, help="of each target, and as many of other objects")
    parser.add_argument("--out", type=Path, default=SHEET, help="the file to write")
    arguments = parser.parse_args()
    number = arguments.images
    world, scope = World(), Scope("tuning", Plan(number, number, 0))
    unedited = results_of(world, PLAIN, scope)
    heads, shown = [], []
    print(heading("", "UA", "IRA"))
    for title, setting in COLUMNS.items():
        row = results_of(world, setting, scope, unedited)
        said = [percent(row.values(name), 0) for name in ("UA", "IRA")]
        print(line(title, *said), flush=True)
        heads.append(words(f"{title}\nUA {said[0]}\nIRA {said[1]}", SIDE, SMALL))
        shown.append([image(world, setting, target, i) for i, target in enumerate(SHOWN)])
    rows = [heads]
    for i, (target, images) in enumerate(zip(SHOWN, zip(*shown, strict=True), strict=True)):
        rows += [[words(f"{prompt_of(target, i).text}: {target} erased", len(COLUMNS) * SIDE, SMALL)], list(images)]
    sheet(rows).save(arguments.out, quality=78)
    print(f"{arguments.out}: {number * len(OBJECTS)} images a rate")
