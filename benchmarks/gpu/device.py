"""What a benchmark asks of the device: the time, the waiting, the memory, and what it is called."""

import importlib.metadata
import os
import platform
import subprocess
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import comfyui_version
import torch
from comfy.ldm.modules.attention import optimized_attention

from ..timing import Clock

SYNCHRONIZES = "called a synchronizing CUDA operation"
ROOT = Path(__file__).resolve().parents[2]


def clock_of(device: torch.device) -> Clock:
    """Return a clock that waits until the device has done all that it was given."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


@contextmanager
def synchronizations(device: torch.device) -> Iterator[Counter[str]]:
    """Count how often the CPU waits for the GPU, by the line of code; empty on a CPU."""
    found: Counter[str] = Counter()
    if device.type != "cuda":
        yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found.update(lines_of(caught))


def lines_of(caught: list[warnings.WarningMessage]) -> list[str]:
    """Return which lines warnings about synchronisation point at."""
    return [f"{_short(each.filename)}:{each.lineno}" for each in caught if SYNCHRONIZES in str(each.message)]


def _short(name: str) -> str:
    """Return a file's path below this repository, below ComfyUI or among the installed packages."""
    host = Path(comfy.model_management.__file__).resolve().parents[1]
    for root in (host, Path(sysconfig.get_paths()["purelib"]), ROOT):
        if Path(name).is_relative_to(root):
            return Path(name).relative_to(root).as_posix()
    return Path(name).name


def peak_memory(device: torch.device, action: Callable[[], object]) -> float | None:
    """Return the most memory that was in use during an action that loads its models anew, MiB; None on a CPU."""
    if device.type != "cuda":
        action()
        return None
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    action()
    return torch.cuda.max_memory_allocated(device) / 2**20


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine and what runs on it."""
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "gpu_memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if cuda else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "comfyui": comfyui_version.__version__,
        "attention": optimized_attention.__name__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """Return the first line that a command prints, None if it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)
