"""How one figure of a table is shown; benchmarks print as pages show."""

from typing import Any


def shown(entry: Any) -> str:
    """Return an entry of a table: a figure with half the width of its interval and the number of samples.

    Args:
        entry: a number, a word, None for none, or ``{"value", "interval"}`` with perhaps ``samples`` and ``digits``.
    """
    if entry is None:
        return "-"
    if isinstance(entry, dict):
        low, high = entry["interval"]
        digits = entry.get("digits", 1)
        text = f"{entry['value']:.{digits}f} ± {(high - low) / 2:.{digits}f}"
        return f"{text} (n {entry['samples']})" if "samples" in entry else text
    return f"{entry:.4g}" if isinstance(entry, float) else str(entry)


def line(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def heading(*cells: str) -> str:
    """Return the two rows that a table begins with."""
    return f"{line(*cells)}\n{line(*['---'] * len(cells))}"
