"""The images of one target and round by one method, judged; kept on disk, so that an interrupted run resumes."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..artifacts import own
from ..framework import storage
from ..framework.outcomes import Outcome, Row
from ..framework.prompts import Plan, Prompt
from ..framework.runs import Scope, judged_run, prompts_in
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
        artifacts: whether artifacts, and what else changed, are looked for.
    """

    split: str
    method: str
    target: str
    turn: int
    plan: Plan
    judge: str = ""
    artifacts: bool = True

    @property
    def scope(self) -> Scope:
        """What is generated."""
        return Scope(self.split, self.plan, targets=(self.target,), turn=self.turn)

    @property
    def prompts(self) -> list[Prompt]:
        """What is asked for."""
        return prompts_in(self.target, self.scope)

    @property
    def path(self) -> Path:
        """Where the outcome is kept; it depends on the weights in use."""
        weights = [storage.digest(saes.path_of(name)) for name in saes_of(self.method)]
        stamp = storage.stamp(asdict(self.plan), weights, self.judge, self.artifacts)
        folder = f"{storage.file_name(self.method)}.{stamp}"
        return WORK / "results" / self.split / folder / f"{self.target}.{self.turn}.json"


def run(bench: Bench, job: Job) -> Outcome:
    """Make and judge the images of a job."""
    artifacts = own.also(bench.artifacts, job.judge, job.path.with_suffix("")) if job.artifacts else None
    areas = bench.judge if job.artifacts else None
    return judged_run(bench, bench.way(job.method, job.target), job.target, job.scope, artifacts, areas)


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
