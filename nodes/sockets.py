"""The socket types of this pack, and the menu category of its nodes."""

from comfy_api.latest import io

CATEGORY = "SAE concept erasure"

SAE = io.Custom("SAE")
CONCEPT = io.Custom("CONCEPT")
DETECTION = io.Custom("DETECTION")
ERASURE_RECORD = io.Custom("ERASURE_RECORD")


def part_inputs(start: str, end: str) -> list[io.Input]:
    """Return which part of sampling a node acts in, with a tooltip each."""
    return [
        io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)
        for name, default, tooltip in (("start_percent", 0.0, start), ("end_percent", 1.0, end))
    ]
