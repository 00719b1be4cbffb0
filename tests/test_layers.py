"""The rooms of the pack lie in layers, and imports run downwards only."""

import ast
from pathlib import Path

import pytest
from load import ROOT

LAYERS = (
    {"sae_models", "demo_model"},
    {"unet"},
    {"erasure", "finding"},
    {"steering", "reports"},
    {"training"},
    {"nodes"},
)
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}


def rooms_imported(path: Path) -> set[str]:
    """Return the other rooms that a module imports from, all of which must be relative imports."""
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [[*base, *(node.module or "").split(".")]] if node.module else [[*base, a.name] for a in node.names]
            found |= {name[0] for name in names}
    return found - {package[0]}


@pytest.mark.parametrize("room", HEIGHT)
def test_a_room_imports_from_lower_rooms_only(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        for other in rooms_imported(path):
            assert HEIGHT.get(other, len(LAYERS)) < HEIGHT[room], f"{path.relative_to(ROOT)} imports from {other}"
