"""Line charts, drawn with Pillow, which ComfyUI brings along."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .style import BACKGROUND, FAINT, INK, SMALL, TITLE, Color, font

EDGE = 12  # pixels beside the plot
TITLE_LINE, LEGEND_LINE, TICK_LINE = 28, 18, 24  # pixels that they take


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        points: (x, y) from left to right; y is 0 or more.
        color: of the line.
        label: for the legend, "" for none.
    """

    points: Sequence[tuple[float, float]]
    color: Color
    label: str = ""

    @classmethod
    def even(cls, values: Sequence[float], color: Color, label: str = "") -> "Line":
        """Spread values evenly over x from 0 to 1; a single one is a level line."""
        values = values if len(values) > 1 else [*values, *values]
        return cls([(i / (len(values) - 1), value) for i, value in enumerate(values)], color, label)


def line_chart(
    size: tuple[int, int],
    title: str,
    lines: Sequence[Line],
    x_labels: Sequence[str],
    x_range: tuple[float, float] = (0.0, 1.0),
    top: float | None = None,
    y_labels: Sequence[tuple[float, str]] = (),
    dots: bool = False,
) -> Image.Image:
    """Draw lines over common axes.

    Args:
        size: (width, height) in pixels.
        title: above the chart.
        lines: later ones lie above earlier ones; a line of no points has its place in the legend only.
        x_labels: at least two, spread evenly below the axis.
        x_range: the x at the left end and at the right end; the left one may be the larger.
        top: the y at the upper edge; more is cut off. None for the highest that there is.
        y_labels: heights that get a level line, and what stands to its left.
        dots: whether to mark each point.
    """
    chart = Image.new("RGB", size, BACKGROUND)
    pen, tick = ImageDraw.Draw(chart), font(SMALL)
    indent = max((pen.textlength(label, tick) + 6 for _, label in y_labels), default=0)
    left, right = EDGE + indent, size[0] - EDGE
    upper, lower = TITLE_LINE + LEGEND_LINE * any(line.label for line in lines), size[1] - TICK_LINE
    highest = top or max((y for line in lines for _, y in line.points), default=0) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / ((x_range[1] - x_range[0]) or 1.0)
        return left + across * (right - left), lower - min(max(y / highest, 0.0), 1.0) * (lower - upper)

    pen.text((EDGE, 6), title, fill=INK, font=font(TITLE))
    start = left
    for line in (line for line in lines if line.label):
        pen.line([(start, TITLE_LINE + 7), (start + 16, TITLE_LINE + 7)], line.color, 2)
        pen.text((start + 21, TITLE_LINE), line.label, fill=line.color, font=tick)
        start += 37 + pen.textlength(line.label, tick)
    pen.line([(left, lower), (right, lower)], FAINT)
    for y, label in y_labels:
        height = place(0.0, y)[1]
        pen.line([(left, height), (right, height)], FAINT)
        pen.text((EDGE, height - 8), label, fill=INK, font=tick)
    for number, label in enumerate(x_labels):
        share = number / (len(x_labels) - 1)
        # The first begins at the left end, the last ends at the right one.
        pen.text((left + share * (right - left - pen.textlength(label, tick)), lower + 5), label, fill=INK, font=tick)
    for line in lines:
        points = [place(x, y) for x, y in line.points]
        if len(points) > 1:
            pen.line(points, line.color, 2, joint="curve")
        for x, y in points if dots else ():
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=INK)
    return chart
