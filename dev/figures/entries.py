"""How one figure of a table is shown; benchmarks print as pages show."""

from typing import Any


def shown(entry: Any) -> str:
    """Return an entry of a table: a figure with its interval and the number of samples.

    A mean lies in the middle of its interval, of which half the width is shown. A share need not, so the ends are: at
    100 % the whole interval lies below it.

    Args:
        entry: a number, a word, None for none, or ``{"value", "interval"}`` with perhaps ``samples`` and ``digits``.
    """
    if entry is None:
        return "-"
    if isinstance(entry, dict):
        low, high = entry["interval"]
        digits = entry.get("digits", 1)
        value, count = f"{entry['value']:.{digits}f}", f"n {entry['samples']}" if "samples" in entry else ""
        if round((low + high) / 2 - entry["value"], digits):
            return f"{value} ({'; '.join(filter(None, (f'{low:.0f} to {high:.0f}', count)))})"
        text = f"{value} ± {(high - low) / 2:.{digits}f}"
        return f"{text} ({count})" if count else text
    return f"{entry:.4g}" if isinstance(entry, float) else str(entry)


def line(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def heading(*cells: str) -> str:
    """Return the two rows that a table begins with."""
    return f"{line(*cells)}\n{line(*['---'] * len(cells))}"
