"""What the pack's modules import, read from their source: nothing is run.

A module is named by its path from the root without the suffix, ``erasure/masks``; a package is its ``__init__``.
"""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from load import ROOT


def module_of(path: Path) -> str:
    """Return the name of a Python file, given relative to the root."""
    return path.with_suffix("").as_posix()


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Return what a file of the pack imports anywhere in it: modules of the pack, and names from elsewhere."""
    own, foreign = set(), set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            foreign |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            foreign.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            own |= set(relative(path, node))
    return own, foreign


def relative(path: Path, node: ast.ImportFrom) -> Iterator[str]:
    """Yield the modules that ``from ..unet import hooks`` in a file means.

    Each name may be a module or something in one, and a package's own code runs either way.
    """
    folder = PurePosixPath(path.as_posix()).parents[node.level - 1]
    base = folder.joinpath(*(node.module or "").split(".")) if node.module else folder
    if (ROOT / f"{base}.py").is_file():
        yield str(base)
        return
    if base != PurePosixPath():
        yield str(base / "__init__")
    for alias in node.names:
        below = base / alias.name
        if (ROOT / f"{below}.py").is_file():
            yield str(below)
        elif (ROOT / below / "__init__.py").is_file():
            yield str(below / "__init__")


def reachable(module: str, graph: dict[str, set[str]]) -> set[str]:
    """Return a module and all that it imports, directly or through others."""
    found, waiting = set(), [module]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += graph.get(one, ())
    return found
