"""The subgraph blueprint: it is what the nodes say, sidebar and search offer it, and it does as its nodes do.

In the classic frontend and in Nodes 2.0.
"""

from typing import Any

import pytest
from live_server import LiveServer
from load import ROOT
from support.browser import Browser
from support.workflows import by_title, give, known, read, to_tensor

TITLE = "Erase a concept"
FILE = ROOT / "subgraphs" / f"{TITLE}.json"
RUN_LIMIT = 300.0  # seconds
SMALL = {"EmptyLatentImage": {"width": 64, "height": 64}, "KSampler": {"steps": 4}}
INSIDE = {"ConceptErasureSAELoader", "ConceptErasureConceptDetector", "ConceptErasurePatchReplacer"}

# Puts the subgraph in the place of the workflow's own three nodes.
REWIRE = """(title) => {
    const graph = window.app.graph, of = (type) => graph.nodes.find((node) => node.type === type);
    const subgraph = graph.nodes.find((node) => node.title === title && node.subgraph);
    const own = of("ConceptErasurePatchReplacer"), slot = (node, name) => node.findInputSlot(name);
    const [source, fill] = ["model", "fill"].map((name) => graph.getLink(own.inputs[slot(own, name)].link));
    for (const [link, name] of [[source, "model"], [fill, "fill"]])
        graph.getNodeById(link.origin_id).connect(link.origin_slot, subgraph, slot(subgraph, name));
    own.outputs.forEach((output, place) => [...(output.links ?? [])].forEach((id) => {
        const link = graph.getLink(id);
        subgraph.connect(place, graph.getNodeById(link.target_id), link.target_slot);
    }));
    for (const type of ["SAELoader", "ConceptDetector", "PatchReplacer"]) graph.remove(of("ConceptErasure" + type));
}"""
TOGGLE_LIBRARY = "() => window.app.extensionManager.command.execute('Workspace.ToggleSidebarTab.node-library')"
# What is typed into the panel's search box is no text of the panel.
IN_SIDEBAR = """(title) => [...document.querySelectorAll(".side-bar-panel")].some(
    (panel) => panel.innerText.includes(title))"""
# The text of the subgraph's node where nodes are elements of the page, else none.
TEXT = """(title) => {
    const node = window.app.graph.nodes.find((node) => node.title === title && node.subgraph);
    return document.querySelector(`[data-node-id="${node.id}"]`)?.innerText ?? null;
}"""
# Moves the graph out of sight, so that no node is under the mouse. Nodes that are elements follow when it is drawn.
AWAY = """() => {
    const canvas = window.app.canvas;
    canvas.ds.offset = [9000, 9000];
    canvas.setDirty(true, true);
    return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""
HAS = "(title) => window.app.graph.nodes.some((node) => node.title === title && node.subgraph)"
FACE = """(title) => window.app.graph.nodes.find((node) => node.title === title && node.subgraph)
    .widgets.map((widget) => [widget.name, widget.value])"""
SET = """([title, name, value]) => {
    const node = window.app.graph.nodes.find((node) => node.title === title && node.subgraph);
    node.widgets.find((widget) => widget.name === name).value = value;
}"""


def test_it_is_what_the_nodes_say(pack):
    """``python dev/host dev.blueprint`` writes it."""
    from concept_erasure.dev import blueprint

    assert FILE.read_text(encoding="utf-8") == blueprint.made()


def test_the_server_offers_it(server: LiveServer):
    listed = server.get("/global_subgraphs").values()
    assert [entry["name"] for entry in listed if "sae-concept-erasure" in entry["info"]["node_pack"]] == [TITLE]


@pytest.mark.browser
def test_it_is_in_the_sidebar(page: Browser):
    page.page.evaluate(TOGGLE_LIBRARY)
    panel = page.page.locator(".side-bar-panel")
    panel.locator("input").first.fill(TITLE)
    page.page.wait_for_function(IN_SIDEBAR, arg=TITLE)
    page.page.evaluate(TOGGLE_LIBRARY)
    assert not page.errors


@pytest.mark.browser
def test_it_is_added_from_the_search_and_erases_as_the_nodes_do(page: Browser, server: LiveServer, view: str):
    workflow = read(ROOT / "workflows" / "quickstart.json")
    small(workflow, server.object_info())
    page.load(workflow)
    expected = images(page, server)
    page.page.evaluate(AWAY)
    page.page.mouse.dblclick(800, 500)
    page.page.keyboard.type(TITLE)
    page.page.get_by_role("option").filter(has_text=TITLE).first.click()
    page.page.wait_for_function(HAS, arg=TITLE)
    shown = dict(page.page.evaluate(FACE, TITLE))
    assert shown == {"sae_file": "shipped/canvas_output_blocks.2.1.safetensors", "concept": "cat", "sensitivity": 1}
    text = page.page.evaluate(TEXT, TITLE)
    assert (text is not None) == (view == "nodes2")
    assert text is None or all(word in text for word in (TITLE, *shown, "cat")), text
    page.page.evaluate(REWIRE, TITLE)
    assert set(kinds(page.prompt())) == INSIDE
    assert images(page, server) == expected
    page.page.evaluate(SET, [TITLE, "concept", "dog"])
    assert kinds(page.prompt())["ConceptErasureConceptDetector"]["concept"] == "dog"
    assert not page.errors


def kinds(prompt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the inputs of those nodes that the blueprint holds, by type."""
    return {node["class_type"]: node["inputs"] for node in prompt.values() if node["class_type"] in INSIDE}


def images(browser: Browser, server: LiveServer) -> dict[str, list[bytes]]:
    """Press Run and return what each node showed, by title."""
    server.forget()
    prompt = browser.prompt()
    shown = server.images(server.wait(browser.run(), RUN_LIMIT))
    titled = by_title(prompt, shown)
    return {title: [to_tensor(png).numpy().tobytes() for png in pngs] for title, pngs in titled.items()}


def small(workflow: dict[str, Any], object_info: dict[str, Any]) -> None:
    """Let a workflow generate a small image in few steps: nobody looks at it."""
    for node in known(workflow):
        give(node, object_info, SMALL.get(node["type"], {}))
