"""Tables in Markdown: percent, half the width of the 95 % Wilson interval, number of images."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...dev.demo_model.shares import wilson
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
