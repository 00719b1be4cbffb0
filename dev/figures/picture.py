"""Pictures of figures, as SVG: each is drawn from a file of ``docs/figures/`` and from nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Entry = Mapping[str, Any]
Rows = Mapping[str, Mapping[str, Any]]  # by setting the columns of a file's row

WIDTH, NAMES, PANEL, BETWEEN = 760, 216, 236, 36  # pixels: of all, of the names, of a panel, and between two
TOP, LINE, APART, BOTTOM = 64, 26, 12, 34  # pixels: above the rows, of a row, between groups, below
INK, FAINT, GROUND = "#1f2328", "#d0d7de", "#ffffff"
STEERING, REPLACEMENT, OTHER = "#bc4c00", "#0969da", "#57606a"
# By column: title, the percent at both ends, and that between two lines.
PANELS = {"Avg": ("erased and kept (Avg): 100 is best", 50, 100, 10), "AR": ("artifacts (AR): 0 is best", 0, 100, 25)}
TITLE = "Steering and replacement with each SAE: what is erased and kept, and artifacts"
PIPELINES = ("outputs, several features", "outputs, one feature", "differences", "guided")
BESIDE = ("the rest kept (default)", "word left out", "negative prompt", "unedited")


@dataclass(frozen=True)
class Mark:
    """One figure of a row.

    Attributes:
        setting: the file's row.
        color: of the mark.
        square: whether it is a square; else a dot.
        lift: pixels above the middle of the row.
    """

    setting: str
    color: str
    square: bool = False
    lift: float = 0


def comparison(figures: Mapping[str, Any]) -> str:
    """Draw where the paper's ordering holds: steering and replacement with each SAE, and what artists do instead."""
    rows: Rows = {row["setting"]: row["columns"] for row in figures["rows"]}
    pairs = [(name, _pair(name)) for name in PIPELINES]
    alone = [(name, [Mark(name, OTHER)]) for name in BESIDE]
    placed, top = [], TOP
    for group in (pairs, alone):
        for name, marks in group:
            placed.append((top + LINE / 2, name, marks))
            top += LINE
        top += APART
    height = top - APART + BOTTOM
    parts = [*_legend(), *(part for column in PANELS for part in _axis(column, height))]
    for y, name, marks in placed:
        parts.append(_text(NAMES - 10, y + 4, name, "end"))
        for column in PANELS:
            parts += [part for mark in marks for part in _mark(mark, rows[mark.setting][column], column, y)]
    return _svg(height, TITLE, parts)


PICTURES: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "comparison.svg": ("comparison.json", comparison),
}


def _pair(name: str) -> list[Mark]:
    """Return the marks of one SAE: steering above replacement, so that both are seen where they are equal."""
    return [Mark(f"{name}: steering", STEERING, True, 5), Mark(f"{name}: replacement", REPLACEMENT, False, -5)]


def _x(column: str, percent: float) -> float:
    """Return where a value in percent lies in a column's panel."""
    _, low, high, _ = PANELS[column]
    return NAMES + list(PANELS).index(column) * (PANEL + BETWEEN) + (percent - low) / (high - low) * PANEL


def _axis(column: str, height: float) -> list[str]:
    """Draw the lines of a panel and its title."""
    title, low, high, step = PANELS[column]
    parts = [_text(_x(column, low), TOP - 14, title, weight="bold")]
    for percent in range(low, high + 1, step):
        x = _x(column, percent)
        parts.append(_line(x, TOP - 4, x, height - BOTTOM + 4, FAINT))
        parts.append(_text(x, height - 12, str(percent), "middle"))
    return parts


def _mark(mark: Mark, entry: Entry, column: str, middle: float) -> list[str]:
    """Draw a figure and its interval."""
    y, x = middle - mark.lift, _x(column, entry["value"])
    low, high = (_x(column, end) for end in entry["interval"])
    return [_line(low, y, high, y, mark.color, 2), _shape(x, y, mark)]


def _shape(x: float, y: float, mark: Mark) -> str:
    if mark.square:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{mark.color}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{mark.color}"/>'


def _legend() -> list[str]:
    """Draw what the marks mean."""
    parts, x = [], float(NAMES)
    for word, mark in (
        ("steering", Mark("", STEERING, True)),
        ("replacement, rest may change", Mark("", REPLACEMENT)),
        ("other rows", Mark("", OTHER)),
    ):
        parts += [_shape(x + 4, 20, mark), _text(x + 14, 24, word)]
        x += 34 + 7.5 * len(word)
    return parts


def _text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: int = 1) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{color}" stroke-width="{width}"/>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    """Return a picture of some height on a light ground, which dark pages need too."""
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    ground = f'<rect width="100%" height="100%" fill="{GROUND}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>"]) + "\n"
