"""What has to stand beside a figure: how it was made, and by what."""

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import comfyui_version
import torch

from ...demo_model import checkpoint

ROOT = Path(__file__).resolve().parents[2]
CPU_INFO = Path("/proc/cpuinfo")  # of Linux; elsewhere Python says something shorter


def command() -> str:
    """Return the command line that started this program, with ComfyUI's own options before it."""
    options = os.environ.get("COMFYUI_OPTIONS")
    # dev/host/__main__.py puts its own folder and the module's name in the first place.
    words = ["python", *f"dev/{sys.argv[0]}".split(), *sys.argv[1:]]
    return f"COMFYUI_OPTIONS={shlex.quote(options)} {shlex.join(words)}" if options else shlex.join(words)


@cache
def commit() -> str:
    """Return the commit of the working tree, with ``-dirty`` if tracked files were changed; "" outside of git."""
    ask = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(ask, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpu() -> str:
    """Return the name of the CPU."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def facts() -> dict[str, str]:
    """Return command, commit, CPU, host, the number format of the model, and the version of torch."""
    dtype = str(checkpoint.precision()).removeprefix("torch.")
    host = f"ComfyUI {comfyui_version.__version__}"
    made_by = {"command": command(), "commit": commit(), "cpu": cpu(), "host": host}
    return {**made_by, "dtype": dtype, "torch": torch.__version__}
