"""Show before, mask and after: ``python dev/host benchmarks.pictures`` writes ``docs/images/erasure_sheet.jpg``.

The first reporting prompts of every object are shown, nothing is picked: the object alone, and with another one. Of
several settings the images after stand beside each other. ``--shuffled`` puts these in an order of its own in each row
and prints it, for people who shall say what they see without knowing which is which.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random

from torch import Tensor

from ..demo_model.vocabulary import OBJECTS
from ..dev.demo_model.sampling import REPORTING_SEEDS, encode
from ..reports.images import captioned, in_rows, scaled, sheet, to_pil
from ..reports.preview import heat_overlay
from ..reports.style import SMALL
from .framework.prompts import Plan, Prompt, prompts_of
from .framework.settings import KEPT, SITE, Setting, fill_text
from .framework.world import World

SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "erasure_sheet.jpg"
COLUMNS, GAP = 4, 8


def main() -> None:
    """Make the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=[f"{SITE} {KEPT}"])
    parser.add_argument("--targets", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT")
    parser.add_argument("--shuffled", action="store_true", help="the settings' order differs from row to row")
    parser.add_argument("--side", type=int, default=256, help="width of each image in pixels")
    parser.add_argument("--out", type=Path, default=SHEET, help="the file to write")
    arguments = parser.parse_args()
    world, order = World(), Random(0)
    strips = []
    for target in arguments.targets:
        shown = prompts_of(target, Plan(1, 0, 1), REPORTING_SEEDS)
        before, found, after = images_of(world, target, shown, [Setting.parse(each) for each in arguments.settings])
        for i, prompt in enumerate(shown):
            places = list(range(len(after)))
            if arguments.shuffled:
                order.shuffle(places)
                print(f"{target}, {i + 1}: {', '.join(arguments.settings[place] for place in places)}", flush=True)
            images = [before, found, *(after[place] for place in places)]
            strip = sheet([[scaled(to_pil(each[i]), arguments.side) for each in images]], gap=0)
            caption = f"{' + '.join(prompt.objects)}, {prompt.style}: {target} erased"
            strips.append(captioned(strip, caption, SMALL))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(in_rows(strips, max(1, COLUMNS // len(arguments.settings))), GAP).save(arguments.out, quality=75)
    print(arguments.out)


def images_of(
    world: World, target: str, prompts: Sequence[Prompt], settings: Sequence[Setting]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the images before, where the first setting detects the target, and those after each setting."""
    texts, seeds = [p.text for p in prompts], [p.seed for p in prompts]
    before, found, after = world.images(world.model, texts, seeds, len(seeds)), None, []
    for setting in settings:
        filled = [fill_text(setting.fill, target, p) for p in prompts] if setting.fill else []
        model, record = world.edited(setting, target, encode(world.clip, filled)[0][0] if filled else None)
        after.append(world.images(model, texts, seeds, len(seeds)))
        if found is None:
            assert record.latest is not None
            found = heat_overlay(record.latest, before)
    assert found is not None
    return before, found, after
