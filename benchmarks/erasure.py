"""Does it really erase? UA, IRA, CRA and more on the demo model, for any settings.

``python dev/host benchmarks.erasure --split tuning "HOOKPOINT similar positive 1.0"`` prints one row a
setting. framework/settings.py says how a setting is spelled; ``plain`` is the unedited model, ``omit`` leaves the
target out of the prompt, ``negative`` names it in the negative prompt, ``inpaint SETTING`` samples anew what a setting
detects. ``--main`` adds the rows of MAIN. framework/outcomes.py explains the first columns, framework/changes.py those
that tell what else changed, artifacts/round_trip.py the last one.

``--json FILE`` writes the same table, with the ends of each interval, how each row is spelled, and what made it.

Results are kept for each target in ``dev/work/erasure/``, so an interrupted run resumes, and another call prints them
again. Settings are chosen on the split ``tuning`` and reported on ``reporting``.
"""

import argparse
from dataclasses import asdict
from functools import cache

from .artifacts import round_trip
from .framework.changes import CHANGES
from .framework.outcomes import COLUMNS, SWAPPED
from .framework.prompts import Plan
from .framework.runs import add_options, print_targets, results_of, scope_of
from .framework.settings import EMPTY, KEPT, LEFT_OUT, MIDDLE_TOO, ONE_PASS, SITE, SWAP
from .framework.tables import Table, add_json
from .framework.ways import INPAINT, OMIT, PLAIN
from .framework.world import World

# What an artist chooses between, by the names of the docs.
MAIN = {
    "may change, published": f"{SITE} random positive 1.0",
    "may change": f"{SITE} {ONE_PASS}",
    "keep exactly (default)": f"{SITE} {KEPT}",
    "keep exactly, fill: prompt without the word": f"{SITE} {KEPT} fill={LEFT_OUT}",
    "keep exactly, fill: empty scene": f"{SITE} {KEPT} fill={EMPTY}",
    "keep exactly, fill: another object": f"{SITE} {KEPT} fill={SWAP}",
    "detected mask inpainted": f"{INPAINT} {SITE} none positive 1.0 share=0.25 at={MIDDLE_TOO}",
    "word left out of the prompt": OMIT,
    "steering": f"{SITE} SAeUron both -15",
}
UNEDITED = "unedited"


def main() -> None:
    """Run settings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--main", action="store_true", help="also the rows of MAIN")
    add_options(parser, Plan(8, 19, 8))
    add_json(parser)
    arguments = parser.parse_args()
    world, scope = World(), scope_of(arguments)
    artifacts = cache(lambda: round_trip.fitted(*world.unedited))
    named = {**(MAIN if arguments.main else {}), **{text: text for text in arguments.settings if text != PLAIN}}
    table = Table("setting", (*COLUMNS, SWAPPED, *CHANGES, round_trip.NAME))
    unedited = results_of(world, PLAIN, scope, artifacts=artifacts, areas=lambda: world.judge)
    table.add_outcomes(UNEDITED, unedited, spelled=PLAIN)
    for name, text in named.items():
        row = results_of(world, text, scope, unedited, artifacts, lambda: world.judge)
        table.add_outcomes(name, row, spelled=text)
        if arguments.per_target:
            print_targets(name, row)
    plan = {**asdict(scope.plan), "targets": list(scope.targets)}
    table.write(arguments.json, unit="percent", split=scope.split, plan=plan)
