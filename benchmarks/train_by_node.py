"""Train an SAE of the demo model as somebody does who leaves the SAE Trainer's inputs as they are.

``python dev/host benchmarks.train_by_node my_sae.safetensors`` calls the node at its defaults, as many images at a
time as in the workflow ``train_sae``, moves the SAE to that file, and prints what the node says and how long it took.
After an interruption the same command resumes.
"""

import argparse
import shutil
import time
from pathlib import Path

import folder_paths
import torch

from ..demo_model import checkpoint
from ..dev.demo_model.sampling import empty_latents
from ..nodes import SAETrainer
from ..nodes.files import EXTENSIONS
from .framework import storage

WORK = storage.folder("train_by_node")
AT_ONCE = 20


def main() -> None:
    """Train, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sae", type=Path, help="the file to write")
    given = parser.parse_args()
    saes = WORK / "sae"
    saes.mkdir(parents=True, exist_ok=True)
    folder_paths.folder_names_and_paths["sae"] = ([str(saes)], set(EXTENSIONS))
    folder_paths.set_output_directory(str(WORK))
    model, clip, _ = checkpoint.load()
    inputs = {each.id: getattr(each, "default", None) for each in SAETrainer.define_schema().inputs}
    inputs |= {"model": model, "clip": clip, "latent": {"samples": empty_latents(AT_ONCE)}, "overwrite": True}
    started, worked = time.monotonic(), time.process_time()
    with torch.inference_mode():
        output = SAETrainer.execute(**inputs)
    print(*output.ui["text"])
    print(f"{time.monotonic() - started:.0f} s, {time.process_time() - worked:.0f} s of CPU time", flush=True)
    shutil.move(saes / f"{inputs['name']}.safetensors", given.sae)
