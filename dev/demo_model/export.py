"""Put the trained parts into one checkpoint (development only).

``python dev/host dev.demo_model.export`` reads ``dev/work/`` and writes ``demo_model/weights/canvas.safetensors``,
float16, with the configuration in the metadata. It may be called while training goes on.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ...demo_model.checkpoint import DEFAULT_PATH, FORMAT
from ...demo_model.unet import UNET_CONFIG
from .make_data import WORK

AVERAGE = "model.average."


def trained_vae() -> Path:
    """Return the file of the trained VAE, the one with the sharper decoder if there is one."""
    sharp = WORK / "vae_sharp.safetensors"
    return sharp if sharp.exists() else WORK / "vae.safetensors"


def main() -> None:
    """Write the checkpoint from the averaged weights and the VAE."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    with safe_open(WORK / "unet_state.safetensors", "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {key.removeprefix(AVERAGE): file.get_tensor(key) for key in file.keys() if key.startswith(AVERAGE)}
    tensors |= {f"vae.{key}": value for key, value in load_file(trained_vae()).items()}
    halved = {key: value.to(torch.float16).contiguous() for key, value in tensors.items()}
    metadata = {
        "format": FORMAT,
        "unet": json.dumps(UNET_CONFIG),
        "facts": json.dumps({"licence": "Apache-2.0", "unet_steps": step, "prediction": "eps"}),
    }
    DEFAULT_PATH.parent.mkdir(exist_ok=True)
    save_file(halved, DEFAULT_PATH, metadata)
    size = DEFAULT_PATH.stat().st_size / 2**20
    print(f"{DEFAULT_PATH}: {size:.1f} MiB, UNet after {step} steps")
