"""Checkpoints and SAEs of full size and random weights, with the keys and shapes of the published ones.

Keys and shapes come from ComfyUI's own model classes on the meta device and its own way of saving; the numbers from
a pool of random ones, so that seven gigabytes are written in the time that a disk takes.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import comfy.ldm.models.autoencoder
import comfy.ops
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from dynamic import weights_at_once
from safetensors.torch import save_file
from torch import Tensor

COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "model_channels": 320,
}
UNETS = {
    "sd15": COMMON
    | {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "context_dim": 768,
        "num_heads": 8,
        "num_head_channels": -1,
    },
    "sdxl": COMMON
    | {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "context_dim": 2048,
        "num_head_channels": 64,
    },
}
FAMILIES = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}
CLIPS = {"sd15": comfy.sd1_clip.SD1ClipModel, "sdxl": comfy.sdxl_clip.SDXLClipModel}
# Where published SAEs read: (path as it is published, what they read).
PUBLISHED = {
    "sd15": (("up_blocks.1.attentions.1", "output"), ("up_blocks.1.attentions.2", "output")),
    "sdxl": tuple(
        (block, "output_minus_input")
        for block in (
            "down_blocks.2.attentions.1",
            "mid_block.attentions.0",
            "up_blocks.0.attentions.0",
            "up_blocks.0.attentions.1",
        )
    ),
}
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
POOL = 2**24


def default_folder() -> Path:
    """Return where checkpoints are kept: ``FULL_SIZE_FOLDER`` if set, else ``.host/full_size``."""
    return Path(os.environ.get("FULL_SIZE_FOLDER") or Path(__file__).parents[2] / ".host" / "full_size")


@weights_at_once()
def shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Return keys and shapes of a checkpoint, ``sd15`` or ``sdxl``, as it is published."""
    family = FAMILIES[kind](dict(UNETS[kind]))
    unet = UNetModel(**UNETS[kind], device="meta", dtype=torch.float16, operations=comfy.ops.disable_weight_init)
    with torch.device("meta"):
        vae = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=VAE, embed_dim=4)
        clip = CLIPS[kind](device="meta", dtype=torch.float16)
    clips = {key if "clip_" in key else f"clip_l.{key}": value for key, value in clip.state_dict().items()}
    parts = [
        family.process_unet_state_dict_for_saving(unet.state_dict()),
        family.process_clip_state_dict_for_saving(clips),
        family.process_vae_state_dict_for_saving(vae.state_dict()),
    ]
    return {key: tuple(value.shape) for part in parts for key, value in part.items() if "position_ids" not in key}


def write_checkpoint(path: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of random float16, one tensor after the other.

    Weights are spread as a variance-preserving start has them; scales of normalisations are one, biases zero.
    """
    offset, header = 0, {}
    for key, shape in wanted.items():
        size = 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    described = json.dumps(header).encode()
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0))
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(described)) + described)
        for number, (key, shape) in enumerate(wanted.items()):
            if len(shape) > 1:
                write_random(file, pool, math.prod(shape), spread(key, shape), 7919 * number)
            else:
                file.write(constant(key, shape).numpy().tobytes())
    partial.rename(path)


def write_random(file: BinaryIO, pool: Tensor, count: int, deviation: float, place: int) -> None:
    """Write ``count`` numbers of a pool, from a place on and round again where it does not suffice."""
    while count:
        part = pool[place % len(pool) :][:count]
        file.write((part * deviation).half().numpy().tobytes())
        place, count = place + len(part), count - len(part)


def spread(key: str, shape: tuple[int, ...]) -> float:
    """Return the standard deviation of a weight."""
    return 0.02 if "embedding" in key else math.prod(shape[1:]) ** -0.5


def constant(key: str, shape: tuple[int, ...]) -> Tensor:
    """Return the value of a scale (1) or a bias (0)."""
    scale = key.endswith("weight")
    return torch.full((max(math.prod(shape), 1),), 1.0 if scale else 0.0, dtype=torch.float16)


def make_checkpoint(kind: str, folder: Path) -> Path:
    """Return the checkpoint of a kind, writing it the first time (2.1 GB for SD1.5, 6.9 GB for SDXL)."""
    path = folder / f"synthetic_{kind}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, shapes(kind))
    return path


def write_sae(folder: Path, block: str, width: int, reads: str, latents: int = 0) -> Path:
    """Write an SAE as SAeUron (reads the output) or sdxl-unbox (output minus input) publish theirs.

    Args:
        folder: below which it goes.
        block: diffusers path.
        width: of the block.
        reads: see SAEConfig.
        latents: 0 for the published number, 20480 or 5120.

    Returns:
        the folder of the SAE's own files.
    """
    made = torch.Generator().manual_seed(width)
    plain = reads == "output"
    count = latents or (20480 if plain else 5120)
    encoder = torch.randn(count, width, generator=made) * width**-0.5
    if plain:
        target = folder / f"unet.{block}"
        target.mkdir(parents=True)
        weights = {
            "encoder.weight": encoder,
            "encoder.bias": torch.zeros(count),
            "W_dec": encoder.clone(),
            "b_dec": 0.1 * torch.randn(width, generator=made),
        }
        save_file(weights, target / "sae.safetensors")
        config = {"d_in": width, "num_latents": count, "k": 32, "expansion_factor": 16, "batch_topk": True}
        (target / "cfg.json").write_text(json.dumps(config))
        return target
    target = folder / f"unet.{block}_k10_hidden{count}_auxk256_bs4096_lr0.0001" / "final"
    target.mkdir(parents=True)
    state = {
        "encoder.weight": encoder,
        "decoder.weight": encoder.T.contiguous(),
        "pre_bias": 0.1 * torch.randn(width, generator=made),
        "latent_bias": torch.zeros(count),
        "stats_last_nonzero": torch.zeros(count, dtype=torch.long),
    }
    torch.save({"state_dict": state}, target / "state_dict.pth")
    (target / "config.json").write_text(json.dumps({"n_dirs_local": count, "d_model": width, "k": 10, "auxk": 256}))
    return target
