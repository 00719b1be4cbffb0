"""Tables in Markdown: percent, half the width of the 95 % Wilson interval, number of images. The same as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...dev.demo_model.shares import wilson
from . import storage
from .facts import facts
from .outcomes import COLUMNS, Row


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
        print(line(name, *(counted(row.values(column)) for column in columns)), flush=True)


def entry(hits: Sequence[bool]) -> dict[str, Any] | None:
    """Return a share, the ends of its 95 % Wilson interval, and the number of images; None for none."""
    if not hits:
        return None
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
            "columns": {column: entry(row.values(column)) for column in columns},
        }
        for name, row in rows.items()
    ]
    storage.write_json(path, {**facts(), **more, "unit": "percent", "rows": listed})
