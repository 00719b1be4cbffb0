"""Pictures of a record: heat maps, tiles and masks. Images are float [B, H, W, 3] in 0..1."""

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from ..erasure.record import RunRecord
from .plots import BACKGROUND, TICK, font
from .plots import EDITED as ALARM

COLOUR = torch.tensor([1.0, 0.15, 0.1])
OUTLINE = torch.tensor([1.0, 0.95, 0.2])
LINE_HEIGHT, WORD_WIDTH = 16, 7  # of the small font, in pixels


def _enlarge(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a float grid [B, h, w] to image size, keeping the cells visible."""
    return F.interpolate(cells[:, None].float(), size=size, mode="nearest-exact")[:, 0]


def _tint(image: Tensor, strength: Tensor) -> Tensor:
    """Colour an image [B, H, W, 3] by a strength [B, H, W] in 0..1."""
    weight = 0.65 * strength[..., None]
    return image * (1 - weight) + COLOUR.to(image) * weight


def _outline(image: Tensor, inside: Tensor) -> Tensor:
    """Draw a line around the set part of a bool mask [B, H, W]."""
    padded = F.max_pool2d(-inside[:, None].float(), 3, 1, 1)[:, 0] > -0.5
    edge = inside & padded
    return torch.where(edge[..., None], OUTLINE.to(image), image)


def heat_overlay(run: RunRecord, image: Tensor) -> Tensor:
    """Draw the share of steps in which each cell was detected over the picture.

    Args:
        run: the record of the run that made the picture.
        image: [B, H, W, 3] with B = run.images.

    Returns:
        [B, H, W, 3].
    """
    size = (image.shape[1], image.shape[2])
    heat = _enlarge(run.heat(), size)
    return _outline(_tint(image[..., :3].cpu(), heat), heat > 0)


def step_tiles(run: RunRecord, image: Tensor, count: int) -> Tensor:
    """Draw the mask at some steps, evenly spread over the run, each with its timestep.

    Returns:
        [B, H, W * tiles, 3] with at most ``count`` tiles; no columns if count is 0 or nothing was looked at.
    """
    sigmas = run.sigmas()
    picks = np.linspace(0, len(sigmas) - 1, min(count, len(sigmas))).round().astype(int)
    size = (image.shape[1], image.shape[2])
    faint = 0.55 * image[..., :3].cpu() + 0.25
    tiles = [faint[:, :, :0]]
    for pick in picks:
        sigma = sigmas[pick]
        inside = _enlarge(run.step_mask(sigma), size) > 0.5
        tile = _outline(_tint(faint, inside.float()), inside)
        tiles.append(_captioned(tile, f"{pick + 1}/{len(sigmas)} t={run.timestep(sigma):.0f}"))
    return torch.cat(tiles, dim=2)


def to_pil(picture: Tensor) -> Image.Image:
    """Return a picture [H, W, 3 or more] in 0..1 as Pillow has it."""
    return Image.fromarray((picture[..., :3].cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8))


def _captioned(tile: Tensor, text: str) -> Tensor:
    """Write a short text into the top left corner of every image of a batch."""
    written = []
    for picture in tile:
        canvas = to_pil(picture)
        draw = ImageDraw.Draw(canvas)
        draw.rectangle(draw.textbbox((2, 1), text), fill=(0, 0, 0))
        draw.text((2, 1), text, fill=(255, 255, 255))
        written.append(torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255))
    return torch.stack(written)


def image_mask(run: RunRecord, size: tuple[int, int], any_step: bool) -> Tensor:
    """Return what was detected as a mask at image size.

    Args:
        run: the record.
        size: (H, W) of the picture.
        any_step: True for 0/1 wherever a cell was ever detected, False for the share of steps.

    Returns:
        float [B, H, W] in 0..1.
    """
    heat = run.heat()
    return _enlarge((heat > 0).float() if any_step else heat, size)


def with_words(images: Tensor, sentences: Sequence[str]) -> Tensor:
    """Write sentences below images, [B, H, W, 3] -> [B, H + lines, W, 3]; without any, the images as they are."""
    if not sentences:
        return images
    lines = [line for sentence in sentences for line in wrap(sentence, max(10, images.shape[2] // WORD_WIDTH))]
    strip = Image.new("RGB", (images.shape[2], LINE_HEIGHT * len(lines) + LINE_HEIGHT // 2), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for i, line in enumerate(lines):
        draw.text((4, 4 + LINE_HEIGHT * i), line, fill=ALARM, font=font(TICK))
    below = torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255)
    return torch.cat([images, below.expand(len(images), -1, -1, -1)], dim=1)
