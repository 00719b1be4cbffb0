"""What users get: a complete registry entry, a small archive, safe code, and a cheap import."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from load import ROOT
from published import FOLDER, published_files, tracked_files
from support.nodes import NODES

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same as tomli
    import tomli as tomllib

LIMIT = 70_000_000
ARCHIVE_LIMIT = 32_000_000  # 24 of them are the demo model, which any user can run without a download
LINK = re.compile(r"""\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)|\b(?:src|href)="([^"]+)\"""", re.MULTILINE)
NEWEST_MINOR = 13  # of Python 3, that the tests run on
# Parts of names of what made the demo model and of what measures it.
MAKERS = ("sprites", "judge", "scenes", "make_data", "train_unet", "train_vae", "comparison", "noxfile")


def git(*arguments: str, stdin: str = "") -> str:
    """Run git in the repository and return what it prints."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_registry_entry_is_complete(project):
    about, comfy = project["project"], project["tool"]["comfy"]
    assert about["name"] == FOLDER
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert about["description"] and about["urls"]["Repository"].startswith("https://")
    assert (ROOT / about["license"]["file"]).is_file() and (ROOT / about["readme"]).is_file()
    assert about["requires-python"] and about["dependencies"] == []
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["Icon"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"]), "the registry empties any other form"
    assert (ROOT / comfy["Icon"].split("/main/")[1]).is_file()


def test_every_python_that_is_promised_is_tested(project):
    """From the oldest that pyproject.toml allows, on every system that it names."""
    oldest = project["project"]["requires-python"].removeprefix(">=")
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    matrix = matrix["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{minor}" for minor in range(int(oldest.partition(".")[2]), NEWEST_MINOR + 1)]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert project["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_the_changelog_tells_of_this_version(project):
    """The newest section is this version's. It may be called unreleased only until the version's tag is there."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = project["project"]["version"]
    newest = re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE)[0]
    released = git("tag", "--list", f"v{version}").strip()
    assert newest == version or (newest == "Unreleased" and not released)


def test_the_archive_holds_what_runs_and_nothing_else():
    names = {path.as_posix() for path in published_files()}
    for needed in (
        "__init__.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
        "CHANGELOG.md",
        "SECURITY.md",
        "nodes/__init__.py",
        "erasure/__init__.py",
        "sae_models/__init__.py",
        "demo_model/__init__.py",
        "demo_model/weights/canvas.safetensors",
        "locales/en/nodeDefs.json",
        "workflows/quickstart.json",
        "subgraphs/Erase a concept.json",
        "web/docs/ConceptErasureSAELoader.md",
    ):
        assert needed in names, f"{needed} is missing from the archive"
    assert any(name.startswith("sae_models/weights/") for name in names), "the shipped SAE is missing"
    top = {name.split("/")[0] for name in names}
    assert not top & {"tests", "benchmarks", "dev", "docs", ".ci", ".comfyignore", ".github", ".host"}
    assert not [name for name in names if any(part in name for part in MAKERS)]


def test_the_archive_is_small_and_is_not_committed():
    size = sum((ROOT / path).stat().st_size for path in published_files())
    assert size < ARCHIVE_LIMIT, f"the archive holds {size / 1e6:.1f} MB before it is compressed"
    assert git("check-ignore", "node.zip").strip() == "node.zip", "what comfy-cli packs would be committed"


def broken_links(page: Path, text: str, archive: set[Path], repository: str) -> list[str]:
    """Links of a page that lead nowhere for somebody who has the archive alone.

    A page of ``web/`` is shown by ComfyUI's frontend, where no file lies beside it.
    """
    inside = re.compile(rf"{re.escape(repository)}/(blob|tree|raw)/main/(.+)")
    found = (next(filter(None, match)).partition("#")[0] for match in LINK.findall(text))
    broken = []
    for target in filter(None, found):
        if target.removeprefix(repository) in ("", "/issues", "/security/advisories/new"):
            continue
        if target.startswith(repository):
            place = inside.fullmatch(target)
            right = place is not None and (ROOT / place[2]).is_dir() == (place[1] == "tree") and _is_tracked(place[2])
        else:
            right = "://" in target or (page.parts[0] != "web" and page.parent / target in archive)
        if not right:
            broken.append(target)
    return broken


def _is_tracked(name: str) -> bool:
    return any(path == Path(name) or Path(name) in path.parents for path in tracked_files())


def test_links_in_the_archive_lead_somewhere(project):
    archive, repository = set(published_files()), project["project"]["urls"]["Repository"]
    pages = [path for path in archive if path.suffix == ".md"]
    assert Path("README.md") in pages
    broken = {
        str(page): found
        for page in pages
        if (found := broken_links(page, (ROOT / page).read_text(encoding="utf-8"), archive, repository))
    }
    assert not broken


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("README.md", "docs/tutorial.md"),
        ("README.md", "https://host/pack/blob/main/docs/none.md"),
        ("README.md", "https://host/pack/raw/main/docs/none.webp"),
        ("README.md", "https://host/pack/raw/main/docs"),
        ("README.md", "https://host/pack/blob/old/LICENSE"),
        ("README.md", "https://host/pack/wiki/LICENSE"),
        ("README.md", "https://host/pack/blob/main/docs"),
        ("web/docs/Node.md", "LICENSE"),
    ],
)
def test_a_broken_link_is_seen(page, link):
    archive = set(published_files())
    for text in (f"[x]({link}#part)", f"[x]: {link}", f'<img width="9" src="{link}">'):
        assert broken_links(Path(page), text, archive, "https://host/pack") == [link]
    good = "[a](LICENSE) [b](https://host/pack/blob/main/docs/tutorial.md) [c](https://host/pack#x) [d](#here)"
    good += " ![e](https://host/pack/raw/main/docs/icon.png)"
    assert broken_links(Path("README.md"), good, archive, "https://host/pack") == []


def test_the_repository_stays_small():
    """Every object that HEAD reaches, once: a clone holds other branches too, and some objects in several packs."""
    files = sum((ROOT / path).stat().st_size for path in tracked_files())
    assert files < LIMIT, f"tracked files: {files / 1e6:.1f} MB"
    names = git("rev-list", "--objects", "HEAD", "--no-object-names")
    history = sum(int(size) for size in git("cat-file", "--batch-check=%(objectsize:disk)", stdin=names).split())
    assert 0 < history < LIMIT, f"history: {history / 1e6:.1f} MB"


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/README.md"])
def test_a_page_names_the_templates_as_the_frontend_does(page):
    """By the pack's folder, below the name of all packs' templates; tests/test_showing.py opens one there."""
    assert f"*{FOLDER}* under *Extensions*" in (ROOT / page).read_text(encoding="utf-8")


def test_workflows_hold_no_embedded_pictures():
    for path in (ROOT / "workflows").glob("*.json"):
        assert "base64" not in path.read_text(encoding="utf-8"), path.name


def test_the_code_cannot_run_what_a_file_says():
    """The calls that ruff has no rule for; what it bans stands in pyproject.toml."""
    found = []
    for path in published_files():
        if path.suffix == ".py":
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            found += [f"{path}:{node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.Call) and harms(node)]
    assert not found


def harms(call: ast.Call) -> bool:
    """Return whether a call makes or fetches code: ``compile``, ``__import__``, or torch.load that may unpickle."""
    called = ast.unparse(call.func)
    if called == "torch.load":
        return not any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in call.keywords)
    runs = called.startswith(("os.exec", "os.spawn", "os.posix_spawn", "os.fork")) or "allow_pickle" in ast.unparse(
        call
    )
    return runs or called in ("compile", "__import__")


# Prints what importing the pack adds to a ComfyUI that is up: nodes, modules, and the files that were opened for it.
MEASURE = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import load
load.load_comfyui()
import nodes, comfy.sd, comfy.sample, comfy_api.latest, kornia, scipy.ndimage, PIL.Image  # as ComfyUI itself
before, opened = set(sys.modules), []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and isinstance(args[0], str) else None)
extension = asyncio.run(load.load_pack().comfy_entrypoint())
found = asyncio.run(extension.get_node_list())
print(json.dumps({"nodes": len(found), "modules": sorted(set(sys.modules) - before), "opened": opened}))
"""


@pytest.fixture(scope="module")
def first_import() -> dict:
    """What importing the pack into a fresh ComfyUI process brings."""
    command = [sys.executable, "-c", MEASURE, str(ROOT / "dev" / "host")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "dev" / "host")
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_pack_imports_only_the_pack(first_import):
    """What ComfyUI has not imported by then, and is not Python's own, would be added to everyone's start."""
    assert first_import["nodes"] == len(NODES)
    usual = {"concept_erasure", *sys.stdlib_module_names}
    assert not [name for name in first_import["modules"] if name.split(".")[0] not in usual]
    assert not [name for name in first_import["modules"] if name.startswith("concept_erasure.dev")]


def test_importing_the_pack_reads_nothing_but_code(first_import):
    """And ComfyUI's own list of folders, to know which one it saves to."""
    # Bytecode that is written for the first time has a longer name for a moment.
    other = [name for name in first_import["opened"] if not name.endswith(".py") and "__pycache__" not in name]
    assert {Path(name).name for name in other} <= {"extra_model_paths.yaml"}


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_a_shared_workflow_names_its_pack_and_its_files_and_holds_nothing_of_ours(path):
    """A user without the pack is told its name, one without a public file where it is."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    assert set(workflow["extra"]) <= {"ds", "frontendVersion"}
    for node in workflow["nodes"]:
        if node["type"].startswith("ConceptErasure"):
            assert node["properties"]["cnr_id"] == "sae-concept-erasure" and node["properties"]["ver"]
        if node["type"] == "CheckpointLoaderSimple":
            (file,) = node["properties"]["models"]
            assert file["name"] == node["widgets_values"][0] and file["directory"] == "checkpoints"
            assert file["url"].startswith("https://huggingface.co/") and file["url"].endswith(file["name"])
