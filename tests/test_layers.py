"""The folders stand on one another: imports go down only, and CONTRIBUTING.md says what is where."""

import ast
import re
from collections.abc import Iterator

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

# What Python has on some systems only, by module.
UNIX_MODULES = {"crypt", "fcntl", "grp", "nis", "posix", "pty", "pwd", "resource", "spwd", "syslog", "termios", "tty"}
UNIX_NAMES = {
    "os": {"fork", "geteuid", "getuid", "getpgid", "killpg", "mkfifo", "setsid", "uname", "sched_getaffinity"},
    "signal": {"SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGXCPU", "alarm", "setitimer"},
}
OLDEST_PYTHON = (3, 10)
# What came into the standard library later, by module, where somebody may reach for it.
LATER_MODULES = {"tomllib"}
LATER_NAMES = {
    "asyncio": {"Runner", "TaskGroup", "timeout"},
    "builtins": {"BaseExceptionGroup", "ExceptionGroup", "PythonFinalizationError"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"EnumCheck", "ReprEnum", "StrEnum", "member", "nonmember", "verify"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "math": {"cbrt", "exp2", "fma", "sumprod"},
    "types": {"get_original_bases"},
    "typing": {"LiteralString", "Never", "NotRequired", "Required", "Self", "Unpack", "assert_never", "override"},
    "warnings": {"deprecated"},
}

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


@pytest.mark.parametrize("path", [path for path in tracked_files() if path.suffix == ".py"], ids=str)
def test_every_file_can_be_imported_anywhere(path):
    """In the oldest Python that pyproject.toml names, by its grammar and its library, and on Windows."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"), feature_version=OLDEST_PYTHON)
    assert not list(unix_only(tree)) and not list(too_new(tree))


def test_what_windows_lacks_is_noticed():
    found = {
        "import resource": 1,
        "from os import fork": 1,
        "import os\nTIME = os.fork": 1,
        "import os\nLATER = lambda: os.fork()": 0,
        "def later():\n    import resource": 0,
        "import os\n@skipif(not hasattr(os, 'fork') or os.geteuid())\ndef test(): pass": 0,
        "class A:\n    import pwd": 1,
    }
    assert {text: len(list(unix_only(ast.parse(text)))) for text in found} == found


def test_what_the_oldest_python_lacks_is_noticed():
    found = {
        "import tomllib": 1,
        "from enum import Enum, StrEnum": 1,
        "import datetime\ndef now():\n    return datetime.UTC": 1,
        "def fail():\n    raise ExceptionGroup('', [])": 1,
        "try:\n    import tomllib\nexcept ModuleNotFoundError:\n    import tomli as tomllib": 0,
        "from itertools import pairwise": 0,
    }
    assert {text: len(list(too_new(ast.parse(text)))) for text in found} == found


def too_new(tree: ast.AST) -> Iterator[str]:
    """Yield what a module takes from the standard library that the oldest Python lacks, unless it expects that."""
    if isinstance(tree, ast.Try) and any("ModuleNotFoundError" in ast.unparse(each) for each in tree.handlers):
        return
    if isinstance(tree, ast.Import):
        yield from (one.name for one in tree.names if one.name in LATER_MODULES)
    elif isinstance(tree, ast.ImportFrom):
        names = LATER_NAMES.get(tree.module or "", ())
        yield from (one.name for one in tree.names if tree.module in LATER_MODULES or one.name in names)
    elif isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name):
        if tree.attr in LATER_NAMES.get(tree.value.id, ()):
            yield f"{tree.value.id}.{tree.attr}"
    elif isinstance(tree, ast.Name) and tree.id in LATER_NAMES["builtins"]:
        yield tree.id
    for node in ast.iter_child_nodes(tree):
        yield from too_new(node)


def unix_only(tree: ast.AST) -> Iterator[str]:
    """Yield what a module needs of a Unix when it is imported; what stands behind ``hasattr`` is looked for first."""
    for node in ast.iter_child_nodes(tree):
        if "hasattr(os" in ast.unparse(node) and not isinstance(node, ast.ClassDef):
            continue
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in UNIX_MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = UNIX_NAMES.get(node.module or "", set())
            yield from (one.name for one in node.names if node.module in UNIX_MODULES or one.name in names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in UNIX_NAMES.get(node.value.id, set()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for early in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]:
                yield from unix_only(early)
        elif not isinstance(node, ast.Lambda):
            yield from unix_only(node)
