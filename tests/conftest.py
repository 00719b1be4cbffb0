"""Fixtures: the pack in this process, the shipped model, a real server, and its frontend in Chromium.

Everything heavy is made once, and only when a test asks for it.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from live_server import LiveServer
from load import ROOT, load_pack
from support.browser import Browser, chromium_path
from support.workflows import WORKFLOWS, read, runs_as_shipped, to_tensor
from workflow import to_prompt

os.environ.setdefault("HF_HUB_OFFLINE", "1")


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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A running ComfyUI with the pack installed as published, and the nodes of tests/support/server_nodes."""
    paths = tmp_path_factory.mktemp("server") / "paths.yaml"
    # JSON is YAML, whatever the folder is called.
    paths.write_text(json.dumps({"tests": {"custom_nodes": str(Path(__file__).parent / "support" / "server_nodes")}}))
    with LiveServer("--extra-model-paths-config", str(paths)) as running:
        yield running


@pytest.fixture(scope="session")
def classify(pack: ModuleType) -> Callable[[bytes], dict[str, float]]:
    """A function from a PNG file to the probability of each object in it, by the shipped classifier."""
    from concept_erasure.demo_model import vocabulary
    from concept_erasure.dev.demo_model import classifiers

    judge = classifiers.load()

    def classify_png(png: bytes) -> dict[str, float]:
        objects, _ = judge.classify(to_tensor(png))
        return dict(zip(vocabulary.OBJECTS, objects[0].tolist(), strict=True))

    return classify_png


@pytest.fixture
def quickstart_prompt(server: LiveServer) -> dict[str, Any]:
    """The quickstart workflow as the server takes it."""
    return to_prompt(read(ROOT / "workflows" / "quickstart.json"), server.object_info())


@pytest.fixture(scope="module")
def browser(server: LiveServer) -> Iterator[Browser]:
    """The real frontend of ``server`` in headless Chromium.

    For one module, not the session: while Playwright runs, no other test can start an event loop.
    """
    path = chromium_path()
    if path is None:
        reason = "Chromium is not installed (apt-get install chromium, or set CHROMIUM_PATH)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    server.post("/settings", {"Comfy.TutorialCompleted": True})
    with Browser(path, server.url) as opened:
        yield opened


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
