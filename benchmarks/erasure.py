"""Does it really erase? UA, IRA, CRA and more on the small world, for any settings.

``python dev/host benchmarks.erasure --split tuning "HOOKPOINT similar positive 1.0"`` prints one row a
setting. framework/settings.py says how a setting is spelled; ``plain`` is the unedited model, ``omit`` leaves the
target out of the prompt, ``negative`` names it in the negative prompt, ``inpaint SETTING`` samples anew what a setting
detects. ``--main`` adds the rows of MAIN. framework/outcomes.py explains the first columns, framework/changes.py those
that tell what else changed, artifacts/round_trip.py the last one.

``--json FILE`` writes the same table, with the ends of each interval, what made it, and where, for programs to read.

Results are kept for each target in ``dev/work/erasure/``, so an interrupted run resumes, and another call prints them
again. Settings are chosen on the split ``tuning`` and reported on ``reporting``.
"""

import argparse
from dataclasses import asdict
from functools import cache
from pathlib import Path

from .artifacts import round_trip
from .framework.changes import CHANGES
from .framework.outcomes import COLUMNS, SWAPPED
from .framework.prompts import Plan
from .framework.runs import add_options, print_targets, results_of, scope_of
from .framework.settings import FILLS, KEPT, MIDDLE_TOO, ONE_PASS, SITE
from .framework.tables import print_table, write_table
from .framework.ways import INPAINT, OMIT, PLAIN
from .framework.world import World

# What an artist chooses between; the SAE's block stands before each but the prompts.
MAIN = (
    f"{SITE} random positive 1.0",
    f"{SITE} {ONE_PASS}",
    f"{SITE} {KEPT}",
    *(f"{SITE} {KEPT} fill={fill}" for fill in FILLS),
    f"{INPAINT} {SITE} none positive 1.0 share=0.25 at={MIDDLE_TOO}",
    OMIT,
    f"{SITE} SAeUron both -15",
)


def main() -> None:
    """Run settings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--main", action="store_true", help="also the rows of MAIN")
    add_options(parser, Plan(8, 19, 8))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")
    arguments = parser.parse_args()
    world, scope = World(), scope_of(arguments)
    artifacts = cache(lambda: round_trip.fitted(*world.unedited))
    columns = (*COLUMNS, SWAPPED, *CHANGES, round_trip.NAME)
    unedited = results_of(world, PLAIN, scope, artifacts=artifacts, areas=lambda: world.judge)
    rows = {PLAIN: unedited}
    for text in dict.fromkeys([*(MAIN if arguments.main else ()), *arguments.settings]):
        if text != PLAIN:
            rows[text] = results_of(world, text, scope, unedited, artifacts, lambda: world.judge)
            if arguments.per_target:
                print_targets(text, rows[text])
        print_table({PLAIN: unedited, text: rows[text]}, columns)
    print_table(rows, columns)
    if arguments.json:
        plan = {**asdict(scope.plan), "targets": list(scope.targets)}
        write_table(arguments.json, rows, columns, split=scope.split, plan=plan)
