"""How hard must latents be steered? ``python dev/host benchmarks.sweep`` draws ``docs/images/strength_sweep.jpg``.

Columns: unedited, SAeUron's steering from -1 to -30, and replacement at the defaults, each with UA and IRA on the
tuning split (see erasure.py) above it. Rows: a tuning prompt of every fourth object, the n-th for the n-th row, so that
each has another style; nothing is picked. The table is printed too.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..demo_model.vocabulary import OBJECTS
from ..reports.images import to_pil
from ..reports.style import font
from .erasure import DEFAULTS, PLAIN, SPLITS, Plan, Setting, World, half_width, prompts_of, results_of, row_of

SITE = "output_blocks.1.1"
COLUMNS = {
    "unedited": PLAIN,
    **{f"steered {strength}": f"{SITE} SAeUron both {strength}" for strength in (-1, -5, -10, -15, -20, -25, -30)},
    "replaced": f"{SITE} {DEFAULTS}",
}
SHOWN = OBJECTS[::4]
SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "strength_sweep.jpg"
SIDE, HEAD, LINE = 112, 44, 15


def picture(world: World, setting: str, target: str, number: int) -> Tensor:
    """Return the first tuning picture of a target in its n-th style, [128, 128, 3]."""
    prompt = prompts_of(target, Plan(number + 1, 0, 0), SPLITS["tuning"])[0][number]
    model = world.model if setting == PLAIN else world.edited(Setting.parse(setting), target)[0]
    return world.pictures(model, [prompt.text], [prompt.seed], 1, "")[0]


def main() -> None:
    """Draw the sheet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3, help="of each target, and as many of other objects")
    plan = Plan(parser.parse_args().pictures, parser.parse_args().pictures, 0)
    world, plain = results_of(World(), PLAIN, "tuning", plan, 40, damage=False)
    assert world is not None
    sheet = Image.new("RGB", (len(COLUMNS) * SIDE, HEAD + len(SHOWN) * (SIDE + LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    print("| | UA | IRA |\n|---|---|---|")
    for x, (title, setting) in enumerate(COLUMNS.items()):
        world, outcomes = results_of(world, setting, "tuning", plan, 40, damage=False)
        assert world is not None
        rates = [row_of(outcomes, plain)[name] for name in ("UA", "IRA")]
        said = [f"{100 * np.mean(rate):.0f} ± {100 * half_width(rate):.0f}" for rate in rates]
        print(f"| {title} | {said[0]} | {said[1]} |", flush=True)
        draw.multiline_text((x * SIDE + 4, 2), f"{title}\nUA {said[0]}\nIRA {said[1]}", "black", font(12), spacing=1)
        for y, target in enumerate(SHOWN):
            tile = to_pil(picture(world, setting, target, y)).resize((SIDE - 2, SIDE - 2), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x * SIDE, HEAD + y * (SIDE + LINE) + LINE))
            if not x:
                text = prompts_of(target, Plan(y + 1, 0, 0), SPLITS["tuning"])[0][y].text
                draw.text((4, HEAD + y * (SIDE + LINE)), f"{text}: {target} erased", "black", font(11))
    sheet.save(SHEET, quality=78)
    print(f"{SHEET}: {plan.singles * len(OBJECTS)} pictures a rate")
