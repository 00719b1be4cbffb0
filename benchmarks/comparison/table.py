"""The stages of the comparison, the processes that share them, and the table. See the package."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from ...demo_model.vocabulary import OBJECTS
from ..erasure import DEFAULTS, NEGATIVE, OMIT, PLAIN, Plan, half_width
from . import damage, saes, segmenter, unedited
from .jobs import Job, Outcome, Row, average, outcome_of
from .methods import INPAINT, PERPNEG, SEGMENTED, Bench

RANDOM = DEFAULTS.replace("alike", "random")
COLUMNS = ("UA", "nothing", "IRA", "CRA", "pair", *damage.MEASURES)
TUNING_PLAN = Plan(singles=4, others=2, pairs=0)
ROUND = Plan(singles=4, others=3, pairs=2)

# Of each pipeline: what steers, over a grid, and what detects for replacement.
STEERING = {
    "outputs, several latents": [
        f"outputs.ranked SAeUron both {strength} latents={latents}"
        for latents, strengths in (
            (2, (-10, -20, -40)),
            (8, (-5, -10, -20, -40)),
            (32, (-2, -5, -10, -20)),
            (64, (-5, -10)),
        )
        for strength in strengths
    ],
    "outputs, one latent": [
        f"outputs.ranked SAeUron both {strength} latents=1" for strength in (-10, -20, -40, -80, -160, -320)
    ],
    "differences": [
        f"differences.ranked additive {halves} {strength} latents=1"
        for halves, strengths in (("both", (-10, -20, -40)), ("conditional", (-10, -20)))
        for strength in strengths
    ],
    "guided": [f"guided G-SAE conditional {strength}" for strength in (-0.1, -0.2, -0.4, -0.8, -1.6, -3.2)],
}
REPLACEMENT = {
    "outputs, several latents": f"outputs {DEFAULTS}",
    "outputs, one latent": f"outputs.one {DEFAULTS}",
    "differences": f"differences {DEFAULTS}",
    "guided": f"guided {DEFAULTS}",
}
OTHERS = {
    "no edit": PLAIN,
    "word left out": OMIT,
    "negative prompt": NEGATIVE,
    "PerpNeg": f"{PERPNEG} 1.0",
    "detected mask drawn anew": f"{INPAINT} outputs none conditional 1.0",
    "replacement by a segmenter's mask": SEGMENTED,
    "outputs, several latents: replacement as published": "outputs random conditional 1.0",
    "outputs, several latents: replacement with random donors": f"outputs {RANDOM}",
    # 0.09 of 64 cells are 6: what nearly every picture of a target has in one of its first steps, on tuning seeds.
    "outputs, several latents: replacement with least share": f"outputs {DEFAULTS} least_share=0.09",
}


@cache
def bench() -> Bench:
    """Return the one bench of this process."""
    return Bench()


def prepare(share: int, of: int) -> None:
    """Do this process's share of the first stage."""
    todo = unedited.files()[share::of]
    if not all(path.exists() for path in todo):
        unedited.make(bench().model, bench().clip, bench().vae, todo)
    if share == 0:
        saes.make("output")
    if share == of - 1:
        saes.make("output_minus_input")
        segmenter.load(bench().judge, bench().vae)


def tuning_jobs(methods: Iterable[str]) -> list[Job]:
    """Return the jobs by which steering is chosen."""
    return [
        Job("tuning", method, target, 0, TUNING_PLAN, damage=False)
        for method in (PLAIN, *methods)
        for target in OBJECTS
    ]


def table_jobs(methods: Iterable[str], rounds: int, judge: str) -> list[Job]:
    """Return the jobs of the table, round by round."""
    return [
        Job("reporting", method, target, turn, ROUND, judge)
        for turn in range(rounds)
        for method in methods
        for target in OBJECTS
    ]


def row_of(jobs: Iterable[Job], method: str) -> Row:
    """Return what is on disk of a method's jobs."""
    found = {(job.target, job.turn): outcome_of(job) for job in jobs if job.method == method}
    return Row({key: outcome for key, outcome in found.items() if outcome is not None})


def every_steering() -> list[str]:
    """Return every setting of the grid."""
    return [method for grid in STEERING.values() for method in grid]


def chosen(grid: Sequence[str]) -> str:
    """Return the steering with the best mean of UA, IRA and CRA on tuning seeds; of equals the first."""
    jobs = tuning_jobs(grid)
    plain = row_of(jobs, PLAIN)
    return max(grid, key=lambda method: average(row_of(jobs, method), plain))


def rows() -> dict[str, str]:
    """Return the rows of the table: name -> method."""
    named = {}
    for name, grid in STEERING.items():
        named[f"{name}: steering"] = chosen(grid)
        named[f"{name}: replacement"] = REPLACEMENT[name]
    return OTHERS | named


def percent(values: Sequence[bool]) -> str:
    """Return a share with half the width of its 95 % interval, and the number of pictures."""
    return f"{100 * np.mean(values):.1f} ± {100 * half_width(values):.1f} ({len(values)})" if values else "-"


