"""The state of a training run on disk, so that a killed one loses little: one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..sae_models.formats.files import write_safetensors
from .store import StoreError, require_space

FORMAT = "sae-concept-erasure/training-1"


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one that is there is replaced once the new one is complete.

    Args:
        tensors: on the CPU.
        facts: JSON can hold them.

    Raises:
        StoreError: the disk is full or cannot be written; the old checkpoint stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_space(path.parent, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
        write_safetensors(path, tensors, {"format": FORMAT, "facts": json.dumps(facts)})
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be written ({error}). Free some space there") from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint.

    Raises:
        StoreError: it is damaged or none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its metadata lacks {FORMAT}")
            facts = json.loads(metadata["facts"])
            if not isinstance(facts, dict):
                raise ValueError("its facts are no JSON object")
            return {key: file.get_tensor(key) for key in file.keys()}, facts
    except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise StoreError(f"{path}: is no checkpoint of a training run ({error}). Remove this file") from error
