"""The real frontend, driven in headless Chromium."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from live_server import LiveServer
from playwright.sync_api import Error, Page, Request, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-unsafe-swiftshader",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LOAD_LIMIT = 120_000
NO_ANSWER = "Failed to fetch"
GIVEN_UP = "net::ERR_ABORTED"  # by the page itself, as when it is left

LOAD = """async (workflow) => {
    await window.app.loadGraphData(workflow, true, false);
    await new Promise((done) => setTimeout(done, 300));
}"""
# In Nodes 2.0 a node is an element of the page, which may be higher than the graph says.
NODES = """() => window.app.graph.nodes.map((node) => {
    const bar = window.LiteGraph.NODE_TITLE_HEIGHT;
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const {scale, offset} = window.app.canvas.ds;
    const page = window.app.canvas.canvas.getBoundingClientRect();
    const shown = element?.getBoundingClientRect();
    return {
        id: Number(node.id),
        type: node.type,
        title: node.title,
        known: node.type in window.LiteGraph.registered_node_types,
        collapsed: Boolean(node.flags?.collapsed),
        element: Boolean(element),
        box: shown
            ? [(shown.left - page.left) / scale - offset[0], (shown.top - page.top) / scale - offset[1],
               shown.width / scale, shown.height / scale]
            : [node.pos[0], node.pos[1] - bar, node.size[0], node.size[1] + bar],
    };
})"""
LINKS = """() => [...window.app.graph.links.values()].map(
    (link) => [link.origin_id, link.origin_slot, link.target_id, link.target_slot].map(Number))"""
READY = "() => window.app?.graph && Object.keys(window.LiteGraph.registered_node_types).length > 100"


class Browser:
    """A page that shows a server's frontend.

    Attributes:
        page: Playwright's page, with the frontend loaded.
        errors: uncaught errors of the page so far, and requests that the server left unanswered.
    """

    def __init__(self, executable: Path, url: str) -> None:
        """Take the browser's path and the server's address; nothing starts before ``with``."""
        self._executable, self._url = executable, url
        self.errors: list[str] = []
        self.page: Page

    def __enter__(self) -> "Browser":
        """Start Chromium and wait until the frontend is ready."""
        self._playwright = sync_playwright().start()
        try:
            self._chromium = self._playwright.chromium.launch(executable_path=self._executable, args=FLAGS)
            self.page = self._chromium.new_page(viewport={"width": 1600, "height": 1000})
            self.page.set_default_timeout(LOAD_LIMIT)
            self.page.on("pageerror", self._note_error)
            self.page.on("requestfailed", self._note_failure)
            self.page.goto(self._url, wait_until="domcontentloaded")
            self.page.wait_for_function(READY)
        except BaseException:
            self._playwright.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close Chromium."""
        self._chromium.close()
        self._playwright.stop()

    def _note_error(self, error: Error) -> None:
        # Newer frontends ask the outside world for news, which a test must not need; see _note_failure.
        if error.message != NO_ANSWER:
            self.errors.append(str(error))

    def _note_failure(self, request: Request) -> None:
        if request.url.startswith(self._url) and request.failure != GIVEN_UP:
            self.errors.append(f"{request.url}: {request.failure}")

    def load(self, workflow: dict[str, Any]) -> None:
        """Open a workflow as if its file were dragged onto the page."""
        self.page.evaluate(LOAD, workflow)

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes as the page shows them, see NODES; a box is x, y, width, height with the title bar."""
        return self.page.evaluate(NODES)

    def groups(self) -> list[list[float]]:
        """Return the frames of the groups on the canvas: x, y, width, height."""
        return self.page.evaluate("() => window.app.graph._groups.map((group) => [...group._bounding])")

    def links(self) -> list[list[int]]:
        """Return the links on the canvas: [from node, from output, to node, to input]."""
        return self.page.evaluate(LINKS)

    def prompt(self) -> dict[str, Any]:
        """Return what the frontend would send to the server if Run were pressed."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def run(self) -> str:
        """Press Run and return the id of the queued prompt."""
        with self.page.expect_response(lambda response: response.url.endswith("/prompt")) as queued:
            self.page.evaluate("() => { window.app.queuePrompt(0) }")
        answer = queued.value
        assert answer.ok, f"The server refused what the frontend sent: {answer.text()}"
        return str(answer.json()["prompt_id"])

    def wait_for_pictures(self) -> None:
        """Wait until the nodes show what the run made, for the layout after it."""
        self.page.wait_for_timeout(1500)


def chromium_path() -> Path | None:
    """Return an installed Chromium or Chrome (``CHROMIUM_PATH`` wins), or None."""
    found = os.environ.get("CHROMIUM_PATH") or next(filter(None, map(shutil.which, NAMES)), None)
    return Path(found) if found else None


@contextmanager
def opened(server: LiveServer, nodes2: bool = False) -> Iterator[Browser]:
    """Open a server's frontend for a test; skip it where there is no browser, which in CI is a failure.

    Args:
        server: keeps the settings, so that each caller sets all of them.
        nodes2: whether nodes are shown as Nodes 2.0 instead of on the classic canvas.
    """
    path = chromium_path()
    if path is None:
        reason = "Chromium is not installed (apt-get install chromium, or set CHROMIUM_PATH)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Without the first, the templates cover the graph at a first visit.
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": nodes2})
    with Browser(path, server.url) as shown:
        yield shown
