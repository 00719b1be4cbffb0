"""Training speed and quality beside the public SAE libraries, on the same stored activations of the shipped model.

``nox -s trainers`` collects activations once (kept in ``canvas/work/trainers``) and trains with each library, taking
turns, every run in a fresh process with one thread. Each is run at two learning rates and shown at the one that
explains more. Speed is counted in embeddings per second of processor time, which other work on the machine disturbs
less than the clock; the clock's is shown too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..canvas import checkpoint
from ..canvas.vocabulary import OBJECTS, STYLES, caption
from ..sae_models.store import shards
from ..sae_models.training.session import first_rows
from ..trainer.collection import HELD, Collector, Pictures

WORK = Path(__file__).resolve().parent.parent / "canvas" / "work" / "trainers"
SITE, WIDTH = "output_blocks.1.1", 128
CONTESTANTS = Path(__file__).with_name("contestants.py")
HEADING = (
    "| trainer | embeddings / processor second (spread) | by the clock | explained variance | dead | learning rate |"
)
NAMES = (
    "ours",
    "ours, bfloat16",
    "ours, batchtopk",
    "eai-sparsify",
    "sae-lens",
    "dictionary-learning",
    "overcomplete",
    "dense autograd",
)


def collect(pictures: int) -> Path:
    """Sample the shipped model and return a file of embeddings at unit mean square, ``train`` and ``held``."""
    path = WORK / f"{pictures}.safetensors"
    if path.exists():
        return path
    model, clip, _ = checkpoint.load()
    prompts = [caption((name,), style) for style in STYLES for name in OBJECTS]
    prompts += [caption((name, OBJECTS[i - 7]), STYLES[i % len(STYLES)]) for i, name in enumerate(OBJECTS)]
    asked = Pictures(tuple(prompts), pictures, torch.zeros(20, 4, 16, 16), 1_000_000, 20, 4.5, "euler", "normal")
    collector = Collector(model, clip, asked, {SITE: WIDTH}, WORK / str(pictures), 10**10)
    while not collector.finished:
        collector.collect(lambda _: None)
        print(f"  {collector.done}/{pictures} pictures", flush=True)
    folders = collector.store(SITE), collector.store(SITE) / HELD
    train, held = (first_rows(shards(folder), 10**9).float() for folder in folders)
    center = train.mean(0)
    scale = (train - center).square().mean().sqrt()
    save_file({"train": (train - center) / scale, "held": (held - center) / scale}, str(path))
    return path


def run(name: str, file: Path, options: argparse.Namespace, rate: float) -> dict[str, float]:
    """Train once in a process of its own."""
    given = {"latents": options.latents, "k": options.k, "steps": options.steps, "batch": options.batch}
    given |= {"dead-after": options.dead_after, "rate": rate}
    command = [sys.executable, str(CONTESTANTS), name, str(file), *(f"--{key}={value}" for key, value in given.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "rate": rate}


def main() -> None:
    """Collect, let all train in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--latents", type=int, default=12 * WIDTH)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--dead-after", type=int, default=200_000)
    parser.add_argument("--rates", type=float, nargs="*", default=[3e-4, 1e-3])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    options = parser.parse_args()
    file = collect(options.pictures)
    rows = {key: len(value) for key, value in load_file(file).items()}
    print(f"{SITE}: {rows['train']} embeddings, {rows['held']} held out; {options.steps * options.batch} seen by each")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
    for _ in range(options.repeats):
        for rate in options.rates:
            for name in options.only:
                try:
                    results[name].append(run(name, file, options, rate))
                    print(f"  {name} {results[name][-1]}", flush=True)
                except RuntimeError as error:
                    print(f"  {error}", flush=True)
    print(HEADING)
    print("|---|---|---|---|---|---|")
    for name, found in results.items():
        if found:
            print(row(name, found, options.steps * options.batch))


def row(name: str, found: list[dict[str, float]], seen: int) -> str:
    """Return one line of the table: the speed of all runs, the quality of the better learning rate."""
    speeds = sorted(seen / run["processor_seconds"] for run in found)
    clock = statistics.median(seen / run["seconds"] for run in found)
    best = max(found, key=lambda run: run["explained_variance"])
    return (
        f"| {name} | {statistics.median(speeds):.0f} ({speeds[0]:.0f} to {speeds[-1]:.0f}) | {clock:.0f} "
        f"| {best['explained_variance']:.4f} | {best['dead_share']:.3f} | {best['rate']:g} |"
    )
