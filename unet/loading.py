"""Read an SAE and put it under ComfyUI's memory management."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher

from ..sae_models.formats import open_sae
from ..sae_models.loaded import LoadedSAE


def load_sae(path: str, name: str, hookpoint: str = "", reads: str = "", inside: Path | None = None) -> LoadedSAE:
    """Read the encoder of an SAE file and put it under ComfyUI's memory management.

    Args:
        path: a file or folder of any format in ``sae_models.formats``.
        name: what to call it in messages.
        hookpoint, reads: instead of what the file says; "" for what it says.
        inside: the folder it was listed in, see PublishedSAE.

    Raises:
        SAEFileError: the file is damaged or no SAE.
    """
    file = open_sae(path, hookpoint, inside)
    file.config = replace(file.config, hookpoint=hookpoint or file.config.hookpoint, reads=reads or file.config.reads)
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    # Half precision is slow on a processor, where the weights are small enough to be widened once.
    dtype = torch.float32 if comfy.model_management.is_device_cpu(load_device) else None
    module = file.load(operations=comfy.ops.manual_cast, dtype=dtype).to(offload_device)
    patcher = ModelPatcher(module, load_device=load_device, offload_device=offload_device)
    return LoadedSAE(name, module, file.dictionary(), file, patcher)
