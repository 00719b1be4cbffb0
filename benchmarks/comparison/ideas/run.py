"""Runs ideas and settings and prints the table."""

import argparse
from typing import Any

import numpy as np

from ....demo_model.vocabulary import OBJECTS
from ...erasure import PLAIN, Plan
from .. import unedited

IDEAS = (
    "steady",
    "shift 0.5",
    "shift 1",
    "shifted",
    "sided",
    "earlier",
    "bank",
    "soft",
    "smooth",
    "twice",
    "finish 300",
    "finish 500",
    "quiet 100 3",
    "quiet 300 3",
    "quiet 500 3",
    "quiet 700 3",
    "quiet 1000 3",
    "mute 1000 3",
    "hush 300 3",
    "hush 500 3",
    "bare 300 3",
    "calm 500 3",
    "keen 0.6",
    "keen 0.6 calm 300 3",
    "again 0.5",
    "again 0.5 quiet 300 3",
    "again 0.5 quiet 500 3",
    "again 0.5 hush 300 3",
    "again 0.5 hush 500 3",
    "again 0.5 bare 300 3",
    "redraw 0.5",
    "redraw 0.5 hush 300 3",
)
# What the nodes offer: other donors, both halves, a part of the steps, a mask refined.
SETTINGS = (
    "outputs alike conditional 1.0 donors=0.25 at=middle",
    "outputs random both 1.0 donors=0.25 at=middle",
    "outputs random conditional 1.0 0-0.8 donors=0.25 at=middle",
    "outputs random conditional 1.0 donors=0.25 at=middle least_share=0.09",
)
TURN = 7  # its seeds are no other's: the table's rounds begin at 0


def main() -> None:
    """Run ideas and print the table."""
    # The table asks for ideas itself.
    from ..table import COLUMNS, RANDOM, ROUND, Job, bench, outcome_of, print_table, row_of
    from . import __doc__ as about

    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="as in methods.py; all ideas and settings if left out")
    parser.add_argument("--split", choices=["tuning", "reporting"], default="tuning")
    parser.add_argument("--plan", nargs=3, type=int, default=(5, 6, 3), help="pictures a target: alone, others, pairs")
    parser.add_argument("--rounds", nargs=2, type=int, help="instead, the table's rounds FROM, UP TO")
    parser.add_argument("--share", default="0/1", help="which part of the pictures to make: I/N")
    given = parser.parse_args()
    usual_way = f"outputs {RANDOM}"
    methods = [PLAIN, usual_way, *(given.methods or [*(f"idea {idea}" for idea in IDEAS), *SETTINGS])]
    named = {{PLAIN: "no edit", usual_way: "random donors"}.get(method, method): method for method in methods}
    turns, plan = (range(*given.rounds), ROUND) if given.rounds else ((TURN,), Plan(*given.plan))
    jobs = [Job(given.split, method, target, turn, plan) for method in methods for turn in turns for target in OBJECTS]
    share, of = (int(part) for part in given.share.split("/"))
    unedited.make(bench().model, bench().clip, bench().vae, unedited.files())
    for job in jobs[share::of]:
        outcome_of(job, bench)
    if of == 1:
        print_table(named, jobs, "")
        plain, usual = row_of(jobs, PLAIN), row_of(jobs, usual_way)
        for name, method in named.items():
            row = row_of(jobs, method)
            print(f"{name}: against no edit IRA {change(row, plain, plain, 'IRA')}; against random donors", end=" ")
            print(", ".join(f"{column} {change(row, usual, plain, column)}" for column in COLUMNS), flush=True)


def change(row: Any, other: Any, plain: Any, column: str) -> str:
    """Return by how much a column differs from another row's, picture by picture, with its 95 % interval."""
    pairs = zip(row.values(column, plain), other.values(column, plain), strict=True)
    changes = np.array([100.0 * now - 100.0 * before for now, before in pairs])
    return f"{changes.mean():+.1f} ± {1.96 * changes.std() / len(changes) ** 0.5:.1f} (n {len(changes)})"
