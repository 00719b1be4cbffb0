"""Does it really erase? UA, IRA, CRA and more on the small world, for any settings.

``python dev/host benchmarks.erasure --split tuning "HOOKPOINT similar positive 1.0"`` prints one row a
setting. framework/settings.py says how a setting is spelled; ``plain`` is the unedited model, ``omit`` leaves the
target out of the prompt, ``negative`` names it in the negative prompt. framework/outcomes.py explains the columns,
artifacts/round_trip.py the last one.

``--json FILE`` writes the same table, with the ends of each interval, what made it, and where, for programs to read.

Results are kept for each target in ``dev/work/erasure/``, so an interrupted run resumes, and another call prints them
again. Settings are chosen on the split ``tuning`` and reported on ``reporting``.
"""

import argparse
from dataclasses import asdict
from functools import cache
from pathlib import Path

from .artifacts import round_trip
from .framework.outcomes import COLUMNS
from .framework.prompts import Plan
from .framework.runs import PLAIN, add_options, print_targets, results_of, scope_of
from .framework.tables import print_table, write_table
from .framework.world import World


def main() -> None:
    """Run settings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+")
    add_options(parser, Plan(8, 19, 8))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")
    arguments = parser.parse_args()
    world, scope = World(), scope_of(arguments)
    artifacts = cache(lambda: round_trip.fitted(*world.unedited))
    columns = (*COLUMNS, round_trip.NAME)
    unedited = results_of(world, PLAIN, scope, artifacts=artifacts)
    rows = {PLAIN: unedited}
    for text in dict.fromkeys(arguments.settings):
        if text != PLAIN:
            rows[text] = results_of(world, text, scope, unedited, artifacts)
            if arguments.per_target:
                print_targets(text, rows[text])
        print_table({PLAIN: unedited, text: rows[text]}, columns)
    print_table(rows, columns)
    if arguments.json:
        plan = {**asdict(scope.plan), "targets": list(scope.targets)}
        write_table(arguments.json, rows, columns, split=scope.split, plan=plan)
