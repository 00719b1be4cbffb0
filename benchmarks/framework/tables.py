"""Tables in Markdown: percent, half the width of the 95 % Wilson interval, number of images. The same as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from . import storage
from .changes import MEANS
from .facts import facts
from .outcomes import COLUMNS, Row


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


def counted(hits: Sequence[bool], digits: int = 1) -> str:
    """Return a share, half the width of its interval, and the number of images."""
    return f"{percent(hits, digits)} (n {len(hits)})"


def spread(values: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of a mean."""
    return 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def mean(values: Sequence[float], digits: int = 3) -> str:
    """Return a mean, half the width of its interval, and the number of values."""
    return f"{np.mean(values):.{digits}f} ± {spread(values):.{digits}f} (n {len(values)})" if values else "-"


def cell(column: str, values: Sequence[Any]) -> str:
    """Return what a table shows of a column."""
    return mean(values) if column in MEANS else counted([bool(value) for value in values])


def line(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def heading(*cells: str) -> str:
    """Return the two rows that a table begins with."""
    return f"{line(*cells)}\n|{'---|' * len(cells)}"


def print_table(rows: Mapping[str, Row], columns: Sequence[str] = COLUMNS) -> None:
    """Print one row a setting."""
    print(heading("setting", *columns))
    for name, row in rows.items():
        print(line(name, *(cell(column, row.values(column)) for column in columns)), flush=True)


def entry(column: str, hits: Sequence[Any]) -> dict[str, Any] | None:
    """Return a share in percent or a mean, the ends of its 95 % interval, and the number of images; None for none."""
    if not hits:
        return None
    if column in MEANS:
        value, half = float(np.mean(hits)), spread(hits)
        return {"value": value, "interval": [value - half, value + half], "samples": len(hits), "unit": "mean"}
    hits = [bool(hit) for hit in hits]
    low, high = wilson(hits)
    return {"value": 100 * float(np.mean(hits)), "interval": [100 * low, 100 * high], "samples": len(hits)}


def write_table(path: Path, rows: Mapping[str, Row], columns: Sequence[str] = COLUMNS, **more: Any) -> None:
    """Write what ``print_table`` prints, in percent, and how it was made.

    Args:
        path: the file, JSON.
        rows, columns: as printed.
        more: what else to say of the whole table.
    """
    listed = [
        {
            "setting": name,
            # What was on disk may be older than the program that prints it.
            "commits": sorted({outcome.commit for outcome in row.outcomes.values()}),
            "columns": {column: entry(column, row.values(column)) for column in columns},
        }
        for name, row in rows.items()
    ]
    storage.write_json(path, {**facts(), **more, "unit": "percent", "rows": listed})
