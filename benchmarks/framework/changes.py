"""What an artist sees beside whether the target is gone: what else changed, and whether the check at the end was right.

Untouched: images without the target that are the unedited ones bit for bit. Moved: mean absolute difference outside the
target's area, where the judges see it in the unedited image, grown by one cell. In place: overlap (IoU) of the
other object's area of a pair before and after. Left unsaid: of images in which the judges still find the target, those
of which the check at the end said that it is gone. Left wrongly: of images in which they do not, those of which it said
that it remains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .prompts import Prompt


class Areas(Protocol):
    """Finds where objects are in images."""

    def masks(self, images: Tensor, target: str) -> Tensor:
        """Return the cells of images [N, H, W, 3] that show an object, bool [N, h, w]."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """Images of some prompts and how they were made.

    Attributes:
        latents: [N, C, h, w].
        images: [N, H, W, 3] in 0..1.
        found: which objects each shows, bool [N, objects].
        remaining: whether the check at the end said that the target is still there; none if there was no check.
    """

    latents: Tensor
    images: Tensor
    found: Tensor
    remaining: tuple[bool, ...]


def outside_of(area: Tensor, images: Tensor) -> Tensor:
    """Return which pixels lie outside of an area [N, h, w] grown by one of its cells, bool [N, H, W]."""
    grown = F.max_pool2d(area[:, None].float(), 3, 1, 1)
    return F.interpolate(grown, tuple(images.shape[1:3]), mode="nearest-exact")[:, 0] < 0.5


def moved(before: Tensor, after: Tensor, outside: Tensor) -> Tensor:
    """Return the mean absolute difference of images outside of an area, [N]; NaN where nothing lies outside."""
    difference = (after - before).abs().mean(-1)
    return (difference * outside).sum((1, 2)) / outside.sum((1, 2))


def in_place(areas: Areas, before: Tensor, after: Tensor, other: str) -> float:
    """Return the overlap of an object's area in one image before and after, [1, H, W, 3] each."""
    was, became = areas.masks(before, other), areas.masks(after, other)
    return float((was & became).sum() / (was | became).sum().clamp(min=1))


def untouched(before: Sampled, after: Sampled) -> list[bool]:
    """Tell which images are the unedited ones bit for bit."""
    return [bool(torch.equal(one, other)) for one, other in zip(before.latents, after.latents, strict=True)]


def others_of(prompt: Prompt, target: str) -> list[str]:
    """Return the objects of a prompt beside the target."""
    return [name for name in prompt.objects if name != target]


def changes(
    target: str,
    prompts: Sequence[Prompt],
    before: Sampled,
    after: Sampled,
    areas: Areas,
    objects: Sequence[str],
) -> dict[str, list[float]]:
    """Return the columns of the module's text, a list entry an image that the column is about.

    Args:
        target: what is erased.
        prompts: what was asked for.
        before, after: unedited and edited.
        areas: finds objects.
        objects: names of the columns of ``found``.
    """
    columns: dict[str, list[float]] = {name: [] for name in CHANGES}
    place = objects.index(target)
    outside = outside_of(areas.masks(before.images, target), before.images)
    difference = moved(before.images, after.images, outside).tolist()
    same = untouched(before, after)
    for i, prompt in enumerate(prompts):
        was, still = bool(before.found[i, place]), bool(after.found[i, place])
        others = others_of(prompt, target)
        if target not in prompt.objects:
            if not was:
                columns["untouched"].append(float(same[i]))
            continue
        if after.remaining and was:
            columns["left unsaid" if still else "left wrongly"].append(float(after.remaining[i] != still))
        if not was or difference[i] != difference[i]:
            continue
        columns["moved, pair" if others else "moved, alone"].append(difference[i])
        if others and bool(before.found[i, objects.index(others[0])]):
            part = slice(i, i + 1)
            columns["in place"].append(in_place(areas, before.images[part], after.images[part], others[0]))
    return columns


# Those in percent, and those in their own unit.
SHARES = ("untouched", "left unsaid", "left wrongly")
MEANS = ("moved, alone", "moved, pair", "in place")
CHANGES = (*SHARES, *MEANS)
