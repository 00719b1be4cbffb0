"""Training speed and quality beside the public SAE libraries, on the same stored activations of the shipped model.

``nox -s trainers`` collects activations once and trains with each library, taking turns, every run in a fresh process
with one thread. Each trains first at every learning rate, and the one that explains most of the tuning patches is then
trained with several seeds: those runs are reported, on patches and scenes that nothing was chosen on. Speed is counted
in embeddings per second of CPU time, which other work on the machine disturbs less than the clock. Activations
and finished runs are kept in ``dev/work/trainers``; the same command resumes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..demo_model import checkpoint
from ..dev.demo_model import scenes
from ..dev.demo_model.activations import from_generations, from_scenes
from ..dev.demo_model.sampling import REPORTING_SEEDS, SAE_SEEDS, TUNING_SEEDS
from ..sae_models.shipped import DEFAULT_WIDTH
from .framework import storage
from .framework.settings import SITE
from .framework.tables import heading, line

WORK = storage.WORK / "trainers"
WIDTH = DEFAULT_WIDTH
HELD = 40  # images of each part that is not trained on
BAND = 2  # of the noised scenes: timestep 500
CONTESTANTS = Path(__file__).with_name("contestants.py")
NAMES = (
    "ours",
    "ours, bfloat16",
    "ours, batchtopk",
    "eai-sparsify",
    "sae-lens",
    "dictionary-learning",
    "overcomplete",
    "sdxl-unbox (transcribed)",
)
COLUMNS = "learning rate", "embeddings / CPU second", "explained variance", "dead", "firing", "detection AUC"
Run = dict[str, Any]


def collect(images: int, scene_count: int) -> Path:
    """Sample the shipped model, noise scenes, and return a file of what the block put out, at unit mean square.

    ``train [N, D]`` and, of other seeds, ``tuning`` and ``reporting`` are patches of generations. ``scenes_*
    [S, P, D]`` and ``cover_* [objects, S, P]`` are patches of noised scenes, and what share each object covers.
    """
    path = WORK / f"{images}-{scene_count}.safetensors"
    if path.exists():
        return path
    model, clip, vae = checkpoint.load()
    found = {}
    splits = (("train", SAE_SEEDS, images), ("tuning", TUNING_SEEDS, HELD), ("reporting", REPORTING_SEEDS, HELD))
    for name, seeds, count in splits:
        bands = from_generations(model, clip, [SITE], count, seeds[:count])[SITE].embeddings
        found[name] = torch.cat([band.reshape(-1, WIDTH) for band in bands]).float()
    for name, seeds in (("tuning", scenes.VALIDATION), ("reporting", scenes.HELD_OUT)):
        noised = from_scenes(model, clip, vae, [SITE], seeds[:scene_count])[SITE]
        found[f"scenes_{name}"], found[f"cover_{name}"] = noised.embeddings[BAND].float(), noised.masks
    center = found["train"].mean(0)
    scale = (found["train"] - center).square().mean().sqrt()
    for name, value in found.items():
        found[name] = value if name.startswith("cover") else (value - center) / scale
    with storage.whole(path) as partial:
        save_file({name: value.contiguous() for name, value in found.items()}, str(partial))
    return path


def run(activations: Path, options: argparse.Namespace, name: str, rate: float, seed: int, detect: bool) -> Run | None:
    """Train once, in a process of its own, unless the result is on disk; None if the library is not there or failed.

    Args:
        activations: the file of ``collect``.
        options: of the command line.
        name: the library.
        rate: learning rate.
        seed: of all that is drawn.
        detect: whether detection is measured too.
    """
    o = options
    asked = {"features": o.features, "k": o.k, "steps": o.steps, "batch": o.batch, "dead-after": o.dead_after}
    asked |= {"rate": rate, "seed": seed}
    stamp = storage.stamp(activations.stem, asked, detect)
    path = activations.parent / "runs" / f"{storage.file_name(name)}.{stamp}.json"
    if not path.exists():
        command = [sys.executable, str(CONTESTANTS), name, str(activations)]
        command += [f"--{option}={value}" for option, value in asked.items()] + ["--detect"] * detect
        environment = {**os.environ, "OMP_NUM_THREADS": str(o.threads), "MKL_NUM_THREADS": str(o.threads)}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment)
        if ended.returncode:
            print(f"  {name}: {ended.stderr.strip().splitlines()[-1:]}", flush=True)
            return None
        storage.write_json(path, {"asked": asked, **json.loads(ended.stdout.splitlines()[-1])})
        print(f"  {name}: {storage.read_json(path)}", flush=True)
    return storage.read_json(path)


def best_rate(activations: Path, options: argparse.Namespace, name: str) -> float | None:
    """Return the learning rate that explains most of the tuning patches; None if nothing could be trained."""
    tried = [run(activations, options, name, rate, 0, False) for rate in options.rates]
    found = [each for each in tried if each is not None]
    best = max(found, key=lambda each: each["tuning"]["explained_variance"], default=None)
    return None if best is None else best["asked"]["rate"]


def main() -> None:
    """Collect, let all train in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--features", type=int, default=12 * WIDTH)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--dead-after", type=int, default=200_000)
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3, 3e-3])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    options = parser.parse_args()
    file = collect(options.images, options.scenes)
    rows = {key: len(value) for key, value in load_file(file).items()}
    print(f"{SITE}: {rows['train']} embeddings to train on, {rows['reporting']} of other images to report")
    rates = {name: best_rate(file, options, name) for name in options.only}
    results: dict[str, list[Run]] = {name: [] for name in options.only}
    for seed in range(1, options.repeats + 1):
        for name, rate in rates.items():
            found = None if rate is None else run(file, options, name, rate, seed, True)
            results[name] += [] if found is None else [found]
    print(heading("trainer", *COLUMNS))
    for name, found_runs in results.items():
        if found_runs:
            print(row(name, found_runs, options.steps * options.batch))


def row(name: str, found: list[Run], seen: int) -> str:
    """Return one line of the table: the median of the runs, and their range in brackets."""

    def cell(value: Callable[[Run], float], form: str) -> str:
        values = sorted(map(value, found))
        middle = format(statistics.median(values), form)
        return f"{middle} ({format(values[0], form)} to {format(values[-1], form)})"

    cells = (
        cell(lambda run: seen / run["cpu_seconds"], ",.0f"),
        cell(lambda run: run["reporting"]["explained_variance"], ".3f"),
        cell(lambda run: run["reporting"]["dead_share"], ".1%"),
        cell(lambda run: run["reporting"]["firing"], ".1f"),
        cell(lambda run: run["auc"], ".3f"),
    )
    return line(name, f"{found[0]['asked']['rate']:g}", *cells)


if __name__ == "__main__":
    main()
