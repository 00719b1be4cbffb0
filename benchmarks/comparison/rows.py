"""Which methods the comparison has: steering over a grid, replacement, and what artists do instead."""

from collections.abc import Iterable, Sequence

import numpy as np

from ...demo_model.vocabulary import OBJECTS
from ..framework.outcomes import Row
from ..framework.prompts import Plan
from ..framework.settings import KEPT, LEFT_OUT, ONE_PASS, SWAP
from ..framework.ways import INPAINT, NEGATIVE, OMIT, PLAIN
from .jobs import Job, row_of
from .methods import PERPNEG, SEGMENTED

AVERAGED = ("UA", "IRA", "CRA")
TUNING_PLAN = Plan(singles=4, others=2, pairs=0)
ROUND = Plan(singles=4, others=3, pairs=2)

# Of each pipeline: what steers, over a grid, and what detects for replacement.
STEERING = {
    "outputs, several features": [
        f"outputs.ranked SAeUron both {strength} latents={latents}"
        for latents, strengths in ((8, (-5, -10, -20)), (32, (-2, -5, -10)))
        for strength in strengths
    ],
    "outputs, one feature": [f"outputs.ranked SAeUron both {strength} latents=1" for strength in (-20, -40, -80, -160)],
    "differences": [
        f"differences.ranked additive {apply_to} {strength} latents=1"
        for apply_to, strengths in (("both", (-10, -20)), ("positive", (-10, -20)))
        for strength in strengths
    ],
    "guided": [f"guided G-SAE positive {strength}" for strength in (-0.2, -0.4, -0.8, -1.6)],
}
REPLACEMENT = {
    "outputs, several features": f"outputs {ONE_PASS}",
    "outputs, one feature": f"outputs.one {ONE_PASS}",
    "differences": f"differences {ONE_PASS}",
    "guided": f"guided {ONE_PASS}",
}
OTHERS = {
    "unedited": PLAIN,
    "word left out": OMIT,
    "negative prompt": NEGATIVE,
    "PerpNeg": f"{PERPNEG} 1.0",
    "detected mask inpainted": f"{INPAINT} outputs none positive 1.0",
    "replacement by the judges' mask": SEGMENTED,
    "outputs, several features: replacement as published": "outputs random positive 1.0",
    "the rest kept (default)": f"outputs {KEPT}",
    "the rest kept, fill: prompt without the word": f"outputs {KEPT} fill={LEFT_OUT}",
    "the rest kept, fill: another object": f"outputs {KEPT} fill={SWAP}",
}


def tuning_jobs(methods: Iterable[str], targets: Sequence[str] = OBJECTS) -> list[Job]:
    """Return the jobs by which steering is chosen."""
    return [
        Job("tuning", method, target, 0, TUNING_PLAN, artifacts=False)
        for method in (PLAIN, *methods)
        for target in targets
    ]


def table_jobs(methods: Iterable[str], rounds: int, judge: str, targets: Sequence[str] = OBJECTS) -> list[Job]:
    """Return the jobs of the table, round by round."""
    return [
        Job("reporting", method, target, turn, ROUND, judge)
        for turn in range(rounds)
        for method in methods
        for target in targets
    ]


def every_steering() -> list[str]:
    """Return every setting of the grid."""
    return [method for grid in STEERING.values() for method in grid]


def average(row: Row) -> float:
    """Return the mean of UA, IRA and CRA, 0..1: what the paper chooses strengths by."""
    return float(np.mean([np.mean(row.values(name)) for name in AVERAGED]))


def chosen(grid: Sequence[str], targets: Sequence[str] = OBJECTS) -> str:
    """Return the steering with the best mean of UA, IRA and CRA on tuning seeds; of equals the first."""
    jobs = tuning_jobs(grid, targets)
    return max(grid, key=lambda method: average(row_of(jobs, method)))


def rows(targets: Sequence[str] = OBJECTS) -> dict[str, str]:
    """Return the rows of the table: name -> method."""
    named = {}
    for name, grid in STEERING.items():
        named[f"{name}: steering"] = chosen(grid, targets)
        named[f"{name}: replacement"] = REPLACEMENT[name]
    return OTHERS | named
