"""Load the demo model's checkpoint as the MODEL, CLIP and VAE that ComfyUI's stock nodes take."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .text_encoder import CanvasTextModel, CanvasTokenizer
from .unet import UNET_CONFIG, host_model
from .vae import CanvasAutoencoder

FORMAT = "sae-concept-erasure-canvas/1"
DEFAULT_PATH = Path(__file__).parent / "weights" / "canvas.safetensors"
PARTS = ("unet.", "text.", "vae.")


class CheckpointError(ValueError):
    """The checkpoint file is missing or damaged; the message says what to do."""


def read(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read the tensors of the three parts, as they are stored: {"unet.": {...}, "text.": {...}, "vae.": {...}}.

    Raises:
        CheckpointError: see there.
    """
    advice = "Install the pack again, or fetch this file anew from its repository."
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Canvas Checkpoint: {path} cannot be read ({error}). {advice}") from error
    if metadata.get("format") != FORMAT or not _is_ours(metadata.get("unet", "")):
        raise CheckpointError(f"Canvas Checkpoint: {path} is no checkpoint of this version of the pack. {advice}")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise CheckpointError(f"Canvas Checkpoint: {path} contains NaN or infinity. {advice}")
    return {p: {k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)} for p in PARTS}


def _is_ours(config: str) -> bool:
    """Return whether a file's metadata describe the UNet that this version builds."""
    try:
        return bool(json.loads(config) == UNET_CONFIG)
    except (ValueError, RecursionError):
        return False


def load(path: str | Path | None = None) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """Load a checkpoint.

    Args:
        path: a file that ``export.py`` wrote; None for the one that ships with the pack.

    Returns:
        model, clip and vae as ComfyUI's CheckpointLoaderSimple would give them. Weights are float32, which the
        few million of them can afford everywhere.

    Raises:
        CheckpointError: the file is missing, damaged, or of another version.
    """
    parts = read(Path(path or DEFAULT_PATH))
    try:
        return _model(parts["unet."]), _clip(parts["text."]), _vae(parts["vae."])
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"Canvas Checkpoint: the weights in {path or DEFAULT_PATH} do not fit ({error}). Install the pack again."
        ) from error


def precision() -> torch.dtype:
    """Return what the UNet computes in: float32, or the half precision that ComfyUI was started for.

    On a processor with bfloat16, ``--bf16-unet`` samples twice as fast.
    """
    asked = comfy.model_management.unet_dtype(supported_dtypes=[torch.float32])
    return asked if asked in (torch.bfloat16, torch.float16) else torch.float32


def _model(weights: dict[str, Tensor]) -> ModelPatcher:
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    dtype = precision()
    model = host_model(dict(UNET_CONFIG), dtype, None, offload_device)
    # With dynamic memory a layer takes its weights as they come, whatever it was made for.
    model.diffusion_model.load_state_dict({key: value.to(dtype) for key, value in weights.items()})
    model.eval().requires_grad_(False)
    return _patcher(model, load_device, offload_device)


def _clip(weights: dict[str, Tensor]) -> comfy.sd.CLIP:
    target = SimpleNamespace(params={}, clip=CanvasTextModel, tokenizer=CanvasTokenizer)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    clip.cond_stage_model.encoder.load_state_dict({key: value.float() for key, value in weights.items()})
    clip.cond_stage_model.eval().requires_grad_(False)
    return clip


def _vae(weights: dict[str, Tensor]) -> comfy.sd.VAE:
    # ComfyUI recognises a VAE by its weights and does not know this one: it sets its defaults, which are those
    # of an eightfold VAE with four channels, and leaves the network to us.
    with _silent():
        vae = comfy.sd.VAE(sd={})
    network = CanvasAutoencoder(comfy.ops.disable_weight_init)
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    vae.first_stage_model = network.eval().requires_grad_(False)
    vae.device = comfy.model_management.vae_device()
    vae.vae_dtype = torch.float32
    vae.output_device = comfy.model_management.intermediate_device()
    vae.memory_used_encode = vae.memory_used_decode = _memory_used
    offload_device = comfy.model_management.vae_offload_device()
    vae.patcher = _patcher(network, vae.device, offload_device)
    vae.model_size()
    return vae


def _patcher(model: torch.nn.Module, load_device: torch.device, offload_device: torch.device) -> ModelPatcher:
    """Return ComfyUI's own kind of patcher: with dynamic memory, in newer versions, it is another class."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    return kind(model, load_device=load_device, offload_device=offload_device)


def _memory_used(shape: Any, dtype: torch.dtype) -> int:
    """Estimate bytes from above: 64 channels at full resolution, whether latents or pixels are given."""
    scale = 1 if shape[1] == 3 else 64
    return int(64 * 4 * shape[2] * shape[3] * scale * comfy.model_management.dtype_size(dtype))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hold back the host's warning that it found no VAE weights."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
