"""Sample many prompts at once through ComfyUI's own sampler: what scripts, tests and benchmarks share."""

from collections.abc import Sequence
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ...demo_model.sizes import GRID, LATENT_CHANNELS
from ...unet.sampling import ask_once

STEPS = 20
CFG = 4.5
SAMPLER = "euler"
SCHEDULER = "normal"

# Noise seeds are split for good, like the seeds of scenes: what an SAE is trained on, what settings are chosen
# on, and what is reported.
SAE_SEEDS = range(1_000_000, 2_000_000)
TUNING_SEEDS = range(2_000_000, 3_000_000)
REPORTING_SEEDS = range(3_000_000, 4_000_000)


def encode(clip: Any, prompts: Sequence[str]) -> list[list[Any]]:
    """Encode prompts into one conditioning whose batch is the prompts: [[tensor [B, T, C], {}]]."""
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0] for prompt in prompts]
    return [[torch.cat(encoded), {}]]


def starting_noise(seeds: Sequence[int], size: tuple[int, int] = (GRID, GRID)) -> Tensor:
    """Return each image's own starting noise, [B, 4, *size]; it does not depend on the rest of the batch."""
    shape = (1, LATENT_CHANNELS, *size)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def empty_latents(count: int, size: tuple[int, int] = (GRID, GRID)) -> Tensor:
    """Return latents as an Empty Latent Image makes them, [B, 4, *size]."""
    return torch.zeros(count, LATENT_CHANNELS, *size)


@torch.inference_mode()
def sample(
    model: Any,
    clip: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = STEPS,
    cfg: float = CFG,
    sampler: str = SAMPLER,
    scheduler: str = SCHEDULER,
    negative: str = "",
    size: tuple[int, int] = (GRID, GRID),
) -> Tensor:
    """Sample one latent for each prompt and seed; they share the negative prompt.

    Returns:
        latents [B, 4, *size].
    """
    noise = starting_noise(seeds, size)
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        scheduler,
        encode(clip, prompts),
        encode(clip, [negative] * len(prompts)),
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=seeds[0],
    )


@torch.inference_mode()
def denoise_once(model: Any, clip: Any, latents: Tensor, captions: Sequence[str], timestep: float, seed: int) -> None:
    """Noise latents to a timestep and let the model look at them once, conditional half only.

    The result is thrown away; an observer attached to the model sees the activations.
    """
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    ask_once(model, noise, latents, timestep, encode(clip, captions), seed)


@torch.inference_mode()
def generate(
    model: Any,
    clip: Any,
    vae: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    batch: int = 32,
    **options: Any,
) -> Tensor:
    """Generate one picture for each prompt and seed.

    Args:
        batch: how many are sampled at once.
        options: steps, cfg, sampler, scheduler, negative and size, see ``sample``.

    Returns:
        pictures [N, H, W, 3] in 0..1.
    """
    pictures = []
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        pictures.append(vae.decode(sample(model, clip, prompts[part], seeds[part], **options)))
    return torch.cat(pictures)
