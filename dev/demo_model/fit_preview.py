"""Fit the factors by which ComfyUI's latent preview turns the demo model's latents into colors (development only).

``python dev/host dev.demo_model.fit_preview`` prints the two lines of ``CanvasLatent`` in ``demo_model/unet.py``, and
how much of the colors they explain. It reads the VAE of the shipped checkpoint.
"""

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...demo_model import checkpoint
from ...demo_model.sizes import FACTOR
from .scenes import TRAIN, VALIDATION, render


@torch.inference_mode()
def cells(vae: Any, seeds: range) -> tuple[Tensor, Tensor]:
    """Return cells of latents with a 1 after each, [N, 5], and the mean color of their pixels, [N, 3], -1 to 1."""
    pixels = torch.from_numpy(np.stack([render(seed).image for seed in seeds])).float() / 255
    latents = vae.encode(pixels).float().movedim(1, -1).flatten(0, 2)
    colors = F.avg_pool2d(pixels.movedim(-1, 1) * 2 - 1, FACTOR).movedim(1, -1).flatten(0, 2)
    return F.pad(latents, (0, 1), value=1.0), colors


def main() -> None:
    """Fit on training scenes, measure on validation scenes, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=400)
    count = parser.parse_args().scenes
    _, _, vae = checkpoint.load()
    latents, colors = cells(vae, TRAIN[:count])
    solution = torch.linalg.lstsq(latents, colors).solution
    factors = [[round(value, 3) for value in row] for row in solution.tolist()]
    print(f"latent_rgb_factors = {factors[:-1]}\nlatent_rgb_factors_bias = {factors[-1]}")
    latents, colors = cells(vae, VALIDATION[: max(1, count // 4)])
    left = (latents @ solution - colors).square().sum() / (colors - colors.mean(0)).square().sum()
    print(f"explains {100 * (1 - float(left)):.1f} % of the colors' variance in validation scenes")
