"""Tables in Markdown: percent, half the width of the 95 % Wilson interval, number of images. The same as JSON."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.stats import binomtest

from ...dev.figures.entries import heading, line, shown
from . import storage
from .changes import MEANS
from .facts import facts
from .outcomes import Row

__all__ = ["Table", "add_json", "average", "entry", "heading", "line", "percent", "share"]


def wilson(hits: Sequence[bool]) -> tuple[float, float]:
    """Return the ends of the 95 % Wilson interval of the share of True, 0..1; there must be some."""
    low, high = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return float(low), float(high)


def half_width(hits: Sequence[bool]) -> float:
    """Return half the width of the 95 % Wilson interval of a share."""
    low, high = wilson(hits)
    return (high - low) / 2


def percent(hits: Sequence[bool], digits: int = 1) -> str:
    """Return a share and half the width of its interval, in percent."""
    return f"{100 * np.mean(hits):.{digits}f} ± {100 * half_width(hits):.{digits}f}" if hits else "-"


def share(hits: Sequence[Any]) -> dict[str, Any] | None:
    """Return a share in percent, the ends of its 95 % Wilson interval, and the number of images; None for none."""
    if not hits:
        return None
    hits = [bool(hit) for hit in hits]
    low, high = wilson(hits)
    return {"value": 100 * float(np.mean(hits)), "interval": [100 * low, 100 * high], "samples": len(hits)}


def average(values: Sequence[float], digits: int = 3) -> dict[str, Any] | float | None:
    """Return a mean, the ends of its 95 % interval, and the number of values; one alone has no interval."""
    if len(values) < 2:
        return round(float(values[0]), digits) if values else None
    # By Student's t: of three values the normal distribution would say less than half of the width.
    times = float(stats.t.ppf(0.975, len(values) - 1))
    value, half = float(np.mean(values)), times * float(np.std(values, ddof=1)) / len(values) ** 0.5
    interval = [value - half, value + half]
    return {"value": value, "interval": interval, "samples": len(values), "digits": digits, "unit": "mean"}


def entry(column: str, values: Sequence[Any]) -> dict[str, Any] | float | None:
    """Return what stands in a column of the erasure table: a share or a mean."""
    return average(values) if column in MEANS else share(values)


class Table:
    """A table that is printed row by row, and written as one of the files of ``docs/figures/``.

    Args:
        of: heading of the first column.
        columns: the others.
    """

    def __init__(self, of: str, columns: Sequence[str]) -> None:
        self.of, self.columns = of, tuple(columns)
        self.rows: list[dict[str, Any]] = []
        self._made_by = facts()  # before anything is measured, so that what is edited meanwhile is not named
        print(heading(of, *columns), flush=True)

    def add(self, setting: str, *entries: Any, **more: Any) -> None:
        """Print a row and keep it.

        Args:
            setting: what the row is about.
            entries: one a column, as ``dev/figures/entries.py`` shows them.
            more: what else the file says of the row.
        """
        self.rows.append({"setting": setting, **more, "columns": dict(zip(self.columns, entries, strict=True))})
        print(line(setting, *map(shown, entries)), flush=True)

    def add_outcomes(self, setting: str, row: Row, **more: Any) -> None:
        """Print and keep a row of outcomes; the file says which programs made them, as some may be older."""
        commits = sorted({outcome.commit for outcome in row.outcomes.values()})
        self.add(setting, *(entry(name, row.values(name)) for name in self.columns), commits=commits, **more)

    def write(self, path: Path | None, *notes: str, **more: Any) -> None:
        """Write all rows and how they were made, if a path was given.

        Args:
            path: the file, JSON.
            notes: sentences that stand below the table on a page.
            more: what else the file says of the whole table.
        """
        if path is not None:
            content = {**self._made_by, **more, "of": self.of, "rows": self.rows, "notes": list(notes)}
            storage.write_json(path, content)


def add_json(parser: argparse._ActionsContainer) -> None:
    """Let the command line say where the table is written."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there, such as docs/figures/")
