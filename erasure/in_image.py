"""Where concepts are in images that exist already: noise is added, the model looks, and nothing is generated."""

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..unet.sampling import Conditioning, ask_once, starting_noise
from .attach import attach
from .detection import DetectionTree
from .record import RunRecord
from .replacement import Replacement


def detect_in_image(
    model: ModelPatcher,
    tree: DetectionTree,
    latents: Tensor,
    shows: Conditioning,
    timestep: float,
    samples: int,
    seed: int,
) -> tuple[Tensor, RunRecord]:
    """Look at images with some noise, and tell where the detection finds its concepts.

    Args:
        model: for which the SAEs were made.
        tree: what to find; a detector that is not active at the noise level finds nothing.
        latents: of the images, as the VAE encodes them, [B, C, h, w].
        shows: a conditioning, best of what the images show.
        timestep: 0..999, says how much noise is added.
        samples: how often the images are looked at, each time with other noise.
        seed: of the noise; those used are seed to seed + B * samples - 1.

    Returns:
        the share of looks in which each patch was detected, float [B, H, W], and the record of the last look.

    Raises:
        ValueError: an SAE does not fit the model.
    """
    patched, record = attach(model, tree, Replacement("none"))
    heats = []
    for number in range(samples):
        first = seed + number * len(latents)
        noise = starting_noise(latents, range(first, first + len(latents)))
        ask_once(patched, noise, latents, timestep, shows, first)
        heats.append(record.runs[-1].heat())
    return torch.stack(heats).mean(0), record.runs[-1]
