"""The stages of the comparison and the processes that share them. See the package."""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ...demo_model.vocabulary import OBJECTS
from ..artifacts.both import USUAL
from ..framework.tables import add_json
from . import saes
from .jobs import Job, done
from .methods import Bench
from .rows import every_steering, rows, table_jobs, tuning_jobs
from .table import NOTE, print_tuning, table_of

STAGES = ("prepare", "tune", "table")


def prepare(bench: Bench, share: int, of: int) -> None:
    """Do this process's share of the first stage."""
    todo = [path for path in USUAL.files()[share::of] if not path.exists()]
    if todo:
        USUAL.make(*bench.unedited, todo)
    if share == 0:
        saes.make("output")
    if share == of - 1:
        saes.make("output_minus_input")


def wanted(named: Mapping[str, str], arguments: argparse.Namespace) -> list[Job]:
    """Return the jobs of the table."""
    return table_jobs(dict.fromkeys(named.values()), arguments.rounds, arguments.judge, arguments.targets)


def work(stage: str, arguments: argparse.Namespace, share: int, of: int) -> None:
    """Do a share of a stage in this process."""
    bench = Bench()
    if stage == "prepare":
        prepare(bench, share, of)
        return
    if stage == "tune":
        jobs = tuning_jobs(every_steering(), arguments.targets)
    else:
        jobs = wanted(rows(arguments.targets), arguments)
    for job in jobs[share::of]:
        done(job, bench)


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
        raise SystemExit(f"the stage '{stage}' did not finish; the same command resumes it")


def main() -> None:
    """Run the stages and print the tables."""
    parser = argparse.ArgumentParser(
        prog="host benchmarks.comparison", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="of the table; each adds 9 images a target and row")
    parser.add_argument(
        "--targets", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT", help="all if left out"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--judge", default="", help="your own judge of artifacts, see artifacts/own.py")
    parser.add_argument("--stage", choices=STAGES, help="do a share of one stage only")
    parser.add_argument("--share", default="0/1", help="which: I/N")
    add_json(parser)
    arguments = parser.parse_args()
    if arguments.stage:
        share, of = (int(part) for part in arguments.share.split("/"))
        work(arguments.stage, arguments, share, of)
        return
    for stage in STAGES:
        print(f"-- {stage}", flush=True)
        if arguments.workers > 1:
            shared_out(stage, arguments.workers)
        else:
            work(stage, arguments, 0, 1)
    print_tuning(arguments.targets)
    named = rows(arguments.targets)
    print()
    table = table_of(named, wanted(named, arguments), arguments.judge)
    table.write(arguments.json, NOTE, unit="percent", rounds=arguments.rounds, targets=list(arguments.targets))
