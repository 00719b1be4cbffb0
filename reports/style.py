"""The look of every drawn image: one palette and one font. Dark, as ComfyUI is."""

from PIL import ImageFont

Color = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

BACKGROUND: Color = (24, 24, 27)
INK: Color = (228, 228, 231)
FAINT: Color = (82, 82, 91)  # axes
RED: Color = (248, 113, 113)  # what was edited, and warnings
BLUE: Color = (96, 165, 250)
GRAY: Color = (161, 161, 170)
HEAT: Color = (255, 38, 26)
OUTLINE: Color = (255, 242, 51)
SMALL, TEXT, TITLE = 12, 13, 15  # font sizes in pixels


def font(size: int) -> Font:
    """Return Pillow's own font; old versions have it in one size only."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()
