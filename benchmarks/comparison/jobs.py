"""The pictures of one target and round by one method, judged; kept on disk, so that an interrupted run goes on."""

import json
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS, STYLES
from ...reports.images import to_pil
from ..erasure import SPLITS, Plan, Prompt
from . import methods, saes
from .damage import MEASURES, own_judge
from .unedited import WORK

FORMS = (*STYLES, None)  # None: the plain prompt, which names no style
FIRST_SEED = 500_000  # of a split; what lies before belongs to benchmarks/erasure.py


@dataclass(frozen=True)
class Job:
    """What is made at a time.

    Attributes:
        split: ``tuning`` or ``reporting``.
        method: see methods.py.
        target: the object to erase.
        turn: which round; each has seeds of its own.
        plan: how many pictures.
        judge: a judge of the user's own, see damage.py; empty for none.
        damage: whether damage is measured too.
    """

    split: str
    method: str
    target: str
    turn: int
    plan: Plan
    judge: str = ""
    damage: bool = True

    @property
    def path(self) -> Path:
        """Where the outcome is kept; it depends on the weights in use."""
        files = map(saes.path_of, methods.saes_of(self.method))
        digests = [digest(path) for path in (checkpoint.DEFAULT_PATH, *files)]
        stamp = zlib.crc32(json.dumps([asdict(self.plan), digests, self.judge, self.damage]).encode())
        folder = f"{self.method.replace(' ', '_').replace('/', '-')}.{stamp:08x}"
        return WORK / "results" / self.split / folder / f"{self.target}.{self.turn}.json"


@cache
def digest(path: Path) -> int:
    """Return a checksum of what a safetensors file holds; its metadata are in another order each time it is written."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    return zlib.crc32(json.dumps(json.loads(raw[8:start]), sort_keys=True).encode() + raw[start:])


@dataclass
class Outcome:
    """What the judges say of a job's pictures; a list entry a picture.

    Attributes:
        gone: target prompts: target not found.
        nothing: target prompts: no object found at all.
        others: other objects' prompts: that object found.
        style: single-object prompts that name a style: style right.
        both: pair prompts: both objects found.
        pair: pair prompts: target gone, other found.
        damage: single-object prompts: damaged by each measure of damage.py, if asked for.
        own: single-object prompts: the own judge's scores.
        seconds: processor time of making the pictures.
        pictures: how many were made.
    """

    gone: list[bool] = field(default_factory=list)
    nothing: list[bool] = field(default_factory=list)
    others: list[bool] = field(default_factory=list)
    style: list[bool] = field(default_factory=list)
    both: list[bool] = field(default_factory=list)
    pair: list[bool] = field(default_factory=list)
    damage: list[list[bool]] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    seconds: float = 0.0
    pictures: int = 0


def prompts_of(job: Job) -> list[Prompt]:
    """Return the target's own prompts, then other objects', then pairs with the target.

    Styles and the plain prompt take turns; every picture has a seed of its own, the same for every method.
    """
    place, plan = OBJECTS.index(job.target), job.plan
    start = SPLITS[job.split].start + FIRST_SEED + place * 10_000 + job.turn * 1_000
    rest = [name for name in OBJECTS if name != job.target]
    prompts = []
    for i in range(plan.singles):
        prompts.append(Prompt((job.target,), FORMS[(job.turn * plan.singles + i) % len(FORMS)], start + i))
    for i in range(plan.others):
        number = job.turn * plan.others + i
        form = FORMS[(number + place) % len(FORMS)]
        prompts.append(Prompt((rest[(number + 5 * place) % len(rest)],), form, start + 300 + i))
    for i in range(plan.pairs):
        number = job.turn * plan.pairs + i
        pair = (job.target, rest[(7 * number + place) % len(rest)])
        prompts.append(Prompt(pair[:: 1 if number % 2 else -1], FORMS[(number + place) % len(FORMS)], start + 600 + i))
    return prompts


def run(bench: methods.Bench, job: Job) -> Outcome:
    """Make and judge the pictures of a job."""
    prompts = prompts_of(job)
    started = time.process_time()
    pictures = bench.make(job.method, job.target, prompts)
    outcome = Outcome(seconds=time.process_time() - started, pictures=len(prompts))
    objects, seen = bench.judge.classify(pictures)
    found, styles = (objects > bench.judge.threshold).tolist(), seen.argmax(1).tolist()
    for i, prompt in enumerate(prompts):
        note(outcome, job.target, prompt, found[i], styles[i])
    if job.damage:
        alone = pictures[: job.plan.singles + job.plan.others]
        asked = [None if prompt.style is None else STYLES.index(prompt.style) for prompt in prompts[: len(alone)]]
        outcome.damage = bench.damage.damaged(alone, asked).tolist()
        if job.judge:
            outcome.own = own_judge(job.judge)(saved(alone, job.path.with_suffix("")))
    return outcome


def note(outcome: Outcome, target: str, prompt: Prompt, found: list[bool], style: int) -> None:
    """Add one picture to an outcome.

    Args:
        found: whether each of OBJECTS is in the picture.
        style: that the picture has, an index in STYLES.
    """
    has = dict(zip(OBJECTS, found, strict=True))
    if len(prompt.objects) == 2:
        other = next(name for name in prompt.objects if name != target)
        outcome.both.append(has[target] and has[other])
        outcome.pair.append(has[other] and not has[target])
        return
    if prompt.objects == (target,):
        outcome.gone.append(not has[target])
        outcome.nothing.append(not any(found))
    else:
        outcome.others.append(has[prompt.objects[0]])
    if prompt.style is not None:
        outcome.style.append(STYLES[style] == prompt.style)


def saved(pictures: Tensor, folder: Path) -> list[Path]:
    """Write pictures as PNG files and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}.png" for i in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        to_pil(picture).save(path)
    return paths


