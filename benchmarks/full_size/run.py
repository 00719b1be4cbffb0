"""``python dev/host benchmarks.full_size.run --model sd15 --size 512``: the proof of attachment at full size.

The checkpoint is made once, in ``--folder``, and loaded by ComfyUI's own CheckpointLoaderSimple. Weights stay float16,
as published, and are widened layer by layer where the device wants that (``--fp16-unet`` of ComfyUI), unless
``COMFYUI_OPTIONS`` asks for another type. At 1024 px it should ask for ``--use-pytorch-cross-attention`` too: what
ComfyUI takes on a processor else holds whole rows of attention scores, as many as the memory of the moment allows.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.cli_args import args as host_options
from comfy.ldm.modules.attention import optimized_attention

from .checkpoints import PUBLISHED, default_folder, make_checkpoint
from .proof import prove


def load(path: Path) -> tuple[Any, Any, Any]:
    """Load a checkpoint as the node does: model, and the encoded positive and negative prompts."""
    import nodes as host_nodes

    host_options.fp16_unet = not (host_options.bf16_unet or host_options.fp32_unet)
    folder_paths.add_model_folder_path("checkpoints", str(path.parent))
    model, clip, _ = host_nodes.CheckpointLoaderSimple().load_checkpoint(path.name)
    encode = host_nodes.CLIPTextEncode().encode
    with torch.inference_mode():
        positive, negative = encode(clip, "a cat on a sofa")[0], encode(clip, "")[0]
    del clip
    comfy.model_management.unload_all_models()
    return model, positive, negative


def main() -> None:
    """Make the checkpoint if need be, and prove."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(PUBLISHED), default="sd15")
    parser.add_argument("--size", type=int, default=512, help="of the square image, in pixels")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=default_folder())
    arguments = parser.parse_args()
    started = time.perf_counter()
    path = make_checkpoint(arguments.model, arguments.folder)
    print(
        f"{path.name}: {path.stat().st_size / 1e9:.2f} GB, there after {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    model, positive, negative = load(path)
    print(f"loaded after {time.perf_counter() - started:.0f} s", flush=True)
    side = arguments.size // 8
    replaced = prove(
        model,
        positive,
        negative,
        (side, side),
        PUBLISHED[arguments.model],
        arguments.steps,
        say=lambda line: print(line, flush=True),
    )
    import resource  # which Windows has not

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"proved: {arguments.model} at {arguments.size} px, {arguments.steps} step(s), kept as "
        f"{model.model.get_dtype()}, computed as {model.model.manual_cast_dtype or model.model.get_dtype()}, "
        f"{optimized_attention.__name__}, {replaced} patches replaced; "
        f"{time.perf_counter() - started:.0f} s, peak resident memory {peak:.1f} GiB (pages of the file included)"
    )


if __name__ == "__main__":
    main()
