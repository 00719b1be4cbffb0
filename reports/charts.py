"""Pictures that explain latents: text, heat maps over pictures, and curves over the steps.

Pictures are float [H, W, 3] in 0..1; heat maps are float grids of any size in 0..1.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from .plots import font
from .preview import COLOUR, to_pil

TILE, LABEL, GAP = 128, 170, 4  # pixels
INK, PAPER, ALARM, FAINT = (25, 25, 25), (255, 255, 255), (190, 20, 20), (200, 200, 200)
LETTERS, LETTERS_A_LINE = 13, 24


def shrunk(picture: Tensor) -> Tensor:
    """Return a picture of any size as large as a tile, [TILE, TILE, 3] on the CPU."""
    planes = picture[..., :3].permute(2, 0, 1)[None].float().cpu()
    return F.interpolate(planes, (TILE, TILE), mode="area")[0].permute(1, 2, 0)


def tile(picture: Tensor, heat: Tensor | None = None) -> Image.Image:
    """Return a picture as a tile, tinted where a heat map is hot and paler elsewhere."""
    square = shrunk(picture)
    if heat is not None:
        cells = F.interpolate(heat[None, None].float(), (TILE, TILE), mode="nearest-exact")[0, 0, :, :, None]
        square = (0.6 * square + 0.3) * (1 - cells) + COLOUR * cells
    return to_pil(square)


def label(text: str, height: int = TILE) -> Image.Image:
    """Return text in a field to the left of a row of tiles."""
    field = Image.new("RGB", (LABEL, height), PAPER)
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, LETTERS_A_LINE) or [""]]
    ImageDraw.Draw(field).multiline_text((6, 6), "\n".join(lines), INK, font(LETTERS), spacing=3)
    return field


def caption(text: str) -> Image.Image:
    """Return up to three short lines, as wide as a tile."""
    return label(textwrap.fill(text, 19, max_lines=3), 56).crop((0, 0, TILE, 56))


def heading(text: str, width: int, alarm: bool = False) -> Image.Image:
    """Return text as wide as a sheet; a warning in red."""
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, max(20, width // 7)) or [""]]
    field = Image.new("RGB", (width, 18 * len(lines) + 10), PAPER)
    ImageDraw.Draw(field).multiline_text((6, 4), "\n".join(lines), ALARM if alarm else INK, font(LETTERS), spacing=4)
    return field


def curve(timesteps: Sequence[float], values: Sequence[float]) -> Image.Image:
    """Return a curve over the steps of a run, the noisiest at the left, as wide as two tiles."""
    field = Image.new("RGB", (2 * TILE + GAP, TILE), PAPER)
    pen = ImageDraw.Draw(field)
    left, right, top, bottom = 8, field.width - 8, 20, TILE - 22
    pen.rectangle((left, top, right, bottom), outline=FAINT)
    highest = max([*values, 1e-9])
    points = [
        (left + (right - left) * (1 - t / 1000), bottom - (bottom - top) * value / highest)
        for t, value in sorted(zip(timesteps, values, strict=True), reverse=True)
    ]
    if len(points) > 1:
        pen.line(points, fill=tuple(int(255 * c) for c in COLOUR.tolist()), width=2)
    for x, y in points:
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=INK)
    pen.text((left, bottom + 3), "t = 1000 (noise)", INK, font(LETTERS))
    pen.text((right - 12, bottom + 3), "0", INK, font(LETTERS))
    pen.text((left, 3), f"mean activation, highest {highest:.3g}", INK, font(LETTERS))
    return field


def row(parts: Sequence[Image.Image]) -> Image.Image:
    """Put pictures side by side."""
    width = sum(part.width for part in parts) + GAP * (len(parts) - 1)
    sheet = Image.new("RGB", (width, max(part.height for part in parts)), PAPER)
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width + GAP
    return sheet


def column(parts: Sequence[Image.Image]) -> Tensor:
    """Put pictures below each other; return float [1, H, W, 3]."""
    height = sum(part.height for part in parts) + GAP * (len(parts) - 1)
    sheet = Image.new("RGB", (max(part.width for part in parts), height), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + GAP
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]
