"""Training speed and quality beside the public SAE libraries, on the same stored activations of the shipped model.

``nox -s trainers`` collects activations once and trains with each library, taking turns, every run in a fresh process
with one thread. Each trains first at every learning rate, and the one that explains most of the tuning patches is then
trained with several seeds: those runs are reported, on patches and scenes that nothing was chosen on. Speed is counted
in embeddings per second of processor time, which other work on the machine disturbs less than the clock. Activations
and finished runs are kept in ``dev/work/trainers``; the same command goes on from there.
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

WORK = Path(__file__).resolve().parent.parent / "dev" / "work" / "trainers"
SITE, WIDTH = "output_blocks.1.1", 128
HELD = 40  # pictures of each part that is not trained on
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
HEADING = (
    "| trainer | learning rate | embeddings / processor second | explained variance | dead | firing | detection AUC |\n"
    "|---|---|---|---|---|---|---|"
)
Run = dict[str, Any]


def collect(pictures: int, scene_count: int) -> Path:
    """Sample the shipped model, noise scenes, and return a file of what the block put out, at unit mean square.

    ``train [N, D]`` and, of other seeds, ``tuning`` and ``reporting`` are patches of generations. ``scenes_*
    [S, P, D]`` and ``cover_* [objects, S, P]`` are patches of noised scenes, and what share each object covers.
    """
    path = WORK / f"{pictures}-{scene_count}.safetensors"
    if path.exists():
        return path
    model, clip, vae = checkpoint.load()
    found = {}
    splits = (("train", SAE_SEEDS, pictures), ("tuning", TUNING_SEEDS, HELD), ("reporting", REPORTING_SEEDS, HELD))
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
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in found.items()}, str(path))
    return path


class Runs:
    """Training runs, each done once: what is in the file is not done again.

    Args:
        activations: the file of ``collect``.
        options: of the command line.
    """

    def __init__(self, activations: Path, options: argparse.Namespace) -> None:
        self.activations, self.options = activations, options
        self.path = activations.with_suffix(".jsonl")
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self._done: list[Run] = [json.loads(line) for line in lines]

    def run(self, name: str, rate: float, seed: int, detect: bool) -> Run | None:
        """Train once, in a process of its own; None if the library is not there or failed."""
        o = self.options
        asked = {"latents": o.latents, "k": o.k, "steps": o.steps, "batch": o.batch, "dead-after": o.dead_after}
        asked |= {"rate": rate, "seed": seed}
        key = {"name": name, **asked, "detect": detect}
        for done in self._done:
            if done["asked"] == key:
                return done
        command = [sys.executable, str(CONTESTANTS), name, str(self.activations)]
        command += [f"--{option}={value}" for option, value in asked.items()] + ["--detect"] * detect
        environment = {**os.environ, "OMP_NUM_THREADS": str(o.threads), "MKL_NUM_THREADS": str(o.threads)}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment)
        if ended.returncode:
            print(f"  {name}: {ended.stderr.strip().splitlines()[-1:]}", flush=True)
            return None
        found = {"asked": key, **json.loads(ended.stdout.splitlines()[-1])}
        self._done.append(found)
        with self.path.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"  {found}", flush=True)
        return found


def best_rate(runs: Runs, name: str, rates: list[float]) -> float | None:
    """Return the learning rate that explains most of the tuning patches; None if nothing could be trained."""
    found = [run for rate in rates if (run := runs.run(name, rate, 0, False)) is not None]
    best = max(found, key=lambda run: run["tuning"]["explained_variance"], default=None)
    return None if best is None else best["asked"]["rate"]


def main() -> None:
    """Collect, let all train in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--latents", type=int, default=12 * WIDTH)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--dead-after", type=int, default=200_000)
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3, 3e-3])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    options = parser.parse_args()
    file = collect(options.pictures, options.scenes)
    rows = {key: len(value) for key, value in load_file(file).items()}
    print(f"{SITE}: {rows['train']} embeddings to train on, {rows['reporting']} of other pictures to report")
    runs = Runs(file, options)
    rates = {name: best_rate(runs, name, options.rates) for name in options.only}
    results: dict[str, list[Run]] = {name: [] for name in options.only}
    for seed in range(1, options.repeats + 1):
        for name, rate in rates.items():
            found = None if rate is None else runs.run(name, rate, seed, True)
            results[name] += [] if found is None else [found]
    print(HEADING)
    for name, found_runs in results.items():
        if found_runs:
            print(line(name, found_runs, options.steps * options.batch))


def line(name: str, found: list[Run], seen: int) -> str:
    """Return one line of the table: the median of the runs, and their range in brackets."""

    def cell(value: Callable[[Run], float], form: str) -> str:
        values = sorted(map(value, found))
        middle = format(statistics.median(values), form)
        return f"{middle} ({format(values[0], form)} to {format(values[-1], form)})"

    cells = (
        cell(lambda run: seen / run["processor_seconds"], ",.0f"),
        cell(lambda run: run["reporting"]["explained_variance"], ".3f"),
        cell(lambda run: run["reporting"]["dead_share"], ".1%"),
        cell(lambda run: run["reporting"]["firing"], ".1f"),
        cell(lambda run: run["auc"], ".3f"),
    )
    return f"| {name} | {found[0]['asked']['rate']:g} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
