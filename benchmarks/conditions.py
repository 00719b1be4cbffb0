"""Erasing at other numbers of steps, with other samplers, and with a LoRA of the concept on the model.

``python dev/host benchmarks.conditions`` prints UA, IRA, CRA and pair (see erasure.py) for every condition, without an
edit, with replacement at the nodes' defaults, and with SAeUron's steering. The SAE, its thresholds and all settings
were made at euler, 20 steps, cfg 4.5, and stay as they are. ``--loras`` does the same for the LoRAs of lora.py, with
and without each, on the object that each was trained on. Results are kept as erasure.py keeps them.
"""

import argparse
from collections.abc import Sequence

from ..demo_model.vocabulary import OBJECTS
from . import lora
from .erasure import DEFAULTS, JUDGED, PLAIN, SPLITS, Condition, Plan, print_table, results_of, row_of

REPLACEMENT = f"output_blocks.1.1 {DEFAULTS}"
STEERING = "output_blocks.1.1 SAeUron both -15"
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
SETTINGS = {"no edit": PLAIN, "replaced": REPLACEMENT, "steered, -15": STEERING}


def rows_of(
    name: str, condition: Condition, targets: Sequence[str], plan: Plan, given: argparse.Namespace
) -> dict[str, dict[str, list[bool]]]:
    """Run settings under a condition; pairs count where the unedited picture of that condition showed both."""
    world, plain = results_of(None, PLAIN, given.split, plan, given.batch, condition, targets, damage=False)
    rows = {f"{name}: no edit": row_of(plain, plain)}
    for title in given.settings:
        world, outcomes = results_of(
            world, SETTINGS[title], given.split, plan, given.batch, condition, targets, damage=False
        )
        rows[f"{name}: {title}"] = row_of(outcomes, plain)
    return rows


def main() -> None:
    """Run conditions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conditions", nargs="*", choices=list(CONDITIONS), default=list(CONDITIONS))
    parser.add_argument("--loras", nargs="+", choices=list(lora.TAUGHT), help="these instead of conditions")
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS)[1:], default=list(SETTINGS)[1:])
    parser.add_argument("--split", choices=list(SPLITS), default="reporting")
    parser.add_argument("--plan", nargs=3, type=int, default=(6, 4, 4), help="pictures a target: alone, others, pairs")
    parser.add_argument("--batch", type=int, default=40)
    given = parser.parse_args()
    plan, jobs = Plan(*given.plan), {name: (CONDITIONS[name], list(OBJECTS)) for name in given.conditions}
    if given.loras:
        missing = [name for name in given.loras if not lora.file_of(name).is_file()]
        if missing:
            parser.error(f"no LoRA yet; train it with: python dev/host benchmarks.lora {' '.join(missing)}")
        jobs = {f"{name}, no LoRA": (Condition(), [name]) for name in given.loras}
        jobs |= {f"{name}, LoRA": (Condition(lora=str(lora.file_of(name))), [name]) for name in given.loras}
    rows: dict[str, dict[str, list[bool]]] = {}
    for name, (condition, targets) in jobs.items():
        rows |= rows_of(name, condition, targets, plan, given)
    print_table(rows, JUDGED)
