"""What the pack costs on UNets of full size: ``python host benchmarks.full_size.cost --model sd15 --size 512``.

A sampling step (both halves of guidance) without the pack, with detection, with detection and replacement, and as
the published hooks do it, in turn in one process; ratios are taken turn by turn. Weights are random, which changes no
time; the SAE has the published size and the thresholds let a tenth of the patches through.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ...erasure.blocks import hookpoints
from ...erasure.capture import Capture
from ...erasure.detection import Detect
from ...erasure.model_patcher import attach, attach_observer, load_sae
from ...erasure.replacement import Replacement
from ...sae_models.concepts import Concept, ConceptBand
from ...sae_models.hookpoints import find
from ..published import FullReconstruction
from .checkpoints import FAMILIES, PUBLISHED, UNETS, constant, spread, write_sae
from .proof import denoise

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DETECTED = 0.1


def random_model(kind: str, dtype: torch.dtype) -> Any:
    """Return a model of full size whose weights were never in a file."""
    settings = FAMILIES[kind](dict(UNETS[kind]))
    settings.set_inference_dtype(dtype, None)
    model = settings.get_model({}, device=torch.device("cpu"))
    made = torch.Generator().manual_seed(0)
    pool = torch.randn(2**22, generator=made)
    for key, value in model.diffusion_model.state_dict().items():
        shape = tuple(value.shape)
        if len(shape) > 1:
            flat = value.view(-1)
            for start in range(0, len(flat), len(pool)):
                part = flat[start : start + len(pool)]
                part.copy_(pool[: len(part)] * spread(key, shape))
        else:
            value.copy_(constant(key, shape).view(shape))
    return ModelPatcher(model.eval().requires_grad_(False), torch.device("cpu"), torch.device("cpu"))


def conditioning(kind: str, seed: int) -> list[Any]:
    """Return a conditioning of random numbers."""
    made = torch.Generator().manual_seed(seed)
    width = UNETS[kind]["context_dim"]
    return [[torch.randn(1, 77, width, generator=made), {"pooled_output": torch.randn(1, 1280, generator=made)}]]


def concept_for(sae: Any, patches: torch.Tensor) -> Concept:
    """Return a concept of two latents that a tenth of the patches [cells, C] exceeds before competition."""
    levels = sae.module.pre_activations(patches.float())
    chosen = levels.amax(0).topk(2).indices.tolist()
    limits = [max(float(levels[:, latent].quantile(1 - DETECTED)), 1e-6) for latent in chosen]
    return Concept("something", (0.0, 1000.0), (ConceptBand(tuple(chosen), tuple(limits)),))


def ways(kind: str, model: Any, size: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Return the four ways to take a step, by name."""
    block, reads = PUBLISHED[kind][0]
    write_sae(folder, block, hookpoints(model)[find(block)], reads)
    path = next(folder.glob("unet*"))
    path = path / "final" if (path / "final").is_dir() else path
    sae = load_sae(str(path), "published", find(block))
    noise = torch.randn(1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(1))
    prompts = conditioning(kind, 1), conditioning(kind, 2)
    capture = Capture([find(block)], reads)
    denoise(attach_observer(model, capture), noise, *prompts, 1)
    detection = Detect(sae, concept_for(sae, capture.take()[0].embeddings[0]))
    held = sum(value.numel() * value.element_size() for value in sae.module.parameters())
    print(f"the SAE holds {held / 2**20:.1f} MiB, its file {file_size(path) / 2**20:.1f} MiB")
    whole = load_sae(str(path), "published", find(block))
    published = FullReconstruction(whole.load_decoder(), detection.concept.bands[0].latents)
    models = {
        "bare": model,
        "detect": attach(model, detection, Replacement("none"))[0],
        "detect and replace": attach(model, detection, Replacement("random"))[0],
        "published approach": attach_observer(model, published),
    }
    return {name: lambda used=used: denoise(used, noise, *prompts, 1) for name, used in models.items()}


def file_size(path: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(file.stat().st_size for file in path.iterdir())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(PUBLISHED), default="sd15")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=list(TYPES), default="bfloat16")
    parser.add_argument("--cpu-time", action="store_true", help="count the process's own time, for a busy machine")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    model = random_model(arguments.model, TYPES[arguments.dtype])
    with tempfile.TemporaryDirectory() as folder:
        actions = ways(arguments.model, model, arguments.size, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in actions}
        for turn in range(arguments.rounds + 1):
            for name, action in actions.items():
                started = clock()
                action()
                if turn:
                    times[name].append(clock() - started)
                    print(f"  turn {turn}: {name} {times[name][-1]:.2f} s", flush=True)
    print(
        f"{arguments.model}, {arguments.size} px, batch 1, {arguments.dtype}, {torch.get_num_threads()} thread(s), "
        f"{'processor' if arguments.cpu_time else 'wall'} seconds a step, n {arguments.rounds}: median (quartiles)"
    )
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times["bare"], strict=True)]
        print(f"  {name:20} {quartiles(values)}   x bare {quartiles(ratios)}")


def quartiles(values: list[float]) -> str:
    """Return median and quartiles as text."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


if __name__ == "__main__":
    main()
