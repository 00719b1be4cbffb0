"""Images of a folder, noised: what an SAE is trained on when the artist has images and not prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.utils
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image, ImageOps
from torch import Tensor

from ...unet.sampling import Conditioning, ask_once, starting_noise


class PictureError(ValueError):
    """An image cannot be read; the message says which."""


@dataclass(frozen=True)
class Captioned:
    """An image on disk and what it shows; the caption may be empty."""

    path: Path
    caption: str = ""

    @property
    def stamp(self) -> tuple[str, int, int, str]:
        """What differs when image or caption do: name, bytes, time of change, caption."""
        status = self.path.stat()
        return self.path.name, status.st_size, status.st_mtime_ns, self.caption


def upright(path: Path) -> Image.Image:
    """Return a picture in RGB, turned as its camera says.

    Raises:
        PictureError: it is no picture, or damaged, or too large for PIL to trust it.
    """
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path.name} cannot be read as an image ({error})") from error


def load(path: Path, width: int, height: int) -> Tensor:
    """Return an image, cut around its middle and scaled, [1, height, width, 3] in 0..1; see ``upright``."""
    pixels = torch.from_numpy(np.asarray(upright(path), dtype=np.float32) / 255)[None]
    scaled = comfy.utils.common_upscale(pixels.movedim(-1, 1), width, height, "lanczos", "center")
    return scaled.movedim(1, -1)


def encode(vae: Any, paths: Sequence[Path], like: Tensor) -> Tensor:
    """Return latents of pictures, [B, C, H, W] as an empty latent image [., ., H, W] asks for.

    Raises:
        PictureError: one cannot be read, or the VAE's latents are of another size.
    """
    factor = vae.spacial_compression_encode()
    height, width = like.shape[-2] * factor, like.shape[-1] * factor
    latents: Tensor = vae.encode(torch.cat([load(path, width, height) for path in paths]))
    if latents.shape[-2:] != like.shape[-2:]:
        raise PictureError(f"the VAE made latents of {tuple(latents.shape[-2:])}, not of {tuple(like.shape[-2:])}")
    return latents


def look(
    model: ModelPatcher,
    latents: Tensor,
    positive: Conditioning,
    sigmas: Sequence[float],
    seeds: Sequence[int],
    step_done: Callable[[int], None],
) -> None:
    """Noise pictures to several levels and let the model look at each once, conditional half only.

    Args:
        model: an observer attached to it sees the activations.
        latents: of the pictures.
        positive: what they show.
        sigmas: the levels.
        seeds: one a picture; each level has noise of its own.
        step_done: called after each level with its number.
    """
    sampling = model.get_model_object("model_sampling")
    for step, sigma in enumerate(sigmas):
        noise = starting_noise(latents, [seed * len(sigmas) + step for seed in seeds])
        ask_once(model, noise, latents, float(sampling.timestep(torch.tensor(sigma))), positive, seeds[0])
        step_done(step)
