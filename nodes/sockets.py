"""The socket types of this pack, the groups of its nodes in the menu, and inputs that most people leave alone."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import comfy.samplers
from comfy_api.latest import io

MENU = "SAE concept erasure"
LOAD, FIND, EDIT, INSPECT, TRAIN = GROUPS = tuple(
    f"{MENU}/{name}" for name in ("load", "find a concept", "detect and edit", "inspect", "train")
)

# For inputs that most people leave as they are. ComfyUI folds them away from 0.10 on; older ones know no such thing.
ADVANCED: dict[str, Any] = {"advanced": True} if "advanced" in inspect.signature(io.Input.__init__).parameters else {}

SAE = io.Custom("SAE")
CONCEPT = io.Custom("CONCEPT")
DETECTION = io.Custom("DETECTION")
ERASURE_RECORD = io.Custom("ERASURE_RECORD")


def sampler_inputs(tooltips: Mapping[str, str] = MappingProxyType({}), **options: Any) -> list[io.Input]:
    """Return the settings of the graph's KSampler: steps, cfg, sampler_name and scheduler.

    Args:
        tooltips: by input, where more is to be said.
        options: of every input, such as `ADVANCED`.
    """

    def tip(name: str) -> str:
        return tooltips.get(name, "As in your KSampler.")

    return [
        io.Int.Input("steps", default=20, min=1, max=1000, tooltip=tip("steps"), **options),
        io.Float.Input("cfg", default=4.5, min=0.0, max=100.0, step=0.1, tooltip=tip("cfg"), **options),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.KSampler.SAMPLERS,
            default="euler",
            tooltip=tip("sampler_name"),
            **options,
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="normal",
            tooltip=tip("scheduler"),
            **options,
        ),
    ]


def part_inputs(start: str, end: str) -> list[io.Input]:
    """Return which part of sampling a node acts in, with a tooltip each."""
    return [
        io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, **ADVANCED)
        for name, default, tooltip in (("start_percent", 0.0, start), ("end_percent", 1.0, end))
    ]
