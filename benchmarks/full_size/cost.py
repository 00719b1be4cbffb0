"""What the pack costs on UNets of full size: ``python dev/host benchmarks.full_size.cost --model sd15 --size 512``.

A sampling step (both prompts of guidance) without the pack, with detection, with replacement, and as the published
hooks do it, in turn in one process; ratios are taken turn by turn, and the time inside the hooks is measured by itself
in the same steps. Where a step takes a minute, ``--together`` measures all hooks in one. Weights are random, which
changes no time; the SAE has the published size, and a concept that is planted for a tenth of the patches. Printed is
how many are detected then.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...erasure.detection import Detector
from ...erasure.eraser import Eraser
from ...erasure.history import ErasureRecord
from ...erasure.replacement import Replacement
from ...sae_models.hookpoints import find
from ...sae_models.sae import SparseAutoencoder
from ...unet.blocks import hookpoints
from ...unet.capture import Capture
from ...unet.hooks import attach_observer
from ...unet.loading import load_sae
from ..hooks import MIDDLE
from ..published import FullReconstruction
from ..timing import Clocked, quartiles, ratios
from .checkpoints import PUBLISHED, write_sae
from .models import Seen, conditioning, denoise, plant_concept, random_model

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DETECTED = 0.1
REPLACE, PUBLISHED_WAY, TOGETHER = "similar", "published approach", "all together"


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
    say_memory(sae.module, path)
    whole = load_sae(str(path), "published", find(block))
    seen = [Seen(each.timestep, each.embeddings[0]) for each in capture.take()]
    detector = Detector(sae, plant_concept([sae.module], seen, DETECTED))
    record = ErasureRecord()
    # The Patch Replacer's default: where the SAE reads, and in the middle.
    blocks = tuple(dict.fromkeys((MIDDLE, find(block))))
    observers = {
        "none": Eraser(detector, Replacement("none"), ErasureRecord(), blocks),
        REPLACE: Eraser(detector, Replacement(), record, blocks),
        # The concept is not planted in this one, or with all on one model nothing would be left to detect.
        PUBLISHED_WAY: FullReconstruction(whole.load_decoder(), [0, 1]),
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
    assert record.latest is not None
    there = next(entry for entry in record.latest.entries.values() if entry.hookpoint == find(block))
    detected = f"{int(there.mask.sum())} of {there.mask.numel()}"
    print(
        f"{detected} patches are detected; {record.latest.replaced()} are replaced at {', '.join(blocks)}",
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
        to_bare = ratios(values, steps["bare"]) if "bare" in steps else []
        print(f"  step, {name:20} {quartiles(values)}" + (f"   x bare {quartiles(to_bare)}" if to_bare else ""))
    for name, values in hooks.items():
        print(f"  hooks, {name:20} {quartiles(values)}   {quartiles(shares[name], 5)} of the step without them")
    ours = ratios(hooks[REPLACE], hooks[PUBLISHED_WAY])
    print(f"  {REPLACE} takes {quartiles(ours)} of the time that the published approach takes in hooks")


if __name__ == "__main__":
    main()
