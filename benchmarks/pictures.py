"""Show before, mask and after: ``python dev/host benchmarks.pictures`` writes ``docs/images/erasure_sheet.jpg``.

The first reporting prompts of every object are shown, nothing is picked: the object alone, and with another one.
"""

import argparse
from pathlib import Path

from ..demo_model.vocabulary import OBJECTS
from ..dev.demo_model.sampling import REPORTING_SEEDS
from ..reports.images import captioned, in_rows, sheet, to_pil
from ..reports.preview import heat_overlay
from ..reports.style import SMALL
from .framework.prompts import Plan, prompts_of
from .framework.settings import KEPT, SITE, Setting
from .framework.world import World

SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "erasure_sheet.jpg"
COLUMNS, GAP = 4, 8


def main() -> None:
    """Make the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default=f"{SITE} {KEPT}")
    parser.add_argument("--targets", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT")
    parser.add_argument("--out", type=Path, default=SHEET, help="the file to write")
    arguments = parser.parse_args()
    setting, world = Setting.parse(arguments.setting), World()
    strips = []
    for target in arguments.targets:
        shown = prompts_of(target, Plan(1, 0, 1), REPORTING_SEEDS)
        texts, seeds = [p.text for p in shown], [p.seed for p in shown]
        model, record = world.edited(setting, target)
        before, after = (world.images(each, texts, seeds, len(seeds)) for each in (world.model, model))
        assert record.latest is not None
        found = heat_overlay(record.latest, before)
        for i, prompt in enumerate(shown):
            strip = sheet([[to_pil(images[i]) for images in (before, found, after)]], gap=0)
            caption = f"{' + '.join(prompt.objects)}, {prompt.style}: {target} erased"
            strips.append(captioned(strip, caption, SMALL))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(in_rows(strips, COLUMNS), GAP).save(arguments.out, quality=75)
    print(arguments.out)
