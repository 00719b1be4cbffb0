"""The images of one target and round by one method, judged; kept on disk, so that an interrupted run resumes."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..artifacts import own
from ..framework import storage
from ..framework.facts import commit
from ..framework.outcomes import Outcome, Row, outcome_of
from ..framework.prompts import SPLITS, Plan, Prompt, round_of
from ..framework.ways import PLAIN
from . import saes
from .folder import WORK
from .methods import Bench, saes_of


@dataclass(frozen=True)
class Job:
    """What is made at a time.

    Attributes:
        split: ``tuning`` or ``reporting``.
        method: see methods.py.
        target: the object to erase.
        turn: which round; each has seeds of its own.
        plan: how many images.
        judge: a judge of artifacts of the user's own, see artifacts/own.py; empty for none.
        artifacts: whether artifacts are looked for.
    """

    split: str
    method: str
    target: str
    turn: int
    plan: Plan
    judge: str = ""
    artifacts: bool = True

    @property
    def prompts(self) -> list[Prompt]:
        """What is asked for."""
        return round_of(self.target, self.plan, SPLITS[self.split], self.turn)

    @property
    def path(self) -> Path:
        """Where the outcome is kept; it depends on the weights in use."""
        weights = [storage.digest(saes.path_of(name)) for name in saes_of(self.method)]
        stamp = storage.stamp(asdict(self.plan), weights, self.judge, self.artifacts)
        folder = f"{storage.file_name(self.method)}.{stamp}"
        return WORK / "results" / self.split / folder / f"{self.target}.{self.turn}.json"


def run(bench: Bench, job: Job) -> Outcome:
    """Make and judge the images of a job."""
    prompts = job.prompts
    started = time.process_time()
    images = bench.make(job.method, job.target, prompts)
    seconds = time.process_time() - started
    objects, styles = bench.judge.classify(images)
    outcome = outcome_of(job.target, prompts, objects > bench.judge.threshold, styles.argmax(1))
    outcome.seconds, outcome.commit = seconds, commit()
    if job.artifacts:
        alone = images[: job.plan.singles + job.plan.others]
        outcome.artifacts = bench.artifacts.found(alone, [prompt.style for prompt in prompts[: len(alone)]])
        if job.judge:
            outcome.artifacts[own.NAME] = own.found(job.judge, alone, job.path.with_suffix(""))
    return outcome


def done(job: Job, bench: Bench) -> Outcome:
    """Return a job's outcome; where it is not on disk, run it."""
    return storage.kept(job.path, Outcome, lambda: run(bench, job))


def row_of(jobs: Iterable[Job], method: str) -> Row:
    """Return what is on disk of a method's jobs, and of the same jobs without an edit."""
    found = [
        {(job.target, job.turn): Outcome(**storage.read_json(job.path)) for job in jobs if job.path.exists()}
        for jobs in ([job for job in jobs if job.method == name] for name in (method, PLAIN))
    ]
    return Row(*found)
