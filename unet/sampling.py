"""Let a model generate or read noised images through ComfyUI, and keep which features fire."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..sae_models.loaded import LoadedSAE
from .capture import FeatureCapture, FiredFeatures
from .hooks import attach_observer
from .preview import Progress

Conditioning = list[list[Any]]
MOST_AT_ONCE = 16


@dataclass(frozen=True)
class Sampling:
    """How images are generated; the fields are those of ComfyUI's KSampler."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    seed: int


@dataclass(frozen=True, eq=False)
class Observed:
    """What fired while images were generated or looked at.

    Attributes:
        fired: for each image its calls, first to last, each with B = 1.
        latents: the images that came out, [N, C, h, w].
    """

    fired: list[list[FiredFeatures]]
    latents: Tensor


def generate(
    model: ModelPatcher, clip: Any, sae: LoadedSAE, prompts: Sequence[str], empty: Tensor, sampling: Sampling
) -> Observed:
    """Generate one image of each prompt; the negative prompt is empty.

    Args:
        model, clip: as ComfyUI gives them.
        sae: fits the model.
        prompts: one an image.
        empty: a latent batch [B, C, h, w] of the wanted size; B images are generated at once.
        sampling: image i is generated from the noise of seed + i, whatever is generated beside it.
    """
    return _generate(model, clip, sae, list(_batches(clip, prompts, len(empty))), empty, sampling)


def generate_more(
    model: ModelPatcher,
    clip: Any,
    sae: LoadedSAE,
    conditioning: Conditioning,
    count: int,
    empty: Tensor,
    sampling: Sampling,
) -> Observed:
    """Generate images as ``generate`` does, all of one conditioning."""
    batches = [(start, conditioning, min(len(empty), count - start)) for start in range(0, count, len(empty))]
    return _generate(model, clip, sae, batches, empty, sampling)


def _generate(
    model: ModelPatcher,
    clip: Any,
    sae: LoadedSAE,
    batches: Sequence[tuple[int, Conditioning, int]],
    empty: Tensor,
    sampling: Sampling,
) -> Observed:
    """See ``generate``; batches as ``_batches`` gives them."""
    capture = FeatureCapture(sae)
    watched = attach_observer(model, capture, [sae.patcher])
    negative = encode(clip, "")
    progress = Progress(model, sum(count for _, _, count in batches) * sampling.steps)
    fired: list[list[FiredFeatures]] = []
    latents = []
    for start, positive, count in batches:
        blank = comfy.sample.fix_empty_latent_channels(model, torch.zeros_like(empty[:1]))
        blank = blank.repeat(count, *[1] * (blank.ndim - 1))
        noise = starting_noise(blank, range(sampling.seed + start, sampling.seed + start + count))
        latents.append(
            comfy.sample.sample(
                watched,
                noise,
                sampling.steps,
                sampling.cfg,
                sampling.sampler_name,
                sampling.scheduler,
                positive,
                negative,
                blank,
                callback=lambda _step, x0, *_, count=count: progress.update(count, x0),
                disable_pbar=True,
                seed=sampling.seed,
            )
        )
        fired += _split(capture.take_fired(), count)
    return Observed(fired, torch.cat(latents))


def blank(like: Tensor, count: int) -> Tensor:
    """Return so many empty latents of the size of a batch."""
    return torch.zeros_like(like[:1]).repeat(count, *[1] * (like.ndim - 1))


def at_once(model: ModelPatcher, like: Tensor) -> int:
    """Return how many images to generate at once: as many as memory allows, up to `MOST_AT_ONCE`.

    Args:
        model: that generates.
        like: a latent batch [B, C, h, w] of the wanted size; B is the least that is returned.
    """
    free = comfy.model_management.get_free_memory(model.load_device) - (model.model_size() - model.loaded_size())
    # Both prompts of each image. ComfyUI's own margin is 1.5; what else must be loaded needs room too.
    needed = 2.0 * model.memory_required([2, *like.shape[1:]])
    return max(len(like), min(MOST_AT_ONCE, int(free / needed)))


