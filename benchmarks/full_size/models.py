"""UNets of full size, and SAEs to read them, with random weights and made in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from dynamic import weights_at_once
from torch import Tensor

from ...sae_models.concepts import Concept, ConceptBand, ConceptDictionary
from ...sae_models.loaded import LoadedSAE
from ...sae_models.sae import SAEConfig, SparseAutoencoder
from .checkpoints import FAMILIES, UNETS, constant, spread

POOL = 2**22
# The features of a planted concept are this many times as strong as what they compete with.
STRENGTH = 4.0


@weights_at_once()
def random_model(
    kind: str,
    dtype: torch.dtype,
    cast: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    **changed: Any,
) -> ModelPatcher:
    """Return a model whose weights were never in a file.

    Args:
        kind: ``sd15`` or ``sdxl``.
        dtype: of the weights.
        cast: what it computes in, if in another.
        device: where it is made, and used.
        changed: settings of the UNet that are not those of the kind, such as a smaller ``model_channels``.
    """
    device = torch.device(device)
    settings = FAMILIES[kind](dict(UNETS[kind]) | changed)
    settings.set_inference_dtype(dtype, cast)
    model = settings.get_model({}, device=device)
    made = torch.Generator(device).manual_seed(0)
    pool = torch.randn(POOL, generator=made, device=device)
    for key, value in model.diffusion_model.state_dict().items():
        shape = tuple(value.shape)
        if len(shape) > 1:
            flat = value.view(-1)
            for start in range(0, len(flat), len(pool)):
                part = flat[start : start + len(pool)]
                part.copy_(pool[: len(part)] * spread(key, shape))
        else:
            value.copy_(constant(key, shape).view(shape))
    offload = torch.device("cpu") if device.type == "cpu" else comfy.model_management.unet_offload_device()
    return ModelPatcher(model.eval().requires_grad_(False), device, offload)


def conditioning(kind: str, seed: int) -> list[Any]:
    """Return a conditioning of random numbers."""
    made = torch.Generator().manual_seed(seed)
    width = UNETS[kind]["context_dim"]
    return [[torch.randn(1, 77, width, generator=made), {"pooled_output": torch.randn(1, 1280, generator=made)}]]


def denoise(model: ModelPatcher, noise: Tensor, positive: Any, negative: Any, steps: int) -> Tensor:
    """Sample as the KSampler does."""
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, 3.0, "euler", "normal", positive, negative, torch.zeros_like(noise),
            disable_pbar=True, seed=1,
        )  # fmt: skip


@weights_at_once()
def random_sae(config: SAEConfig, with_decoder: bool = False) -> SparseAutoencoder:
    """Return an SAE of random weights, float32; the same with a decoder and without."""
    made = torch.Generator().manual_seed(config.d_in)
    sae = SparseAutoencoder(config, with_decoder, comfy.ops.manual_cast, dtype=torch.float32)
    with torch.no_grad():
        sae.encoder.weight.copy_(torch.randn(config.num_latents, config.d_in, generator=made) * config.d_in**-0.5)
        sae.encoder.bias.zero_()
        sae.decoder_bias.copy_(0.1 * torch.randn(config.d_in, generator=made))
        if sae.decoder_weight is not None:
            sae.decoder_weight.copy_(sae.encoder.weight)
    return sae.eval().requires_grad_(False)


def loaded(sae: SparseAutoencoder, device: torch.device | str = "cpu") -> LoadedSAE:
    """Put an SAE under ComfyUI's memory management, as the SAE Loader does with one from a file."""
    patcher = ModelPatcher(sae, torch.device(device), torch.device("cpu"))
    file: Any = SimpleNamespace(said_block="")  # there is none
    return LoadedSAE("random", sae, ConceptDictionary({}), file, patcher)


@dataclass(frozen=True, eq=False)
class Seen:
    """What an SAE is given at one timestep, [N, D]."""

    timestep: float
    patches: Tensor


@torch.no_grad()
def plant_concept(saes: Sequence[SparseAutoencoder], seen: Sequence[Seen], share: float, features: int = 8) -> Concept:
    """Let the first features of SAEs tell patches apart, and return a concept of them that is found in a share.

    A feature of random weights hardly ever fires, and in a UNet of random weights all patches of a step are much alike.
    So these features read the directions in which the patches of a step differ most, and none in which steps differ.

    Args:
        saes: equal but for their decoders; their weights are changed.
        seen: what is read at each timestep.
        share: of the patches, at each of these timesteps.
        features: how many; fewer than the patches of a step.
    """
    directions, deviations = _differences([each.patches.float() for each in seen], features)
    rivals = max(float(saes[0].pre_activations(each.patches.float()).max()) for each in seen)
    rows = directions * (STRENGTH * rivals / deviations.clamp(min=1e-6))[:, None]
    for sae in saes:
        sae.encoder.weight[:features] = rows.to(sae.encoder.weight)
        sae.encoder.bias[:features] = (rows @ sae.decoder_bias.to(rows)).to(sae.encoder.bias)
    ordered = sorted(seen, key=lambda each: each.timestep)
    bands = tuple(_band(saes[0], each.patches.float(), share, features) for each in ordered)
    times = [each.timestep for each in ordered]
    middles = [(a + b) / 2 for a, b in pairwise(times)]
    return Concept("planted", (-1.0, *middles, 1000.0), bands)


def _differences(steps: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Return the directions in which patches of a step differ most, [count, D], and their deviations along them."""
    means = torch.stack([patches.mean(0) for patches in steps])
    basis = torch.linalg.qr(means.T).Q
    apart = torch.cat([patches - mean for patches, mean in zip(steps, means, strict=True)])
    apart = apart - apart @ basis @ basis.T
    values, vectors = torch.linalg.eigh(apart.T @ apart / len(apart))
    return vectors[:, -count:].T, values[-count:].clamp(min=0).sqrt()


def _band(sae: SparseAutoencoder, patches: Tensor, share: float, features: int) -> ConceptBand:
    """Return thresholds that a share of the patches exceeds."""
    fired = sae.encode_dense(patches)[:, :features]
    usual = fired.mean(0).clamp(min=1e-6)
    limit = (fired / usual).sum(1).quantile(1 - share)
    return ConceptBand(tuple(range(features)), tuple((usual * limit).tolist()))
