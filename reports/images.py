"""Images in rows and columns, with text and heat maps: what all reports are made of.

A sheet is a Pillow image. ComfyUI's images, and heat maps over them, are float tensors in 0..1.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from .style import BACKGROUND, HEAT, INK, OUTLINE, RED, TEXT, Color, Font, font

GAP = 4  # pixels between the images of a sheet
PAD = 4  # pixels around text
LEADING = 5  # pixels between lines of text
CARD = 512  # pixels; a narrower image is enlarged before words are written below it
CHARACTER = 28  # a caption's font is this part of the width, so that it is read in a node that is 300 pixels wide
STRENGTH = 0.75  # of the tint of a patch that is as hot as can be; what is below stays visible


def to_pil(image: Tensor) -> Image.Image:
    """Return an image [H, W, 3 or more] in 0..1 as Pillow has it."""
    return Image.fromarray((image[..., :3].cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8))


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as ComfyUI has it, float [H, W, 3] in 0..1."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)


def batch(images: Sequence[Image.Image]) -> Tensor:
    """Return images of one width as ComfyUI has them, [n, H, W, 3]; those less high end with background."""
    height = max(image.height for image in images)
    tensors = []
    for image in images:
        whole = Image.new("RGB", (image.width, height), BACKGROUND)
        whole.paste(image)
        tensors.append(to_tensor(whole))
    return torch.stack(tensors)


def sheet(rows: Sequence[Sequence[Image.Image]], gap: int = GAP, margin: int = 0) -> Image.Image:
    """Put images into rows, and the rows below each other.

    Args:
        rows: images from left to right; a row may be empty. Those of one width stand in columns.
        gap: between images, in pixels.
        margin: around the sheet, in pixels.
    """
    rows = [row for row in rows if row]
    widths = [sum(image.width for image in row) + gap * (len(row) - 1) for row in rows]
    heights = [max(image.height for image in row) for row in rows]
    size = (max(widths) + 2 * margin, sum(heights) + gap * (len(rows) - 1) + 2 * margin)
    whole = Image.new("RGB", size, BACKGROUND)
    top = margin
    for row, height in zip(rows, heights, strict=True):
        left = margin
        for image in row:
            whole.paste(image, (left, top))
            left += image.width + gap
        top += height + gap
    return whole


def in_rows(images: Sequence[Image.Image], columns: int) -> list[Sequence[Image.Image]]:
    """Return images in rows of so many, for ``sheet``."""
    return [images[start : start + columns] for start in range(0, len(images), columns)]


def words(text: str, width: int, size: int = TEXT, color: Color = INK, most: int = 0) -> Image.Image:
    """Return text in a field of some width, wrapped.

    Args:
        text: lines of its own stay apart.
        width: of the field, in pixels.
        size: of the font, in pixels.
        color: of the text.
        most: lines that may be shown, 0 for all; a longer text ends with dots.
    """
    face = font(size)
    lines = [part for line in text.splitlines() for part in _wrapped(line, width - 2 * PAD, face)] or [""]
    if most and len(lines) > most:
        last = " ".join(lines[most - 1 :])
        while last and face.getlength(f"{last}...") > width - 2 * PAD:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last}..."]
    field = Image.new("RGB", (width, len(lines) * (size + LEADING) + PAD), BACKGROUND)
    pen = ImageDraw.Draw(field)
    for number, line in enumerate(lines):
        pen.text((PAD, PAD + number * (size + LEADING)), line, fill=color, font=face)
    return field


def _wrapped(line: str, width: int, face: Font) -> list[str]:
    """Break a line between words where it would become too wide, and a word only if it is too wide alone."""
    lines = [""]
    for word in line.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while face.getlength(word) > width and len(word) > 1:
            fitting = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or face.getlength(word[:n]) <= width)
            lines.append(word[:fitting])
            word = word[fitting:]
        lines.append(word)
    return lines if lines[0] or len(lines) == 1 else lines[1:]


def titled(title: str, image: Image.Image, size: int = TEXT) -> Image.Image:
    """Return an image below a line of text."""
    return sheet([[words(title, image.width, size, most=1)], [image]], gap=0)


def captioned(image: Image.Image, caption: str, size: int = TEXT) -> Image.Image:
    """Return an image above a line of text."""
    return sheet([[image], [words(caption, image.width, size, most=1)]], gap=0)


def scaled(image: Image.Image, width: int) -> Image.Image:
    """Return an image at some width in pixels; the height follows."""
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


def with_caption(images: Tensor, captions: Sequence[str], warnings: Sequence[str] = ()) -> Tensor:
    """Write words below images, large enough to be read in a node.

    Args:
        images: [B, H, W, 3 or more]; those narrower than ``CARD`` are enlarged, their pixels stay sharp.
        captions: of each image, or one for all.
        warnings: what could not be done, a sentence each, written in another color below all of them.

    Returns:
        [B, H', W', 3] on the CPU.
    """
    times = -(-CARD // images.shape[2])
    large = images[..., :3].float().cpu().repeat_interleave(times, 1).repeat_interleave(times, 2)
    width = large.shape[2]
    # A tall image is shown smaller, or the node would be higher than the screen.
    size = max(width, large.shape[1] * 2 // 3) // CHARACTER
    told = [words("\n".join(warnings), width, size, RED)] if warnings else []
    below = batch([sheet([[words(caption, width, size)], told], gap=0) for caption in captions])
    return torch.cat([large, below.expand(len(images), -1, -1, -1)], dim=1)


def card(text: str) -> Tensor:
    """Return an image of words alone, [1, H, CARD, 3]."""
    return batch([words(text, CARD, CARD // CHARACTER)])


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images [B, H, W, 3 or more] at another size (H, W), smoothed, as [B, H, W, 3] on the CPU."""
    planes = images[..., :3].movedim(-1, 1).float().cpu()
    return F.interpolate(planes, size, mode="bilinear", antialias=True).movedim(1, -1).clamp(0, 1)


def enlarged(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a grid of patches [B, h, w] to image size (H, W); the patches keep their edges."""
    return F.interpolate(grid[:, None].float(), size=size, mode="nearest-exact")[:, 0]


def paled(images: Tensor) -> Tensor:
    """Return images with little contrast, on which a tint shows well."""
    return 0.55 * images + 0.25


def tinted(images: Tensor, heat: Tensor) -> Tensor:
    """Tint images [B, H, W, 3] where a heat map [B, h, w], of any grid, is hot."""
    weight = STRENGTH * enlarged(heat, (images.shape[1], images.shape[2])).to(images)[..., None]
    return images * (1 - weight) + torch.tensor(HEAT).to(images) / 255 * weight


def outlined(images: Tensor, inside: Tensor) -> Tensor:
    """Draw a line around the set patches of a bool mask [B, h, w], of any grid, over images [B, H, W, 3]."""
    within = enlarged(inside, (images.shape[1], images.shape[2])) > 0.5
    line = max(1, round(images.shape[2] / 160))  # pixels
    core = F.max_pool2d(-within[:, None].float(), 2 * line + 1, 1, line)[:, 0] > -0.5
    return torch.where((within & core).to(images.device)[..., None], torch.tensor(OUTLINE).to(images) / 255, images)
