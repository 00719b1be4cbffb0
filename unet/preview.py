"""The image of a sampling step as ComfyUI previews it: small, and only where previews are on."""

import time

import comfy.cli_args
import comfy.utils
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

PAUSE = 0.2  # seconds between two images that are shown


def previews_are_on() -> bool:
    """Return whether the artist wants previews; ComfyUI's own setting, which may change from run to run."""
    method = comfy.cli_args.args.preview_method
    return method is not comfy.cli_args.LatentPreviewMethod.NoPreviews


def rough_image(model: ModelPatcher, latents: Tensor) -> Tensor | None:
    """Return roughly what latents show, by the linear map to colors that ComfyUI has for a kind of model.

    Args:
        model: whose latents they are.
        latents: denoised, [B, C, h, w].

    Returns:
        of the first image, float [h, w, 3] in 0..1 on the CPU; None if there is no such map.
    """
    kind = model.model.latent_format
    factors, bias = kind.latent_rgb_factors, getattr(kind, "latent_rgb_factors_bias", None)
    if factors is None or latents.ndim != 4 or latents.shape[1] != len(factors):
        return None
    colors = latents[0].movedim(0, -1).float().cpu() @ torch.tensor(factors)
    colors = colors if bias is None else colors + torch.tensor(bias)
    return ((colors + 1) / 2).clamp(0, 1)


class Progress:
    """The progress of a node that samples by itself, with what it samples where previews are on.

    Args:
        model: that samples.
        total: what there is to do.
    """

    def __init__(self, model: ModelPatcher, total: int) -> None:
        self._model = model
        self._bar = comfy.utils.ProgressBar(total)
        self._total, self._done, self._last = total, 0, 0.0

    def update(self, count: int, latents: Tensor) -> None:
        """Note that so much was done on some latents [B, C, h, w]."""
        self._done += count
        now, shown = time.monotonic(), None
        if previews_are_on() and now - self._last >= PAUSE:
            self._last = now
            image = rough_image(self._model, latents)
            if image is not None:
                shown = ("JPEG", Image.fromarray((image * 255).numpy().astype(np.uint8)), None)
        self._bar.update_absolute(self._done, self._total, shown)
