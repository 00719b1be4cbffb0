"""Where benchmarks keep what they made."""

from pathlib import Path

import torch

from ..demo_model import checkpoint

WORK = Path(__file__).resolve().parent.parent / "dev" / "work"


def folder(name: str) -> Path:
    """Return a folder of ``dev/work``; what the model makes in half precision is kept apart from the rest."""
    precision = checkpoint.precision()
    return WORK / (name if precision == torch.float32 else f"{name}.{str(precision).removeprefix('torch.')}")
