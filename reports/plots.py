"""Small charts drawn with Pillow, which ComfyUI brings along."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

BACKGROUND, INK, FAINT = (24, 24, 27), (228, 228, 231), (82, 82, 91)
EDITED, UNEDITED = (248, 113, 113), (96, 165, 250)
TITLE, TICK = 15, 12
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 12, 12, 30, 24


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        values: heights, 0 or more, evenly spaced from left to right.
        colour: RGB.
        label: what it is called, "" for no legend.
    """

    values: Sequence[float]
    colour: tuple[int, int, int]
    label: str = ""


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return Pillow's own font; old versions have it in one size only."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()


def line_chart(size: tuple[int, int], title: str, series: Sequence[Series], ends: tuple[str, str]) -> Image.Image:
    """Draw lines over a common axis.

    Args:
        size: (width, height) in pixels.
        title: above the chart.
        series: at least one, with at least one value each.
        ends: what stands below the left and the right end of the axis.
    """
    chart = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(chart)
    left, right = MARGIN_LEFT, size[0] - MARGIN_RIGHT
    top, bottom = MARGIN_TOP, size[1] - MARGIN_BOTTOM
    draw.text((left, 7), title, fill=INK, font=font(TITLE))
    draw.line([(left, bottom), (right, bottom)], fill=FAINT)
    draw.text((left, bottom + 5), ends[0], fill=INK, font=font(TICK))
    draw.text((right - draw.textlength(ends[1], font(TICK)), bottom + 5), ends[1], fill=INK, font=font(TICK))
    highest = max(max(line.values) for line in series) or 1.0
    for number, line in enumerate(series):
        step = (right - left) / max(1, len(line.values) - 1)
        points = [(left + i * step, bottom - value / highest * (bottom - top)) for i, value in enumerate(line.values)]
        draw.line(points if len(points) > 1 else [(left, points[0][1]), (right, points[0][1])], line.colour, 2)
        if line.label:
            width = draw.textlength(line.label, font(TICK))
            draw.text((right - width, top + 16 * number), line.label, fill=line.colour, font=font(TICK))
    return chart
