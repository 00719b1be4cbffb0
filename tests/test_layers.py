"""The folders stand on one another: imports go down only, and CONTRIBUTING.md says what is where."""

import re

import pytest
from load import ROOT
from published import published_files, tracked_files
from support.imports import imports_of, module_of, reachable

# From the ground. A folder may use those of the layers below its own, and none of its own.
LAYERS = (
    ("sae_models", "demo_model"),
    ("unet",),
    ("erasure", "finding"),
    ("steering", "reports"),
    ("training",),
    ("nodes",),
)
DEVELOPMENT = {"dev", "benchmarks", "tests"}
# What must run, and be read, without ComfyUI.
WITHOUT_COMFYUI = ("sae_models/", *(f"erasure/{name}" for name in ("detection", "masks", "refinement", "replacement")))
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "nodes", "server"}

FILES = [path for path in published_files() if path.suffix == ".py"]
IMPORTS = {module_of(path): imports_of(path) for path in FILES}
OWN = {module: own for module, (own, _) in IMPORTS.items()}
EDGES = [(module, other) for module, own in OWN.items() for other in sorted(own)]


def folder_of(module: str) -> str:
    """Return the top-level folder of a module, "" for the pack's entry point."""
    return module.split("/")[0] if "/" in module else ""


def layer_of(module: str) -> int:
    """Return how high a module's folder stands; the entry point stands above all."""
    found = [height for height, folders in enumerate(LAYERS) if folder_of(module) in folders]
    return found[0] if found else len(LAYERS)


def test_every_shipped_folder_has_a_layer():
    assert {folder_of(module) for module in IMPORTS} - {""} == {name for folders in LAYERS for name in folders}


def test_a_folder_imports_from_lower_layers_only():
    """So no two folders can need each other."""
    across = [(one, other) for one, other in EDGES if folder_of(one) != folder_of(other)]
    assert not [f"{one} imports {other}" for one, other in across if layer_of(one) <= layer_of(other)]


def test_nothing_shipped_imports_what_is_not():
    shipped = set(IMPORTS)
    assert not [f"{one} imports {other}" for one, other in EDGES if other not in shipped]
    foreign = [(one, name) for one, (_, names) in IMPORTS.items() for name in names]
    assert not [f"{one} imports {name}" for one, name in foreign if name.split(".")[0] in DEVELOPMENT]


def test_imports_inside_the_pack_are_relative():
    """The pack's folder has any name the user likes, and it is never on the path: ``nodes/`` would hide ComfyUI's."""
    own = {"concept_erasure", *(name for folders in LAYERS for name in folders)}
    foreign = [(one, name) for one, (_, names) in IMPORTS.items() for name in names]
    assert not [f"{one} imports {name} absolutely" for one, name in foreign if name.split(".")[0] in own]


@pytest.mark.parametrize("place", WITHOUT_COMFYUI)
def test_the_mathematics_knows_no_comfyui(place):
    """Neither does anything that it imports."""
    modules = [module for module in IMPORTS if module == place or (place.endswith("/") and module.startswith(place))]
    assert modules
    needed = set().union(*(reachable(module, OWN) for module in modules))
    assert not [
        f"{one} imports {name}" for one in sorted(needed) for name in IMPORTS[one][1] if name.split(".")[0] in COMFYUI
    ]


def test_contributing_names_every_folder():
    """Each top-level folder under version control has a row in the table, and each row a folder."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w.]+)/`", row)]
    assert sorted(named) == sorted({path.parts[0] for path in tracked_files() if len(path.parts) > 1})


def test_no_test_module_imports_another():
    """What two need is in tests/support or conftest.py, so that each module can be read, run and removed alone."""
    modules = {path.stem: imports_of(path) for path in tracked_files() if path.match("tests/test_*.py")}
    assert not [(one, name) for one, (_, names) in modules.items() for name in names if name in modules]
