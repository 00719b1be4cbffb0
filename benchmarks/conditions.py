"""Erasing at other numbers of steps, with other samplers, and with a LoRA of the concept on the model.

``python dev/host benchmarks.conditions`` prints UA, IRA, CRA and pair for every condition, without an edit, with
the nodes' defaults, with one pass, and with SAeUron's steering. The SAE, its thresholds and all settings were made at
euler, 20 steps, cfg 4.5, and stay as they are. ``--loras`` does the same for the LoRAs of lora.py, with and without
each, on the object that each was trained on. Results are kept as erasure.py keeps them.
"""

import argparse
from collections.abc import Sequence

from ..demo_model.vocabulary import OBJECTS
from . import lora
from .framework.outcomes import COLUMNS, Row
from .framework.prompts import SPLITS, Plan
from .framework.runs import Scope, results_of
from .framework.settings import KEPT, ONE_PASS, SITE
from .framework.tables import Table, add_json
from .framework.ways import PLAIN
from .framework.world import Condition, World

CONDITIONS = {
    f"{condition.sampler}, {condition.steps} steps": condition
    for condition in (
        Condition(),
        Condition(steps=4),
        Condition(steps=50),
        Condition(sampler="euler_ancestral"),
        Condition(sampler="dpmpp_2m", scheduler="karras"),
        Condition(sampler="dpmpp_sde", scheduler="karras"),
        Condition(sampler="heun"),
        # With the same schedule ComfyUI's ddim is euler.
        Condition(sampler="ddim", scheduler="ddim_uniform"),
        Condition(sampler="uni_pc"),
        Condition(sampler="lcm"),
    )
}
SETTINGS = {
    "keep exactly (default)": f"{SITE} {KEPT}",
    "may change": f"{SITE} {ONE_PASS}",
    "steering": f"{SITE} SAeUron both -15",
}


def rows_of(name: str, condition: Condition, scope: Scope, settings: Sequence[str]) -> dict[str, Row]:
    """Run settings under a condition; pairs count where the unedited image of that condition showed both."""
    world = World(condition)
    unedited = results_of(world, PLAIN, scope)
    rows = {title: results_of(world, SETTINGS[title], scope, unedited) for title in settings}
    return {f"{name}: {title}": row for title, row in {"unedited": unedited, **rows}.items()}


def main() -> None:
    """Run conditions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conditions", nargs="*", choices=list(CONDITIONS), default=list(CONDITIONS))
    parser.add_argument("--loras", nargs="+", choices=list(lora.TAUGHT), help="these instead of conditions")
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--split", choices=list(SPLITS), default="reporting")
    parser.add_argument(
        "--targets", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT", help="all if left out"
    )
    parser.add_argument("--plan", nargs=3, type=int, default=(6, 4, 4), help="images a target: alone, others, pairs")
    parser.add_argument("--batch", type=int, default=40)
    add_json(parser)
    given = parser.parse_args()
    jobs: dict[str, tuple[Condition, Sequence[str]]]
    jobs = {name: (CONDITIONS[name], given.targets) for name in given.conditions}
    if given.loras:
        missing = [name for name in given.loras if not lora.file_of(name).is_file()]
        if missing:
            parser.error(f"no LoRA yet; train it with: python dev/host benchmarks.lora {' '.join(missing)}")
        jobs = {f"{name}, no LoRA": (Condition(), (name,)) for name in given.loras}
        jobs |= {f"{name}, LoRA": (Condition(lora=str(lora.file_of(name))), (name,)) for name in given.loras}
    table = Table("sampling: setting", COLUMNS)
    for name, (condition, targets) in jobs.items():
        scope = Scope(given.split, Plan(*given.plan), given.batch, targets)
        for label, row in rows_of(name, condition, scope, given.settings).items():
            table.add_outcomes(label, row)
    erased = [] if given.loras else [f"Erased: {', '.join(given.targets)}."]
    table.write(given.json, "In percent.", *erased, split=given.split)
