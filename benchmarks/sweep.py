"""How hard must latents be steered? ``python dev/host benchmarks.sweep`` draws ``docs/images/strength_sweep.jpg``.

Columns: unedited, SAeUron's steering from -1 to -30, and replacement at the defaults, each with UA and IRA on the
tuning split above it. Rows: a tuning prompt of every fourth object, the n-th for the n-th row, so that
each has another style; nothing is picked. The table is printed too.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from ..demo_model.vocabulary import OBJECTS
from ..reports.images import to_pil
from ..reports.style import font
from .framework.prompts import SPLITS, Plan, Prompt, prompts_of
from .framework.runs import PLAIN, Scope, results_of
from .framework.settings import DEFAULTS, SITE, Setting
from .framework.tables import heading, line, percent
from .framework.world import World

COLUMNS = {
    "unedited": PLAIN,
    **{f"steered {strength}": f"{SITE} SAeUron both {strength}" for strength in (-1, -5, -10, -15, -20, -25, -30)},
    "replaced": f"{SITE} {DEFAULTS}",
}
SHOWN = OBJECTS[::4]
SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "strength_sweep.jpg"
SIDE, HEAD, LINE = 112, 44, 15


def prompt_of(target: str, number: int) -> Prompt:
    """Return the first tuning prompt of a target in its n-th style."""
    return prompts_of(target, Plan(number + 1, 0, 0), SPLITS["tuning"])[number]


def image(world: World, setting: str, target: str, number: int) -> Tensor:
    """Return the image of ``prompt_of``, [128, 128, 3]."""
    prompt = prompt_of(target, number)
    model = world.model if setting == PLAIN else world.edited(Setting.parse(setting), target)[0]
    return world.images(model, [prompt.text], [prompt.seed], 1)[0]


def main() -> None:
    """Draw the sheet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3, help="of each target, and as many of other objects")
    number = parser.parse_args().pictures
    world, scope = World(), Scope("tuning", Plan(number, number, 0))
    unedited = results_of(world, PLAIN, scope)
    sheet = Image.new("RGB", (len(COLUMNS) * SIDE, HEAD + len(SHOWN) * (SIDE + LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    print(heading("", "UA", "IRA"))
    for x, (title, setting) in enumerate(COLUMNS.items()):
        row = results_of(world, setting, scope, unedited)
        said = [percent(row.values(name), 0) for name in ("UA", "IRA")]
        print(line(title, *said), flush=True)
        draw.multiline_text((x * SIDE + 4, 2), f"{title}\nUA {said[0]}\nIRA {said[1]}", "black", font(12), spacing=1)
        for y, target in enumerate(SHOWN):
            tile = to_pil(image(world, setting, target, y)).resize((SIDE - 2, SIDE - 2), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x * SIDE, HEAD + y * (SIDE + LINE) + LINE))
            if not x:
                text = f"{prompt_of(target, y).text}: {target} erased"
                draw.text((4, HEAD + y * (SIDE + LINE)), text, "black", font(11))
    sheet.save(SHEET, quality=78)
    print(f"{SHEET}: {number * len(OBJECTS)} images a rate")
