"""What all of the pack's files of tensors have in common: numbers only, and never half of a file."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

SAFETENSORS = ".safetensors"
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def is_safetensors(path: Path) -> bool:
    """Return whether a file is called as a safetensors file is, in capitals or not."""
    return path.suffix.lower() == SAFETENSORS


def require_plain(path: Path) -> None:
    """Check that a path leads to a plain file: opening a pipe would wait for ever.

    Raises:
        OSError: there is none, or it is something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a plain file")


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
        OSError: it cannot be written.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(f"{path}.part")
    try:
        save_file(dict(tensors), str(unfinished), metadata=dict(metadata))
        unfinished.replace(path)
    except SafetensorError as error:
        raise _system_error(error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _system_error(error: SafetensorError) -> OSError:
    """Return the system's error inside one of safetensors, which tells it in words only."""
    found = SYSTEM_ERROR.search(str(error))
    if found is None:
        return OSError(str(error))
    number = int(found[1])
    # On Windows the number is Windows' own, from which Python works out the common one.
    return OSError(0, str(error), None, number) if os.name == "nt" else OSError(number, os.strerror(number))
