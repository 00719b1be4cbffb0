"""What differs between versions of ComfyUI while it samples."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.sampler_helpers
import torch
from torch import Tensor


def lasting_memory() -> AbstractContextManager[None]:
    """Return a context in which memory may be taken that is kept beyond the block at hand.

    From 0.34 on ComfyUI records where each block of the UNet takes memory, and expects it back when the block ends.
    Masks and the record are kept longer. Older versions have nothing of the kind.
    """
    try:
        import comfy.model_prefetch as prefetch
    except ImportError:
        return nullcontext()
    pause = getattr(prefetch, "pause_malloc_graph", None)
    return nullcontext() if pause is None else pause()


def images_of_window(window: Any) -> tuple[int, ...] | None:
    """Return which images of a batch a context window holds, in order; None if it divides something else.

    From 0.20 on the image before a window may come first in it, to be looked at and then dropped.
    """
    if getattr(window, "dim", 0) != 0:
        return None
    before = getattr(window, "causal_anchor_index", None)
    return (*(() if before is None or before < 0 else (before,)), *window.index_list)


def noise_mask_of(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the noise mask that a sampler was given, on the CPU and for each image and channel.

    From 0.33 on it comes like that. Preparing it once more would take one image's channels for images.

    Args:
        mask: as the wrappers of sampling get it.
        shape: of the latents, [B, C, h, w].
    """
    cpu = torch.device("cpu")
    if tuple(mask.shape) == tuple(shape):
        return mask.to(cpu)
    prepared: Tensor = comfy.sampler_helpers.prepare_mask(mask, shape, cpu)
    return prepared
