"""Fixtures: the pack in this process, the shipped model, a real server, and its frontend in Chromium.

Everything heavy is made once, and only when a test asks for it.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from live_server import LiveServer
from load import ROOT, load_pack
from support.browser import Browser, opened
from support.demo_model import SMALL_SIDE
from support.workflows import WORKFLOWS, read, runs_as_shipped, to_tensor
from workflow import to_prompt

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SLOWEST_FILES = 8


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack as package ``concept_erasure``, loaded in this process beside ComfyUI's own modules."""
    return load_pack()


@pytest.fixture(scope="session")
def canvas(pack: ModuleType) -> tuple[Any, Any, Any]:
    """The shipped model: (model, clip, vae). Tests clone the model before they patch it."""
    from concept_erasure.demo_model import checkpoint

    return checkpoint.load()


@pytest.fixture(scope="session")
def nodes(pack: ModuleType) -> ModuleType:
    """The pack's nodes."""
    from concept_erasure import nodes
    from concept_erasure.nodes import files

    files.register_folder()
    return nodes


@pytest.fixture(scope="module")
def sae(nodes: ModuleType) -> Any:
    """The first shipped SAE, as the SAE Loader gives it. Each module has its own, for a test may load the decoder."""
    from concept_erasure.nodes import files

    shipped = next(name for name in files.names() if name.startswith(files.SHIPPED_PREFIX))
    return nodes.SAELoader.execute(shipped).args[0]


@pytest.fixture
def sae_folder(nodes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder in place of the artist's models/sae."""
    import folder_paths
    from concept_erasure.nodes import files

    folder = tmp_path / "models" / "sae"
    folder.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(folder)], set(files.EXTENSIONS)))
    folder_paths.filename_list_cache.pop("sae", None)
    yield folder
    folder_paths.filename_list_cache.pop("sae", None)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A running ComfyUI with previews, the pack installed as published, and the nodes of tests/support/server_nodes."""
    paths = tmp_path_factory.mktemp("server") / "paths.yaml"
    # JSON is YAML, whatever the folder is called.
    paths.write_text(json.dumps({"tests": {"custom_nodes": str(Path(__file__).parent / "support" / "server_nodes")}}))
    with LiveServer("--extra-model-paths-config", str(paths), "--preview-method", "latent2rgb") as running:
        yield running


@pytest.fixture(scope="session")
def judge(pack: ModuleType) -> Any:
    """The judges of the demo model: which objects a picture shows, where, and in which style."""
    from concept_erasure.dev.demo_model import judges

    return judges.load()


@pytest.fixture(scope="session")
def classify(judge: Any) -> Callable[[bytes], dict[str, float]]:
    """A function from a PNG file to the probability of each object in it."""
    from concept_erasure.demo_model import vocabulary

    def classify_png(png: bytes) -> dict[str, float]:
        objects, _ = judge.classify(to_tensor(png))
        return dict(zip(vocabulary.OBJECTS, objects[0].tolist(), strict=True))

    return classify_png


@pytest.fixture
def quickstart_prompt(server: LiveServer) -> dict[str, Any]:
    """The quickstart workflow as the server takes it, with a small image and few steps: nobody looks at it."""
    prompt = to_prompt(read(ROOT / "workflows" / "quickstart.json"), server.object_info())
    for node in prompt.values():
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"] |= {"width": SMALL_SIDE, "height": SMALL_SIDE}
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 6
    return prompt


@pytest.fixture(scope="module")
def browser(server: LiveServer) -> Iterator[Browser]:
    """The real frontend of ``server`` in headless Chromium.

    For one module, not the session: while Playwright runs, no other test can start an event loop.
    """
    with opened(server) as shown:
        yield shown


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def view(request: pytest.FixtureRequest) -> str:
    """How the frontend shows nodes: on a canvas, or as elements of the page (Nodes 2.0)."""
    return str(request.param)


@pytest.fixture(scope="module")
def page(server: LiveServer, view: str) -> Iterator[Browser]:
    """The frontend in one of its two ways of showing nodes. No module uses ``browser`` too: both run Playwright."""
    with opened(server, view == "nodes2") as shown:
        yield shown


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``workflow_file`` once for each of the pack's workflows.

    A test that takes ``shipped_workflow`` runs on those that need none of the user's files, and one that
    takes ``foreign_workflow`` on the others.
    """
    shipped = [path for path in WORKFLOWS if runs_as_shipped(path)]
    kinds = {
        "workflow_file": WORKFLOWS,
        "shipped_workflow": shipped,
        "foreign_workflow": [path for path in WORKFLOWS if path not in shipped],
    }
    for name, paths in kinds.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, paths, ids=[path.stem for path in paths])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which files take longest: each is one process's, so none may take half of the time."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            seconds[getattr(report, "nodeid", "").partition("::")[0]] += getattr(report, "duration", 0.0)
    if len(seconds) > SLOWEST_FILES:
        terminalreporter.section(f"slowest {SLOWEST_FILES} files")
        for name, total in seconds.most_common(SLOWEST_FILES):
            terminalreporter.line(f"{total:.2f}s {name}")
