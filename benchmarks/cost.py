"""What the pack costs: a sampling step with and without it, loading an SAE, and ComfyUI's start.

``nox -s bench`` prints medians and quartiles of alternating runs in one process, and ratios pair by pair, because
absolute times on a shared machine mean little.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from unittest.mock import patch

import psutil
import torch
from comfy.model_patcher import ModelPatcher

from ..canvas import checkpoint
from ..canvas.sampling import sample
from ..canvas.vocabulary import caption
from ..erasure.detection import Detect
from ..erasure.eraser import Eraser
from ..erasure.model_patcher import attach, attach_observer, load_sae
from ..erasure.passes import PassReader
from ..erasure.replacement import Replacement
from ..nodes import files
from .published import FullReconstruction

START = """
import sys, time
sys.path.insert(0, "host")
from load import load_comfyui, load_pack
load_comfyui()
import comfy.sd, comfy.sample, comfy_api.latest, folder_paths, kornia.morphology, kornia.contrib
started = time.perf_counter()
import asyncio
pack = load_pack()
extension = asyncio.run(pack.comfy_entrypoint())
nodes = asyncio.run(extension.get_node_list())
for node in nodes:
    node.define_schema()
print(time.perf_counter() - started)
"""


def quartiles(values: list[float]) -> str:
    """Return median and quartiles as text."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def alternate(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time actions in turn, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 1):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if turn:
                times[name].append(time.perf_counter() - started)
    return times


def sampling(rounds: int, batch: int, steps: int) -> None:
    """Compare a sampling step bare, with detection, with detection and replacement, and as published hooks do it."""
    model, clip, _ = checkpoint.load()
    name = files.names()[0]
    sae = load_sae(files.resolve(name), name)
    detection = Detect(sae, sae.concept("cat"))
    prompts = [caption(("cat",), "photo")] * batch
    whole = load_sae(files.resolve(name), name)
    published = FullReconstruction(whole.load_decoder(), whole.concept("cat").bands[0].latents)
    models = {
        "bare": model,
        "detect": attach(model, detection, Replacement("none"))[0],
        "detect and replace": attach(model, detection, Replacement("random"))[0],
        "published approach": attach_observer(model, published),
    }

    def runner(used: object) -> Callable[[], object]:
        return lambda: sample(used, clip, prompts, list(range(batch)), steps=steps)

    times = alternate({key: runner(used) for key, used in models.items()}, rounds)
    print(f"One sampling step of the shipped model, batch {batch}, cfg 4.5, seconds: median (quartiles), n {rounds}")
    for key, values in times.items():
        ratios = [a / b for a, b in zip(values, times["bare"], strict=True)]
        print(f"  {key:20} {quartiles([v / steps for v in values])}   x bare {quartiles(ratios)}")
    within = inside(models["detect and replace"], runner, max(5, rounds // 3))
    print(f"  of a step, the pack's own code while it detects and replaces: {quartiles(within)} x the rest of the step")


def inside(model: ModelPatcher, runner: Callable[[object], Callable[[], object]], rounds: int) -> list[float]:
    """Return how long the pack's code runs, in units of the rest of the same run.

    Two runs of a shared machine differ by more than the pack costs; parts of one run do not.
    """
    spent = 0.0

    def timed(original: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object) -> object:
            nonlocal spent
            started = time.perf_counter()
            try:
                return original(*args)
            finally:
                spent += time.perf_counter() - started

        return wrapper

    shares = []
    with (
        patch.object(Eraser, "on_block", timed(Eraser.on_block)),
        patch.object(PassReader, "read", timed(PassReader.read)),
        patch.object(Eraser, "begin", timed(Eraser.begin)),
    ):
        for _ in range(rounds + 1):
            spent, started = 0.0, time.perf_counter()
            runner(model)()
            shares.append(spent / (time.perf_counter() - started - spent))
    return shares[1:]


def loading(rounds: int) -> None:
    """Compare reading the encoder alone with reading the decoder too: time and tensor memory."""
    name = files.names()[0]
    path = files.resolve(name)
    actions = {"encoder": lambda: load_sae(path, name), "with decoder": lambda: load_sae(path, name).load_decoder()}
    times = alternate(actions, rounds)
    print(f"Load {name}, seconds, n {rounds}")
    for key, action in actions.items():
        loaded = action()
        module = getattr(loaded, "module", loaded)
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        print(f"  {key:20} {quartiles(times[key])}   {size / 2**20:.2f} MiB of weights")


def start(rounds: int) -> None:
    """Time what the pack adds to ComfyUI's start: import, entry point and schemas, in fresh processes."""
    times = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
        times.append(float(done.stdout.split()[-1]))
    print(f"Added to ComfyUI's start, seconds, n {rounds}\n  {quartiles(times)}")


def growth(runs: int) -> None:
    """Sample many times, as a queue does, and report what memory is left behind.

    The patched model stays, as ComfyUI's cache keeps it; every tenth run attaches anew, as a changed widget makes it.
    """
    model, clip, _ = checkpoint.load()
    name = files.names()[0]
    sae = load_sae(files.resolve(name), name)
    detection, prompt = Detect(sae, sae.concept("cat")), [caption(("cat",), "photo")]
    process, patched = psutil.Process(), model
    marks = []
    for run in range(-20, runs):
        if run % 10 == 0:
            patched, _ = attach(model, detection, Replacement("random"))
        sample(patched, clip, prompt, [run + 20], steps=2)
        if run == -1:
            # The first runs fill caches that are there to stay.
            tracemalloc.start()
            sample(patched, clip, prompt, [0], steps=2)
        if run in (-1, runs - 1):
            gc.collect()
            marks.append((tracemalloc.get_traced_memory()[0], process.memory_info().rss))
    (traced, resident), (later_traced, later_resident) = marks
    print(
        f"After {runs} more runs: Python memory {(later_traced - traced) / 1024:+.0f} KiB, "
        f"resident memory {(later_resident - resident) / 2**20:+.1f} MiB"
    )


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--runs", type=int, default=200, help="over which memory is watched")
    parts: dict[str, Callable[[argparse.Namespace], object]] = {
        "sampling": lambda given: sampling(given.rounds, given.batch, given.steps),
        "loading": lambda given: loading(given.rounds),
        "start": lambda given: start(max(5, given.rounds // 3)),
        "memory": lambda given: growth(given.runs),
    }
    parser.add_argument("--parts", nargs="*", choices=list(parts), default=list(parts))
    arguments = parser.parse_args()
    files.register_folder()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for part in arguments.parts:
        parts[part](arguments)
