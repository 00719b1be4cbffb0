"""What all of the pack's files of tensors have in common: numbers only, and never half of a file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def is_finite(x: Tensor) -> bool:
    """Return whether a tensor holds no NaN and no infinity, without allocating another of its size."""
    if not x.is_floating_point() or not x.numel():
        return True
    low, high = x.aminmax()
    return bool(torch.isfinite(low) and torch.isfinite(high))


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; one that is there already is replaced only when the new one is complete.

    Args:
        path: of the file; its folder is made.
        tensors: contiguous, by name.
        metadata: texts by name.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(f"{path}.part")
    try:
        save_file(dict(tensors), str(unfinished), metadata=dict(metadata))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