def over_targets(row: Row, plain: Row, columns: Sequence[str]) -> str:
    """Return the mean of columns and its spread over targets.

    The spread is half the width of the 95 % interval of a bootstrap that draws targets.
    """
    rng = np.random.default_rng(0)

    def figure(targets: Sequence[str]) -> float:
        return 100 * float(np.mean([np.mean(row.values(name, plain, targets)) for name in columns]))

    drawn = [figure([str(name) for name in rng.choice(OBJECTS, len(OBJECTS))]) for _ in range(400)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{figure(OBJECTS):.1f} ± {(high - low) / 2:.1f}"


def print_tuning() -> None:
    """Print every steering of the grid on tuning seeds."""
    print("| steering, tuning seeds | UA | IRA | CRA | Avg | |\n|---|---|---|---|---|---|")
    for grid in STEERING.values():
        jobs, best = tuning_jobs(grid), chosen(grid)
        plain = row_of(jobs, PLAIN)
        for method in grid:
            row = row_of(jobs, method)
            cells = [percent(row.values(name, plain)) for name in ("UA", "IRA", "CRA")]
            mark = "chosen" if method == best else ""
            print(f"| {method} | " + " | ".join(cells) + f" | {100 * average(row, plain):.1f} | {mark} |", flush=True)


def print_table(named: dict[str, str], jobs: Sequence[Job], judge: str) -> None:
    """Print the table of rows whose jobs are all on disk."""
    columns = [*COLUMNS, *(["own judge"] if judge else [])]
    found = {name: row_of(jobs, method) for name, method in named.items()}
    wanted = len(jobs) // len(set(named.values()))
    plain = found["no edit"]
    print("| | " + " | ".join(columns) + " | Avg | AR | GA | time |\n|---" + "|---" * (len(columns) + 5) + "|")
    for name, row in found.items():
        if len(row.outcomes) < wanted or len(plain.outcomes) < wanted:
            continue
        cells = [percent(row.values(column, plain)) for column in columns]
        cells.append(over_targets(row, plain, ("UA", "IRA", "CRA")))
        cells.append(over_targets(row, plain, damage.MEASURES))
        cells.append(good_average(row, plain))
        print(f"| {name} | " + " | ".join(cells) + f" | {times(row, plain)} |", flush=True)
    print("\n" + "\n".join(f"* {name}: `{method}`" for name, method in named.items()))


def good_average(row: Row, plain: Row) -> str:
    """Return GA: the mean of UA, IRA, CRA and 100 - AR."""
    shares = [float(np.mean(row.values(name, plain))) for name in ("UA", "IRA", "CRA", *damage.MEASURES)]
    return f"{100 * np.mean([*shares[:3], 1 - np.mean(shares[3:])]):.1f}"


def times(row: Row, plain: Row) -> str:
    """Return the processor time against that of no edit: median and quartiles of the ratios of jobs alike."""
    ratios = [spent(outcome) / spent(plain.outcomes[key]) for key, outcome in row.outcomes.items()]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def spent(outcome: Outcome) -> float:
    """Return processor seconds a picture."""
    return outcome.seconds / outcome.pictures


def work(stage: str, arguments: argparse.Namespace, share: int, of: int) -> None:
    """Do a share of a stage in this process."""
    if stage == "prepare":
        prepare(share, of)
        return
    named = rows() if stage == "table" else {}
    jobs = table_jobs(dict.fromkeys(named.values()), arguments.rounds, arguments.judge)
    for job in (jobs if stage == "table" else tuning_jobs(every_steering()))[share::of]:
        outcome_of(job, bench)


def shared_out(stage: str, workers: int) -> None:
    """Let processes do a stage together; wait for them all.

    Raises:
        SystemExit: one of them failed; its reason is on the screen.
    """
    host = Path(__file__).resolve().parents[2] / "dev" / "host"
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    command = [sys.executable, str(host), "benchmarks.comparison", *sys.argv[1:], "--stage", stage, "--share"]
    started = [
        subprocess.Popen([*command, f"{i}/{workers}"], env={**os.environ, "OMP_NUM_THREADS": threads})
        for i in range(workers)
    ]
    failed = [process.wait() for process in started]  # all of them, so that none is left behind
    if any(failed):
        raise SystemExit(f"the stage '{stage}' did not finish; the same command goes on")


def main() -> None:
    """Run the stages and print the tables."""
    parser = argparse.ArgumentParser(
        prog="host benchmarks.comparison", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="of the table; each adds 180 pictures a row")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--judge", default="", help="your own judge of artefacts, see damage.py")
    parser.add_argument("--stage", choices=["prepare", "tune", "table"], help="do a share of one stage only")
    parser.add_argument("--share", default="0/1", help="which: I/N")
    arguments = parser.parse_args()
    if arguments.stage:
        share, of = (int(part) for part in arguments.share.split("/"))
        work(arguments.stage, arguments, share, of)
        return
    for stage in ("prepare", "tune", "table"):
        print(f"-- {stage}", flush=True)
        if arguments.workers > 1:
            shared_out(stage, arguments.workers)
        else:
            work(stage, arguments, 0, 1)
    print_tuning()
    named = rows()
    print()
    print_table(named, table_jobs(dict.fromkeys(named.values()), arguments.rounds, arguments.judge), arguments.judge)
