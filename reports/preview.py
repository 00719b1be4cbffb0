"""A run's record over its images: where and when a concept was detected. Images are float [B, H, W, 3] in 0..1."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..erasure.record import RunRecord
from .images import enlarged, outlined, paled, tinted, to_pil, to_tensor
from .style import BACKGROUND, INK, SMALL, font


def heat_overlay(run: RunRecord, image: Tensor) -> Tensor:
    """Draw the share of steps in which each patch was detected over the images.

    The outline is around all of them, or around the region if the rest was kept.

    Args:
        run: the record of the run that made them.
        image: [B, H, W, 3] with B = run.images.

    Returns:
        [B, H, W, 3].
    """
    heat = run.seen.heat()
    return outlined(tinted(image[..., :3].cpu(), heat), heat > 0 if run.kept is None else run.kept.region)


def step_tiles(run: RunRecord, image: Tensor, count: int) -> list[Tensor]:
    """Draw the mask at some steps, evenly spread over the run, each with its timestep.

    Args:
        run, image: as for ``heat_overlay``.
        count: how many steps at most.

    Returns:
        [B, H, W, 3] for each step; none if nothing was looked at.
    """
    run = run.seen
    sigmas = run.sigmas()
    picks = np.linspace(0, len(sigmas) - 1, min(count, len(sigmas))).round().astype(int)
    pale = paled(image[..., :3].cpu())
    tiles = []
    for pick in picks:
        sigma = sigmas[pick]
        inside = run.step_mask(sigma)
        tile = outlined(tinted(pale, inside.float()), inside)
        tiles.append(_noted(tile, f"{pick + 1}/{len(sigmas)} t={run.timestep(sigma):.0f}"))
    return tiles


def _noted(tile: Tensor, text: str) -> Tensor:
    """Write a short text into the top left corner of every image of a batch."""
    return torch.stack([to_tensor(_note(to_pil(image), text)) for image in tile])


def _note(image: Image.Image, text: str) -> Image.Image:
    face = font(max(min(SMALL, image.width // 6), image.width // 40))
    pen = ImageDraw.Draw(image)
    pen.rectangle(pen.textbbox((2, 1), text, face), fill=BACKGROUND)
    pen.text((2, 1), text, fill=INK, font=face)
    return image


def image_mask(run: RunRecord, size: tuple[int, int], any_step: bool) -> Tensor:
    """Return what was detected as a mask at image size.

    Args:
        run: the record.
        size: (H, W) of the images.
        any_step: True for 0/1 wherever a patch was ever detected, False for the share of steps.

    Returns:
        float [B, H, W] in 0..1.
    """
    heat = run.seen.heat()
    return enlarged((heat > 0).float() if any_step else heat, size)


def region_mask(run: RunRecord, size: tuple[int, int]) -> Tensor:
    """Return where an edit may have changed images as a mask at their size.

    Args:
        run: the record. Where the rest was not kept, an image with any edit may have changed everywhere.
        size: (H, W) of the images.

    Returns:
        float [B, H, W], 0 or 1.
    """
    if run.kept is None:
        changed = torch.tensor(run.may_have_changed(), dtype=torch.float32)
        return changed[:, None, None].expand(-1, *size).clone()
    return enlarged(run.kept.region.float(), size)