def outcome_of(job: Job, bench: Callable[[], methods.Bench] | None = None) -> Outcome | None:
    """Return what is on disk of a job; where nothing is, run it, or return None if there is no bench to run it on."""
    path = job.path
    if not path.exists():
        if bench is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(asdict(run(bench(), job))))
        partial.rename(path)
    return Outcome(**json.loads(path.read_text()))


@dataclass(frozen=True, eq=False)
class Row:
    """All outcomes of one method: by target and turn."""

    outcomes: dict[tuple[str, int], Outcome]

    def values(self, column: str, unedited: "Row", targets: Sequence[str] = OBJECTS) -> list[bool]:
        """Return one column's entries of some targets, pooled; a target may be named more than once.

        Args:
            column: UA, nothing, IRA, CRA, pair, or a measure of damage.
            unedited: the row without edits, which says what a pair showed before.
        """
        chosen: dict[str, list[Outcome]] = defaultdict(list)
        base: dict[str, list[Outcome]] = defaultdict(list)
        for (target, turn), outcome in self.outcomes.items():
            chosen[target].append(outcome)
            base[target].append(unedited.outcomes[target, turn])
        pooled: list[bool] = []
        for target in targets:
            for outcome, before in zip(chosen[target], base[target], strict=True):
                pooled += entries(column, outcome, before)
        return pooled


def entries(column: str, outcome: Outcome, before: Outcome) -> list[bool]:
    """Return one column's entries of one outcome."""
    if column == "pair":
        return [ok for ok, both in zip(outcome.pair, before.both, strict=True) if both]
    if column in MEASURES:
        return [found[MEASURES.index(column)] for found in outcome.damage]
    if column == "own judge":
        return [score > 0.5 for score in outcome.own]
    return {"UA": outcome.gone, "nothing": outcome.nothing, "IRA": outcome.others, "CRA": outcome.style}[column]


def average(row: Row, unedited: Row, targets: Sequence[str] = OBJECTS) -> float:
    """Return the mean of UA, IRA and CRA, 0..1: what the paper chooses strengths by."""
    return float(np.mean([np.mean(row.values(name, unedited, targets)) for name in ("UA", "IRA", "CRA")]))
