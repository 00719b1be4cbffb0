"""The small world's diffusion model: ComfyUI's own UNet, small, inside ComfyUI's own model class."""

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import torch

from .text_encoder import WIDTH

UNET_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
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

    latent_channels = 4
    # For previews while sampling: a least-squares fit of 8 x 8 pixel means (-1 to 1) by the shipped VAE's latents.
    latent_rgb_factors = [[0.01, 0.152, -0.077], [0.251, 0.294, 0.544], [0.14, -0.125, -0.028], [-0.354, -0.17, 0.135]]
    latent_rgb_factors_bias = [0.053, 0.043, 0.062]


class CanvasConfig(comfy.supported_models_base.BASE):
    """How ComfyUI sees the model: epsilon prediction on Stable Diffusion's schedule, float32 unless asked."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}
    latent_format = CanvasLatent
    memory_usage_factor = 1.0
    # Five million weights gain nothing from half precision, and float32 gives the same picture everywhere.
    supported_inference_dtypes = [torch.float32]


def host_model(config: dict[str, Any], dtype: torch.dtype, manual_cast: torch.dtype | None, device: Any) -> Any:
    """Return a ``comfy.model_base.BaseModel`` around an empty UNet of a `UNET_CONFIG`-like config."""
    settings = CanvasConfig(config)
    settings.set_inference_dtype(dtype, manual_cast)
    return comfy.model_base.BaseModel(settings, comfy.model_base.ModelType.EPS, device=device)
