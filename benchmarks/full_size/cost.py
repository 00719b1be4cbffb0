"""What the pack costs on UNets of full size: ``python dev/host benchmarks.full_size.cost --model sd15 --size 512``.

A sampling step (both halves of guidance) without the pack, with detection, with detection and replacement, and as
the published hooks do it, in turn in one process; ratios are taken turn by turn, and the time inside the hooks is
measured by itself in the same steps. Where a step takes a minute, ``--together`` measures all hooks in one. Weights are
random, which changes no time; the SAE has the published size, and the thresholds are to let a tenth of the patches
through to the second look, where latents compete. Printed is how many are detected then.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ...erasure.detection import Detect
from ...erasure.eraser import Eraser
from ...erasure.record import ErasureRecord
from ...erasure.replacement import Replacement
from ...sae_models.concepts import Concept, ConceptBand
from ...sae_models.hookpoints import find
from ...sae_models.sae import SparseAutoencoder
from ...unet.blocks import hookpoints
from ...unet.capture import Capture
from ...unet.hooks import attach_observer
from ...unet.loading import load_sae
from ..framework.settings import MIDDLE, at_blocks
from ..published import FullReconstruction
from ..timing import Clocked, quartiles
from .checkpoints import FAMILIES, PUBLISHED, UNETS, constant, spread, write_sae
from .proof import denoise

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DETECTED = 0.1
REPLACE, PUBLISHED_WAY, TOGETHER = "detect and replace", "published approach", "all together"


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
    """Return a concept of two latents that a tenth of the patches [cells, C] exceeds before competition.

    Where the random weights give nearly the same patch everywhere, as those of SDXL do, it is all or none.
    """
    levels = sae.module.pre_activations(patches.float())
    chosen = levels.amax(0).topk(2).indices.tolist()
    limits = [max(float(levels[:, latent].quantile(1 - DETECTED)), 1e-6) for latent in chosen]
    return Concept("something", (0.0, 1000.0), (ConceptBand(tuple(chosen), tuple(limits)),))


Step = Callable[[], tuple[float, dict[str, float]]]


def ways(kind: str, model: Any, size: int, folder: Path, clock: Callable[[], float], together: bool) -> dict[str, Step]:
    """Return the ways to take a step, by name; each gives the seconds of the step, and of each observer's hooks in it.

    Args:
        kind, model, size: see the command line.
        folder: an empty one, for the SAE.
        clock: what tells the seconds.
        together: one way only, with all observers on the model.
    """
    block, reads = PUBLISHED[kind][0]
    path = write_sae(folder, block, hookpoints(model)[find(block)], reads)
    sae = load_sae(str(path), "published", find(block))
    noise = torch.randn(1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(1))
    prompts = conditioning(kind, 1), conditioning(kind, 2)
    capture = Capture([find(block)], reads)
    denoise(attach_observer(model, capture), noise, *prompts, 1)
    detection = Detect(sae, concept_for(sae, capture.take()[0].embeddings[0]))
    say_memory(sae.module, path)
    whole = load_sae(str(path), "published", find(block))
    record = ErasureRecord()
    # The Patch Replacer's default: where the SAE reads, and in the middle.
    at = tuple(dict.fromkeys((MIDDLE, find(block))))
    sought = detection.concept.bands[0].latents
    observers = {
        "detect": Eraser(detection, at_blocks(Replacement("none"), at), ErasureRecord()),
        REPLACE: Eraser(detection, at_blocks(Replacement(), at), record),
        # Other latents, or with all on one model nothing would be left to detect.
        PUBLISHED_WAY: FullReconstruction(whole.load_decoder(), [n for n in range(4) if n not in sought][:2]),
    }

    def way(*names: str) -> Step:
        clocked = {name: Clocked(observers[name], clock) for name in names}
        used = model
        for observer in clocked.values():
            used = attach_observer(used, observer, [sae.patcher])

        def step() -> tuple[float, dict[str, float]]:
            for observer in clocked.values():
                observer.spent = 0.0
            started = clock()
            denoise(used, noise, *prompts, 1)
            return clock() - started, {name: observer.spent for name, observer in clocked.items()}

        return step

    found = {TOGETHER: way(*observers)} if together else {"bare": way(), **{name: way(name) for name in observers}}
    found[TOGETHER if together else REPLACE]()
    there = next(entry for entry in record.latest.entries.values() if entry.hookpoint == find(block))
    detected = f"{int(there.mask.sum())} of {there.mask.numel()}"
    print(
        f"{detected} patches are detected; {record.latest.replaced()} are replaced at {', '.join(at)}",
        flush=True,
    )
    return found


def say_memory(module: SparseAutoencoder, path: Path) -> None:
    """Print what an SAE holds in memory, beside its encoder alone and its file."""
    held = sum(value.numel() * value.element_size() for value in module.parameters())
    encoder = module.encoder.weight.numel() * module.encoder.weight.element_size()
    print(
        f"the SAE holds {held / 2**20:.1f} MiB, of which {encoder / 2**20:.1f} MiB are the encoder's weights; its "
        f"file has {file_size(path) / 2**20:.1f} MiB"
    )


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
    parser.add_argument("--together", action="store_true", help="one step a turn, with all hooks on it at once")
    parser.add_argument("--cpu-time", action="store_true", help="count the process's own time, for a busy machine")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    model = random_model(arguments.model, TYPES[arguments.dtype])
    steps: dict[str, list[float]] = defaultdict(list)
    hooks: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        actions = ways(arguments.model, model, arguments.size, Path(folder), clock, arguments.together)
        # One turn that does not count; all together, the one that told how much is replaced was that.
        for turn in range(1 if arguments.together else 0, arguments.rounds + 1):
            for name, action in actions.items():
                whole, spent = action()
                print(f"  turn {turn}: {name} {whole:.2f} s, in hooks {spent}", flush=True)
                if not turn:
                    continue
                steps[name].append(whole)
                for observer, seconds in spent.items():
                    hooks[observer].append(seconds)
                    shares[observer].append(seconds / (whole - sum(spent.values())))
    print(
        f"{arguments.model}, {arguments.size} px, batch 1, {arguments.dtype}, {torch.get_num_threads()} thread(s), "
        f"{'processor' if arguments.cpu_time else 'wall'} seconds, n {arguments.rounds}: median (quartiles)"
    )
    report(steps, hooks, shares)


def report(steps: dict[str, list[float]], hooks: dict[str, list[float]], shares: dict[str, list[float]]) -> None:
    """Print seconds of steps by way, seconds in hooks by observer, and these as shares of the step without hooks."""
    for name, values in steps.items():
        ratios = [a / b for a, b in zip(values, steps.get("bare", []), strict=False)]
        print(f"  step, {name:20} {quartiles(values)}" + (f"   x bare {quartiles(ratios)}" if ratios else ""))
    for name, values in hooks.items():
        print(f"  hooks, {name:20} {quartiles(values)}   {quartiles(shares[name], 5)} of the step without them")
    ours = [a / b for a, b in zip(hooks[REPLACE], hooks[PUBLISHED_WAY], strict=True)]
    print(f"  {REPLACE} takes {quartiles(ours)} of the time that the published approach takes in hooks")


if __name__ == "__main__":
    main()
