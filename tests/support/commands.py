"""The program that writes figures into pages, and what the commands in pages and files start."""

import importlib.util
import re
import shlex
import sys

from load import ROOT

sys.path.append(str(ROOT / "dev" / "figures"))  # as if it were started
SPEC = importlib.util.spec_from_file_location("figures_program", ROOT / "dev" / "figures" / "__main__.py")
figures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(figures)
# Where options of benchmarks are declared, beside their own files.
SHARED = [ROOT / "benchmarks" / "framework" / f"{name}.py" for name in ("runs", "tables")]
SESSIONS = set(re.findall(r"@nox\.session(?:\(name=\"(\w+)\"\))?\ndef (\w+)", (ROOT / "noxfile.py").read_text()))


def program_of(command: str) -> str:
    """Return what a command starts: a module for ``dev/host``, a file or folder, or a session of nox."""
    words = [word for word in shlex.split(command) if not re.match(r"^[A-Z_]+=", word)]
    assert words[0] in ("python", "nox"), command
    if words[0] == "nox":
        return f"nox {words[words.index('-s') + 1]}"
    return words[2] if words[1] == "dev/host" else words[1]


def exists(program: str) -> bool:
    if program.startswith("nox "):
        return any(program[4:] in names for names in SESSIONS)
    if "/" in program:
        return (ROOT / program).exists()
    path = ROOT.joinpath(*program.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
