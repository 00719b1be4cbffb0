"""Where benchmarks keep what they made, so that an interrupted run resumes and results of other weights stay apart."""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...demo_model import checkpoint

WORK = Path(__file__).resolve().parents[2] / "dev" / "work"

Result = TypeVar("Result")


def folder(name: str) -> Path:
    """Return a folder of ``dev/work``; what the model makes in half precision is kept apart from the rest."""
    precision = checkpoint.precision()
    return WORK / (name if precision == torch.float32 else f"{name}.{str(precision).removeprefix('torch.')}")


@cache
def digest(path: Path) -> int:
    """Return a checksum of what a safetensors file holds; its metadata are in another order each time it is written."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    return zlib.crc32(json.dumps(json.loads(raw[8:start]), sort_keys=True).encode() + raw[start:])


def stamp(*facts: Any) -> str:
    """Return a name for all that a result depends on, the shipped model included."""
    return f"{zlib.crc32(json.dumps([digest(checkpoint.DEFAULT_PATH), *facts]).encode()):08x}"


def file_name(setting: str) -> str:
    """Return a setting as a file can be called."""
    return setting.replace(" ", "_").replace("/", "-")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a file to write to that takes its place only when all is written; processes may make the same at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    yield partial
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing if it is not there."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file as a whole."""
    with whole(path) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def kept(path: Path, kind: Callable[..., Result], make: Callable[[], Result]) -> Result:
    """Return a result, a dataclass of plain values, from its file; make it and write the file the first time."""
    if not path.exists():
        write_json(path, asdict(make()))  # type: ignore[call-overload]
    return kind(**read_json(path))
