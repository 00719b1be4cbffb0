"""The tables of the comparison: percent, half the width of the 95 % Wilson interval, number of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..artifacts import own
from ..artifacts.both import MEASURES
from ..framework.changes import CHANGES
from ..framework.outcomes import COLUMNS, SWAPPED, Row
from ..framework.tables import Table, entry, share
from .jobs import Job, row_of
from .rows import AVERAGED, STEERING, average, chosen, tuning_jobs

NOTE = "Intervals of Avg and AR: bootstrap over targets."


def over_targets(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    """Return the mean of columns and its spread over targets: the 95 % interval of a bootstrap that draws targets."""
    rng, there = np.random.default_rng(0), list(dict.fromkeys(target for target, _ in row.outcomes))

    def figure(targets: Sequence[str]) -> float:
        return 100 * float(np.mean([np.mean(row.values(name, targets)) for name in columns]))

    drawn = [figure([str(name) for name in rng.choice(there, len(there))]) for _ in range(400)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": figure(there), "interval": [float(low), float(high)]}


def good_average(row: Row) -> float:
    """Return GA: the mean of UA, IRA, CRA and 100 - AR."""
    kept = [float(np.mean(row.values(name))) for name in AVERAGED]
    artifacts = np.mean([np.mean(row.values(name)) for name in MEASURES])
    return round(100 * float(np.mean([*kept, 1 - artifacts])), 1)


def print_tuning(targets: Sequence[str]) -> None:
    """Print every steering of the grid on tuning seeds."""
    table = Table("steering, tuning seeds", (*AVERAGED, "Avg", ""))
    for grid in STEERING.values():
        jobs, best = tuning_jobs(grid, targets), chosen(grid, targets)
        for method in grid:
            row = row_of(jobs, method)
            shares = [share(row.values(name)) for name in AVERAGED]
            table.add(method, *shares, round(100 * average(row), 1), "chosen" if method == best else "")


def table_of(named: Mapping[str, str], jobs: Sequence[Job], judge: str) -> Table:
    """Print and return the table of rows whose jobs are all on disk."""
    columns = [*COLUMNS, SWAPPED, *CHANGES, *MEASURES, *([own.NAME] if judge else [])]
    wanted = len(jobs) // len(set(named.values()))
    table = Table("method", (*columns, "Avg", "AR", "GA"))
    for name, method in named.items():
        row = row_of(jobs, method)
        if len(row.outcomes) < wanted or len(row.unedited) < wanted:
            continue
        averages = over_targets(row, AVERAGED), over_targets(row, MEASURES), good_average(row)
        commits = sorted({outcome.commit for outcome in row.outcomes.values()})
        entries = [entry(column, row.values(column)) for column in columns]
        table.add(name, *entries, *averages, spelled=method, commits=commits)
    return table
