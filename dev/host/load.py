"""Put the real ComfyUI on the import path and load this repository as the package ComfyUI would load.

The repository root itself never goes on ``sys.path``: its ``nodes/`` would hide ComfyUI's own ``nodes.py``.
"""

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from types import ModuleType

from dynamic import switch_on

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".host"
PACKAGE = "concept_erasure"
DYNAMIC = "--enable-dynamic-vram"


def comfyui_path() -> Path:
    """Return the ComfyUI tree in use: ``COMFYUI_PATH`` if set, else the one prepared in ``.host/``.

    Raises:
        FileNotFoundError: no tree is there yet.
    """
    path = Path(os.environ.get("COMFYUI_PATH") or CACHE / "ComfyUI").expanduser().resolve()
    if not (path / "main.py").is_file():
        raise FileNotFoundError(f"No ComfyUI at {path}. Run `nox -s tests` once, or set COMFYUI_PATH.")
    return path


def options() -> list[str]:
    """Return flags for ComfyUI's command line from ``COMFYUI_OPTIONS``, such as ``--use-pytorch-cross-attention``."""
    return shlex.split(os.environ.get("COMFYUI_OPTIONS", ""))


def load_comfyui() -> None:
    """Make ``import comfy`` work in this process, on the CPU where there is no GPU."""
    path = str(comfyui_path())
    if path not in sys.path:
        sys.path.insert(0, path)
    import torch
    from comfy.cli_args import args, parser

    # ComfyUI reads the flags when model_management is first imported, so they must be set before.
    for name, value in vars(parser.parse_args(options())).items():
        if value != parser.get_default(name):
            setattr(args, name, value)
    args.cpu = args.cpu or not torch.cuda.is_available()
    if DYNAMIC in options():
        switch_on()


def load_pack() -> ModuleType:
    """Load the repository as package ``concept_erasure``, the way ComfyUI loads a custom node folder."""
    if PACKAGE in sys.modules:
        return sys.modules[PACKAGE]
    load_comfyui()
    spec = importlib.util.spec_from_file_location(PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
    return module
