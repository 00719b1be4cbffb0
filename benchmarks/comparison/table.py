"""Prints the tables of the comparison: percent, half the width of the 95 % Wilson interval, images in brackets."""

from collections.abc import Sequence

import numpy as np

from ...demo_model.vocabulary import OBJECTS
from ..artifacts import own
from ..artifacts.both import MEASURES
from ..framework.outcomes import COLUMNS, Outcome, Row
from ..framework.tables import heading, line, percent
from .jobs import Job, row_of
from .rows import AVERAGED, STEERING, average, chosen, tuning_jobs


def cell(hits: Sequence[bool]) -> str:
    """Return a share with its interval and the number of images."""
    return f"{percent(hits)} ({len(hits)})"


def over_targets(row: Row, columns: Sequence[str]) -> str:
    """Return the mean of columns and its spread over targets.

    The spread is half the width of the 95 % interval of a bootstrap that draws targets.
    """
    rng = np.random.default_rng(0)

    def figure(targets: Sequence[str]) -> float:
        return 100 * float(np.mean([np.mean(row.values(name, targets)) for name in columns]))

    drawn = [figure([str(name) for name in rng.choice(OBJECTS, len(OBJECTS))]) for _ in range(400)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{figure(OBJECTS):.1f} ± {(high - low) / 2:.1f}"


def good_average(row: Row) -> str:
    """Return GA: the mean of UA, IRA, CRA and 100 - AR."""
    kept = [float(np.mean(row.values(name))) for name in AVERAGED]
    artifacts = np.mean([np.mean(row.values(name)) for name in MEASURES])
    return f"{100 * np.mean([*kept, 1 - artifacts]):.1f}"


def times(row: Row) -> str:
    """Return the CPU time against that of no edit: median and quartiles of the ratios of the same jobs."""

    def spent(outcome: Outcome) -> float:
        return outcome.seconds / outcome.images

    ratios = [spent(outcome) / spent(row.unedited[key]) for key, outcome in row.outcomes.items()]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def print_tuning() -> None:
    """Print every steering of the grid on tuning seeds."""
    print(heading("steering, tuning seeds", *AVERAGED, "Avg", ""))
    for grid in STEERING.values():
        jobs, best = tuning_jobs(grid), chosen(grid)
        for method in grid:
            row = row_of(jobs, method)
            cells = [cell(row.values(name)) for name in AVERAGED]
            print(line(method, *cells, f"{100 * average(row):.1f}", "chosen" if method == best else ""), flush=True)


def print_table(named: dict[str, str], jobs: Sequence[Job], judge: str) -> None:
    """Print the table of rows whose jobs are all on disk."""
    columns = [*COLUMNS, *MEASURES, *([own.NAME] if judge else [])]
    wanted = len(jobs) // len(set(named.values()))
    print(heading("", *columns, "Avg", "AR", "GA", "time"))
    for name, method in named.items():
        row = row_of(jobs, method)
        if len(row.outcomes) < wanted or len(row.unedited) < wanted:
            continue
        cells = [cell(row.values(column)) for column in columns]
        averages = over_targets(row, AVERAGED), over_targets(row, MEASURES), good_average(row)
        print(line(name, *cells, *averages, times(row)), flush=True)
    print("\n" + "\n".join(f"* {name}: `{method}`" for name, method in named.items()))
