"""What the pack costs: a sampling step with and without it, its hooks now and before, loading, and ComfyUI's start.

``nox -s bench`` prints medians and quartiles of alternating runs in one process, and ratios pair by pair, because
absolute times on a shared machine mean little. ``--json`` writes all but the hooks, which are a table of their own.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence

import psutil
import torch
from comfy.model_patcher import ModelPatcher

from ..demo_model import checkpoint
from ..demo_model.vocabulary import caption
from ..dev.demo_model.sampling import CFG, sample
from ..erasure.attach import attach
from ..erasure.detection import Detector
from ..erasure.eraser import Eraser
from ..erasure.history import ErasureRecord
from ..erasure.keep import Rest
from ..erasure.replacement import Replacement
from ..nodes import files
from ..unet.hooks import attach_observer
from ..unet.loading import load_sae
from . import hooks
from .framework.tables import Table, add_json
from .published import FullReconstruction
from .timing import Clocked, alternate, ratios

BARE = "bare"
START = """
import sys, time
sys.path.insert(0, "dev/host")
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


class Costs(Table):
    """The table of medians and quartiles."""

    def __init__(self) -> None:
        super().__init__("cost", ("median", "lower quartile", "upper quartile", "n"))

    def spent(self, what: str, values: Sequence[float]) -> None:
        """Add a row of what was measured several times."""
        low, middle, high = statistics.quantiles(values, n=4)
        self.add(what, middle, low, high, len(values))


def sampling(table: Costs, rounds: int, batch: int, steps: int) -> None:
    """Compare a sampling step bare, with detection, with replacement, and as published hooks do it."""
    model, clip, _ = checkpoint.load()
    name = files.names()[0]
    sae = load_sae(files.resolve(name), name)
    detector, absent = Detector(sae, sae.concept("cat")), Detector(sae, sae.concept("tower"))
    prompts = [caption(("cat",), "photo")] * batch
    whole = load_sae(files.resolve(name), name)
    published = FullReconstruction(whole.load_decoder(), whole.concept("cat").bands[0].features)
    models = {
        "detection": attach(model, detector, Replacement("none"))[0],
        "rest may change": attach(model, detector, Replacement())[0],
        "rest may change, random source patches": attach(model, detector, Replacement("random"))[0],
        "rest kept, the concept is there": attach(model, detector, Replacement(), rest=Rest())[0],
        "rest kept, the concept is not there": attach(model, absent, Replacement(), rest=Rest())[0],
        "every patch encoded and decoded, as published": attach_observer(model, published),
    }

    def runner(used: object) -> Callable[[], object]:
        return lambda: sample(used, clip, prompts, list(range(batch)), steps=steps)

    actions = {BARE: runner(model), **{key: runner(used) for key, used in models.items()}}
    times = alternate(actions, rounds, time.perf_counter)
    table.spent(f"a sampling step without the pack, batch {batch}, s", [v / steps for v in times[BARE]])
    for key in models:
        table.spent(f"{key}, of a run without the pack", ratios(times[key], times[BARE]))
    for mode in ("similar", "random"):
        eraser = Eraser(detector, Replacement(mode), ErasureRecord(), (hooks.MIDDLE, detector.hookpoint))
        within = inside(model, eraser, runner, max(5, rounds // 3))
        table.spent(f"the pack's own code, {mode}, of the rest of the step", within)


def inside(
    model: ModelPatcher, eraser: Eraser, runner: Callable[[object], Callable[[], object]], rounds: int
) -> list[float]:
    """Return how long an eraser takes at its blocks, in units of the rest of the same run.

    Two runs of a shared machine differ by more than the pack costs; parts of one run do not.
    """
    clocked, shares = Clocked(eraser, time.perf_counter), []
    run = runner(attach_observer(model, clocked))
    for _ in range(rounds + 1):
        clocked.spent, started = 0.0, time.perf_counter()
        run()
        shares.append(clocked.spent / (time.perf_counter() - started - clocked.spent))
    return shares[1:]


def loading(table: Costs, rounds: int) -> None:
    """Compare reading the encoder alone with reading the decoder too: time and tensor memory."""
    name = files.names()[0]
    path = files.resolve(name)
    actions = {"encoder": lambda: load_sae(path, name), "with decoder": lambda: load_sae(path, name).load_decoder()}
    times = alternate(actions, rounds, time.perf_counter)
    for key, action in actions.items():
        loaded = action()
        module = getattr(loaded, "module", loaded)
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        table.spent(f"load a shipped SAE, {key} ({size / 2**20:.2f} MiB), s", times[key])


def start(table: Costs, rounds: int) -> None:
    """Time what the pack adds to ComfyUI's start: import, entry point and schemas, in fresh processes."""
    times = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
        times.append(float(done.stdout.split()[-1]))
    table.spent("added to ComfyUI's start, s", times)


def growth(table: Costs, runs: int) -> None:
    """Sample many times, as a queue does, and report what memory is left behind.

    The patched model stays, as ComfyUI's cache keeps it; every tenth run attaches anew, as a changed widget makes it.
    """
    model, clip, _ = checkpoint.load()
    name = files.names()[0]
    sae = load_sae(files.resolve(name), name)
    detector, prompt = Detector(sae, sae.concept("cat")), [caption(("cat",), "photo")]
    process, patched = psutil.Process(), model
    marks = []
    for run in range(-20, runs):
        if run % 10 == 0:
            patched, _ = attach(model, detector, Replacement())
        sample(patched, clip, prompt, [run + 20], steps=2)
        if run == -1:
            # The first runs fill caches that are there to stay.
            tracemalloc.start()
            sample(patched, clip, prompt, [0], steps=2)
        if run in (-1, runs - 1):
            gc.collect()
            marks.append((tracemalloc.get_traced_memory()[0], process.memory_info().rss))
    (traced, resident), (later_traced, later_resident) = marks
    for what, grown in (
        ("Python memory", (later_traced - traced) / 2**20),
        ("resident memory", (later_resident - resident) / 2**20),
    ):
        table.add(f"{what} after {runs} more runs, MiB more", round(grown, 2), None, None, 1)


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--runs", type=int, default=200, help="over which memory is watched")
    parts: dict[str, Callable[[Costs, argparse.Namespace], object]] = {
        "sampling": lambda table, given: sampling(table, given.rounds, given.batch, given.steps),
        "loading": lambda table, given: loading(table, given.rounds),
        "start": lambda table, given: start(table, max(5, given.rounds // 3)),
        "memory": lambda table, given: growth(table, given.runs),
        "hooks": lambda _, given: hooks.compare(given.rounds),
    }
    parser.add_argument("--parts", nargs="*", choices=list(parts), default=list(parts))
    add_json(parser)
    arguments = parser.parse_args()
    files.register_folder()
    table = Costs()
    for part in arguments.parts:
        parts[part](table, arguments)
    threads = f"cfg {CFG}, {arguments.steps} steps, {torch.get_num_threads()} threads."
    table.write(arguments.json, threads)
