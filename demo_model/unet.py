"""The demo model's diffusion model: ComfyUI's own UNet, small, inside ComfyUI's own model class."""

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import torch

from .sizes import GRID, LATENT_CHANNELS
from .text_encoder import WIDTH

UNET_CONFIG: dict[str, Any] = {
    "image_size": GRID,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 64,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 3],
    "num_heads": -1,
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "transformer_depth": [0, 1, 0],
    "transformer_depth_output": [0, 0, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": WIDTH,
    "use_linear_in_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
}


class CanvasLatent(comfy.latent_formats.LatentFormat):
    """Latents as the VAE gives them: zero mean, unit variance per channel."""

    latent_channels = LATENT_CHANNELS
    # For previews while sampling: the mean color (-1 to 1) of a cell's pixels, fitted by dev/demo_model/fit_preview.py.
    latent_rgb_factors = [
        [-0.442, -0.093, 0.082],
        [-0.02, -0.033, -0.032],
        [0.206, 0.479, 0.385],
        [-0.02, 0.077, -0.227],
    ]
    latent_rgb_factors_bias = [0.171, 0.199, 0.19]


class CanvasConfig(comfy.supported_models_base.BASE):
    """How ComfyUI sees the model: epsilon prediction on Stable Diffusion's schedule, float32 unless asked."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}
    latent_format = CanvasLatent
    memory_usage_factor = 1.0
    # Float32 gives the same picture everywhere; half precision is for those who start ComfyUI for it.
    supported_inference_dtypes = [torch.float32]


def host_model(config: dict[str, Any], dtype: torch.dtype, manual_cast: torch.dtype | None, device: Any) -> Any:
    """Return a ``comfy.model_base.BaseModel`` around an empty UNet of a `UNET_CONFIG`-like config."""
    settings = CanvasConfig(config)
    settings.set_inference_dtype(dtype, manual_cast)
    return comfy.model_base.BaseModel(settings, comfy.model_base.ModelType.EPS, device=device)
