"""A picture of how training goes. Needs Pillow."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 768, 300
LEFT, TOP, BOTTOM = 56, 46, 34
INK, GRID, PAPER = (40, 40, 48), (222, 222, 228), (252, 252, 250)
EXPLAINED, DEAD, LOSS = (20, 110, 190), (200, 60, 50), (120, 120, 130)
LEGEND = (("explained variance", EXPLAINED), ("loss", LOSS), ("dead latents", DEAD))


def draw(title: str, history: Sequence[tuple[float, float, float]], steps: int) -> Image.Image:
    """Draw explained variance, loss (the unexplained share) and dead share over the steps.

    Args:
        title: one line above the curves.
        history: [step, unexplained share, dead share]; shares are 0..1, what exceeds 1 is cut off.
        steps: right end of the axis.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    pen.text((LEFT, 6), title, fill=INK, font=font)
    right = LEFT
    for name, colour in LEGEND:
        pen.line([(right, 33), (right + 18, 33)], fill=colour, width=3)
        pen.text((right + 24, 25), name, fill=INK, font=font)
        right += 40 + int(pen.textlength(name, font=font))
    for tenth in range(0, 11, 2):
        y = _place(0, tenth / 10, 1)[1]
        pen.line([(LEFT, y), (WIDTH - 12, y)], fill=GRID)
        pen.text((12, y - 8), f"{tenth * 10} %", fill=INK, font=font)
    for share in (0.0, 0.5, 1.0):
        x = _place(share, 0, 1)[0]
        pen.text((min(x, WIDTH - 60), HEIGHT - BOTTOM + 8), f"step {share * steps:.0f}", fill=INK, font=font)
    for column, colour in ((1, LOSS), (2, DEAD)):
        _curve(pen, [(row[0], row[column]) for row in history], steps, colour)
    _curve(pen, [(row[0], 1 - row[1]) for row in history], steps, EXPLAINED)
    return image


def _curve(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], steps: int, colour: tuple) -> None:
    if len(points) > 1:
        pen.line([_place(x, y, steps) for x, y in points], fill=colour, width=2, joint="curve")


def _place(x: float, y: float, steps: int) -> tuple[float, float]:
    """Return the pixel of a point; y is cut to 0..1."""
    y = min(max(y, 0.0), 1.0)
    return LEFT + x / max(steps, 1) * (WIDTH - 12 - LEFT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def stack(images: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of one width below each other."""
    whole = Image.new("RGB", (images[0].width, sum(image.height for image in images)), PAPER)
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return whole
