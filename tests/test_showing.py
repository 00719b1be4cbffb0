"""What the nodes say, and what is detected while the model samples, is on the page: classic and Nodes 2.0.

``nox -s frontends`` runs this on the newest frontend too.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import LiveServer
from load import ROOT
from PIL import Image
from support.browser import Browser, opened
from support.workflows import read

pytestmark = pytest.mark.browser
REPLACER, PREVIEW = "ConceptErasurePatchReplacer", "ConceptErasureDetectionPreview"
# Whether the frontend shows an image in a node: on the canvas, or in an element of its own.
HAS_IMAGE = """(id) => {
    const node = window.app.graph.getNodeById(id);
    const shown = document.querySelector(`[data-node-id="${id}"] img`);
    return Boolean(node.imgs?.length || (shown && shown.naturalWidth));
}"""
LOOK_AT = """(id) => {
    const node = window.app.graph.getNodeById(id), view = window.app.canvas.ds;
    view.scale = 1;
    view.offset[0] = 400 - node.pos[0];
    view.offset[1] = 150 - node.pos[1];
    window.app.canvas.setDirty(true, true);
    return [400, 150, node.size[0], node.size[1]];
}"""


@pytest.fixture(scope="module")
def previewing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with previews on."""
    with LiveServer("--preview-method", "latent2rgb") as running:
        yield running


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def page(previewing: LiveServer, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The frontend in one of its two ways of showing nodes."""
    with opened(previewing, request.param == "nodes2") as shown:
        yield shown


def number(workflow: dict[str, Any], kind: str) -> int:
    """Return the id of the first node of a type."""
    return int(next(node["id"] for node in workflow["nodes"] if node["type"] == kind))


def screenshot(page: Browser, node: int) -> np.ndarray:
    """Return what the page shows of a node, at the size of the graph, [H, W, 3] in 0..255."""
    left, top, width, height = page.page.evaluate(LOOK_AT, node)
    page.wait_for_pictures()
    png = page.page.screenshot()
    whole = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return whole[top : top + int(height), left : left + int(width)]


def test_words_and_heat_are_seen_in_the_nodes(page: Browser, previewing: LiveServer, pack, tmp_path: Path):
    from concept_erasure.reports.images import to_tensor, with_caption
    from concept_erasure.reports.style import BACKGROUND

    workflow = read(ROOT / "workflows" / "quickstart.json")
    replacer, preview = number(workflow, REPLACER), number(workflow, PREVIEW)
    previewing.forget()
    page.load(workflow)
    prompt = page.run()
    page.page.wait_for_function(HAS_IMAGE, arg=replacer)
    entry = previewing.wait(prompt)
    png = previewing.images(entry)[str(preview)][0]
    words = entry["outputs"][str(preview)]["text"][0]
    assert "patch embeddings replaced" in words
    picture = to_tensor(Image.open(io.BytesIO(png)).convert("RGB"))
    written = with_caption(picture[None, : picture.shape[1] // 8], [words])[0, picture.shape[1] // 8 :]
    assert float((picture[-len(written) :] - written).abs().max()) < 0.02, "the words are in the image"
    page.page.evaluate(LOOK_AT, preview)  # the canvas takes images only of nodes that it draws
    page.page.wait_for_function(HAS_IMAGE, arg=preview)
    seen = screenshot(page, preview)
    Image.fromarray(seen.astype(np.uint8)).save(tmp_path / "node.png")
    assert (abs(seen - BACKGROUND).max(-1) < 3).sum() > 5000, "and the page shows it, with the ground of its words"
    assert not page.errors
