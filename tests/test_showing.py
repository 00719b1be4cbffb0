"""What the nodes say, and what is detected while the model samples, is on the page: classic and Nodes 2.0.

And a user's way: open a template, run it, change what is erased, and get the graph back from the image.
``nox -s frontends`` runs this on the newest frontend too.
"""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import LiveServer
from load import ROOT
from PIL import Image
from published import FOLDER
from support.browser import Browser
from support.layout import outside, overlapping, settle
from support.workflows import by_title, read, to_tensor

pytestmark = pytest.mark.browser
REPLACER, PREVIEW = "ConceptErasurePatchReplacer", "ConceptErasureDetectionPreview"
DETECTOR = "ConceptErasureConceptDetector"
EDITED = "With the cat erased"
RUN_LIMIT = 300.0  # seconds
STEPS = 8  # enough to find a cat and a dog
BROWSE_TEMPLATES = "() => { window.app.extensionManager.command.execute('Comfy.BrowseTemplates'); }"
HAS_VALUE = """([kind, name, value]) => window.app.graph.nodes.some((node) => node.type === kind
    && node.widgets.some((widget) => widget.name === name && widget.value === value))"""
SET_VALUE = """([kind, name, value]) => {
    const node = window.app.graph.nodes.find((node) => node.type === kind);
    const widget = node.widgets.find((widget) => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
}"""
SET_STEPS = """(steps) => {
    for (const node of window.app.graph.nodes.filter((node) => node.type === "KSampler"))
        node.widgets.find((widget) => widget.name === "steps").value = steps;
}"""
# As a file from the desktop is dropped onto the graph, far from the nodes.
DROP = """async (png) => {
    const data = new DataTransfer(), canvas = window.app.canvas.canvas;
    const bytes = Uint8Array.from(atob(png), (each) => each.charCodeAt(0));
    data.items.add(new File([bytes], "result.png", {type: "image/png"}));
    window.app.canvas.ds.offset = [9000, 9000];
    const how = {dataTransfer: data, bubbles: true, cancelable: true, clientX: 800, clientY: 500};
    for (const kind of ["dragenter", "dragover", "drop"]) canvas.dispatchEvent(new DragEvent(kind, how));
}"""
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


def test_words_and_heat_are_seen_in_the_nodes(page: Browser, server: LiveServer, pack, tmp_path: Path):
    from concept_erasure.reports.images import to_tensor, with_caption
    from concept_erasure.reports.style import BACKGROUND

    workflow = read(ROOT / "workflows" / "quickstart.json")
    replacer, preview = number(workflow, REPLACER), number(workflow, PREVIEW)
    server.forget()
    page.load(workflow)
    page.page.evaluate(SET_STEPS, STEPS)
    prompt = page.run()
    page.page.wait_for_function(HAS_IMAGE, arg=replacer)
    entry = server.wait(prompt)
    png = server.images(entry)[str(preview)][0]
    words = entry["outputs"][str(preview)]["text"][0]
    assert "of the image filled" in words and "0 patch" not in words
    picture = to_tensor(Image.open(io.BytesIO(png)).convert("RGB"))
    written = with_caption(picture[None, : picture.shape[1] // 8], [words])[0, picture.shape[1] // 8 :]
    assert float((picture[-len(written) :] - written).abs().max()) < 0.02, "the words are in the image"
    page.page.evaluate(LOOK_AT, preview)  # the canvas takes images only of nodes that it draws
    page.page.wait_for_function(HAS_IMAGE, arg=preview)
    seen = screenshot(page, preview)
    Image.fromarray(seen.astype(np.uint8)).save(tmp_path / "node.png")
    assert (abs(seen - BACKGROUND).max(-1) < 3).sum() > 5000, "and the page shows it, with the ground of its words"
    assert not page.errors


def test_from_a_template_to_a_changed_image_and_back_to_its_graph(page: Browser, server: LiveServer):
    page.load({"nodes": [], "links": [], "version": 0.4})
    open_template(page, "quickstart")
    page.page.evaluate(SET_STEPS, STEPS)
    settle(page)
    first, _ = run(page, server)
    settle(page)
    assert not overlapping(page) and not outside(page), "after the run, with the images shown"
    change(page, REPLACER, "fill_shows", "new object")
    second, sent = run(page, server)
    assert sent[REPLACER]["fill_shows"] == "new object"
    assert not same(second[EDITED], first[EDITED]), "the fill has its own colors now"
    change(page, DETECTOR, "concept", "dog")
    third, sent = run(page, server)
    assert sent[DETECTOR]["concept"] == "dog"
    assert not same(third[EDITED], second[EDITED])
    prompt = page.prompt()
    page.load({"nodes": [], "links": [], "version": 0.4})
    page.page.evaluate(DROP, base64.b64encode(third[EDITED]).decode())
    page.page.wait_for_function(HAS_VALUE, arg=[DETECTOR, "concept", "dog"])
    assert page.prompt() == prompt
    assert not page.errors


def open_template(page: Browser, name: str) -> None:
    """Open one of the pack's templates as docs/tutorial.md says it."""
    page.page.evaluate(BROWSE_TEMPLATES)
    page.page.get_by_text(FOLDER, exact=True).first.click()
    page.page.get_by_test_id(f"template-workflow-{name}").click()
    page.page.wait_for_function(HAS_VALUE, arg=[DETECTOR, "concept", "cat"])


def change(page: Browser, kind: str, name: str, value: str) -> None:
    """Set a widget, and see that this is what the frontend would send."""
    page.page.evaluate(SET_VALUE, [kind, name, value])
    assert [node["inputs"][name] for node in page.prompt().values() if node["class_type"] == kind] == [value]


def run(page: Browser, server: LiveServer) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """Press Run and return the first image of each node, by its title, and the inputs that the server ran by type."""
    prompt = page.prompt()
    entry = server.wait(page.run(), RUN_LIMIT)
    shown = by_title(prompt, server.images(entry))
    ran = {node["class_type"]: node["inputs"] for node in entry["prompt"][2].values()}
    return {title: pngs[0] for title, pngs in shown.items() if pngs}, ran


def same(one: bytes, other: bytes) -> bool:
    """Return whether two PNG files show the same; each also holds the graph that made it."""
    return bool((to_tensor(one) == to_tensor(other)).all())