def read_noised(
    model: ModelPatcher,
    sae: LoadedSAE,
    conditioning: Conditioning,
    latents: Tensor,
    timesteps: Sequence[float],
    seed: int,
) -> list[list[FiredFeatures]]:
    """Noise images to several timesteps and let the model look at each once, the positive prompt alone.

    Args:
        conditioning: what the images show.
        latents: of the images, as the VAE encodes them, [B, C, h, w].
        timesteps: 0..999.
        seed: of the noise; image i takes as many from seed + i * len(timesteps) on, whatever is looked at beside it.

    Returns:
        What fired, for each image its timesteps.
    """
    capture = FeatureCapture(sae)
    watched = attach_observer(model, capture, [sae.patcher])
    progress = Progress(model, len(timesteps))
    for number, timestep in enumerate(timesteps):
        comfy.model_management.throw_exception_if_processing_interrupted()
        seeds = range(seed + number, seed + number + len(latents) * len(timesteps), len(timesteps))
        noise = starting_noise(latents, seeds)
        ask_once(watched, noise, latents, timestep, conditioning, seeds[0])
        progress.update(1, latents)
    return _split(capture.take_fired(), len(latents))


def read_each_noised(
    model: ModelPatcher,
    clip: Any,
    sae: LoadedSAE,
    prompts: Sequence[str],
    latents: Tensor,
    timesteps: Sequence[float],
    seed: int,
) -> list[list[FiredFeatures]]:
    """Look at images as ``read_noised`` does, each with a prompt of its own.

    Args:
        prompts: what each image shows.
        latents: of the images, [B, C, h, w]; as many as have prompts of one shape are looked at at once.
        seed: of the noise; those used are seed to seed + B * len(timesteps) - 1.
    """
    fired = []
    for start, positive, count in _batches(clip, prompts, len(latents)):
        part = latents[start : start + count]
        fired += read_noised(model, sae, positive, part, timesteps, seed + start * len(timesteps))
    return fired


def ask_once(
    model: ModelPatcher, noise: Tensor, latents: Tensor, timestep: float, conditioning: Conditioning, seed: int
) -> None:
    """Let a model look at noised latents once, the positive prompt alone, and throw its answer away.

    An observer attached to the model sees the activations.

    Args:
        noise, latents: [B, C, h, w].
        timestep: 0..999, says how much of the noise is added.
        conditioning: what the images show.
        seed: of the sampling run.
    """
    sigma = float(model.get_model_object("model_sampling").sigma(torch.tensor(timestep)))
    # One step to zero with a scale of 1 asks once; the negative prompt is not looked at then.
    comfy.sample.sample_custom(
        model,
        noise,
        1.0,
        comfy.samplers.sampler_object("euler"),
        torch.tensor([sigma, 0.0]),
        conditioning,
        conditioning,
        latents,
        disable_pbar=True,
        seed=seed,
    )


def encode(clip: Any, prompt: str) -> Conditioning:
    """Encode a prompt as ComfyUI's CLIP Text Encode does."""
    found: Conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    return found


def _batches(clip: Any, prompts: Sequence[str], most: int) -> Iterator[tuple[int, Conditioning, int]]:
    """Yield conditionings of several prompts at once: first prompt, conditioning, number of prompts.

    Prompts whose encodings differ in shape, or change during sampling, are not put together.
    """
    start = 0
    encoded = [encode(clip, prompt) for prompt in prompts]
    while start < len(prompts):
        end = start + 1
        while end < len(prompts) and end - start < most and _alike(encoded[start], encoded[end]):
            end += 1
        yield start, stacked(encoded[start:end]), end - start
        start = end


def _alike(one: Conditioning, other: Conditioning) -> bool:
    return (
        len(one) == len(other) == 1 and one[0][0].shape == other[0][0].shape and one[0][1].keys() == other[0][1].keys()
    )


def stacked(encoded: Sequence[Conditioning]) -> Conditioning:
    """Make one conditioning whose batch is several prompts, encoded in one shape."""
    if len(encoded) == 1:
        return encoded[0]
    options = dict(encoded[0][0][1])
    for key, value in options.items():
        if isinstance(value, Tensor):
            options[key] = torch.cat([each[0][1][key] for each in encoded])
    return [[torch.cat([each[0][0] for each in encoded]), options]]


def starting_noise(like: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return starting noise of the shape of a batch, each image from a seed of its own."""
    shape = (1, *like.shape[1:])
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed % 2**63)) for seed in seeds])


def _split(calls: Sequence[FiredFeatures], images: int) -> list[list[FiredFeatures]]:
    """Turn calls of a batch into the calls of each image."""
    return [
        [FiredFeatures(c.timestep, c.values[i : i + 1], c.indices[i : i + 1], c.grid) for c in calls]
        for i in range(images)
    ]
