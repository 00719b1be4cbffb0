"""Draw before, mask and after: ``python dev/host benchmarks.pictures`` writes ``docs/images/erasure_sheet.jpg``.

Reporting prompts of every object are shown, nothing is picked: the object alone, and with another one. The n-th object
shows its n-th prompts, so that all styles have their turn.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..demo_model.vocabulary import OBJECTS
from ..dev.demo_model.sampling import REPORTING_SEEDS
from ..reports.preview import heat_overlay
from .framework.prompts import Plan, prompts_of
from .framework.settings import DEFAULTS, SITE, Setting
from .framework.world import World

SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "erasure_sheet.jpg"
SIDE, LINE, COLUMNS = 128, 14, 4


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", default=f"{SITE} {DEFAULTS}")
    arguments = parser.parse_args()
    setting, world = Setting.parse(arguments.setting), World()
    strips = []
    for target in OBJECTS:
        number = OBJECTS.index(target) + 1
        prompts = prompts_of(target, Plan(number, 0, number), REPORTING_SEEDS)
        shown = [prompts[number - 1], prompts[-1]]
        texts, seeds = [p.text for p in shown], [p.seed for p in shown]
        model, record = world.edited(setting, target)
        before, after = (world.images(each, texts, seeds, len(seeds)) for each in (world.model, model))
        assert record.latest is not None
        found = heat_overlay(record.latest, before)
        for i, prompt in enumerate(shown):
            strips.append(
                (f"{' + '.join(prompt.objects)}, {prompt.style}: {target} erased", (before[i], found[i], after[i]))
            )
    rows = -(-len(strips) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (3 * SIDE + 8), rows * (SIDE + LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, pictures) in enumerate(strips):
        x, y = i % COLUMNS * (3 * SIDE + 8), i // COLUMNS * (SIDE + LINE)
        draw.text((x + 2, y + SIDE), title[:62], fill="black")
        for k, picture in enumerate(pictures):
            sheet.paste(Image.fromarray((picture.numpy() * 255).round().astype(np.uint8)), (x + k * SIDE, y))
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(SHEET, quality=75)
    print(SHEET)
