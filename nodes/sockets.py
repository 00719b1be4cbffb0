"""The socket types of this pack, the groups of its nodes in the menu, and inputs that most people leave alone."""

import inspect
from typing import Any

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


def part_inputs(start: str, end: str) -> list[io.Input]:
    """Return which part of sampling a node acts in, with a tooltip each."""
    return [
        io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, **ADVANCED)
        for name, default, tooltip in (("start_percent", 0.0, start), ("end_percent", 1.0, end))
    ]
