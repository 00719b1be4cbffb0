"""Each node explains itself: help page, a tooltip on every input and output, and texts for translators."""

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from live_server import LiveServer
from load import ROOT
from published import FOLDER
from support.nodes import NODES
from support.workflows import known, read
from workflow import widget_values

LOCALE = ROOT / "locales" / "en" / "nodeDefs.json"
SAMPLING = ("steps", "cfg", "sampler_name", "scheduler")


@pytest.fixture(params=NODES)
def node(request: pytest.FixtureRequest, server: LiveServer) -> dict[str, Any]:
    """The server's description of one node of the pack."""
    return server.object_info()[request.param]


def inputs_of(node: dict[str, Any]) -> dict[str, Any]:
    return {**node["input"].get("required", {}), **node["input"].get("optional", {})}


def page_of(name: str) -> str:
    return (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")


def rows_of(name: str) -> list[str]:
    """Return the first cells of a help page's table of inputs."""
    table = page_of(name).partition("## Inputs\n\n")[2].partition("\n\n")[0]
    return [line.split("|")[1] for line in table.splitlines()[2:]]


def test_help_page_is_served(node, server: LiveServer):
    page = server.fetch(f"/extensions/{FOLDER}/docs/{node['name']}.md").decode()
    assert page.startswith("# "), "a help page starts with its title"
    for name in inputs_of(node):
        assert f"`{name}`" in page, f"the help page of {node['name']} does not explain the input {name}"
    for name in node["output_name"]:
        assert f"`{name}`" in page, f"the help page of {node['name']} does not explain the output {name}"


def test_the_help_page_lists_the_inputs_as_the_node_has_them(node):
    """In their order, and no others."""
    names = [name for row in rows_of(node["name"]) for name in re.findall(r"`(\w+)`", row)]
    assert names == list(inputs_of(node))


def schemas_of(nodes) -> list[Any]:
    return [node.define_schema() for node in asyncio.run(nodes.ConceptErasureExtension().get_node_list())]


@pytest.fixture
def schemas(nodes) -> dict[str, Any]:
    """The schema of every node by id."""
    return {schema.node_id: schema for schema in schemas_of(nodes)}


@pytest.fixture
def widgets(nodes, monkeypatch) -> dict[str, dict[str, bool]]:
    """The widgets of every node in the frontend's order, each with whether newer ComfyUIs fold it away."""
    from comfy_api.latest import io
    from concept_erasure.nodes import sockets

    # Older versions of ComfyUI have no word for it. This one is in all of them, and the pack uses it nowhere.
    monkeypatch.setitem(sockets.ADVANCED, "socketless", True)
    found = {}
    for schema in schemas_of(nodes):
        inputs = sorted(schema.inputs, key=lambda one: bool(one.optional))
        found[schema.node_id] = {one.id: bool(one.socketless) for one in inputs if isinstance(one, io.WidgetInput)}
    assert sum(sum(marks.values()) for marks in found.values()) > 30
    return found


def test_what_most_people_leave_alone_comes_last(widgets):
    """A ComfyUI that does not fold such widgets away shows them below the others."""
    for name, marks in widgets.items():
        assert list(marks.values()) == sorted(marks.values()), name


@pytest.mark.parametrize("name", NODES)
def test_the_help_page_marks_what_is_folded_away(widgets, name):
    """Such inputs must be looked for; the README says how to see them."""
    marked = [each for row in rows_of(name) if "(advanced)" in row for each in re.findall(r"`(\w+)`", row)]
    assert sorted(marked) == sorted(each for each, folded in widgets[name].items() if folded)
    assert "*(advanced)*" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NODES)
def test_the_help_page_names_every_choice(schemas, name):
    """Of the pack's own lists; samplers are ComfyUI's, files the artist's, and hookpoints stand in a table."""
    from comfy_api.latest import io
    from concept_erasure.nodes.checking import FileChoice

    page = page_of(name)
    for spec in schemas[name].inputs:
        if isinstance(spec, io.Combo.Input) and not isinstance(spec, FileChoice):
            choices = [] if spec.id in (*SAMPLING, "hookpoint") else spec.options
            assert not [choice for choice in choices if f"`{choice}`" not in page], f"of {spec.id}"


def test_the_store_that_is_said_to_hold_all_patches_does(schemas):
    """The table of the SAE Trainer's page, for the usual block of each model; with a fifth less some are left out."""
    from concept_erasure.training.from_model.alternating import SMALL
    from concept_erasure.training.from_model.request import USUAL, USUAL_WORK

    (steps,) = [spec.default for spec in schemas["ConceptErasureSAETrainer"].inputs if spec.id == "steps"]
    large, canvas = (width for _, width in USUAL[1:])
    table = page_of("ConceptErasureSAETrainer").partition("| Model |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]]
    sides = {"256 x 256": (16, canvas), "512 x 512": (16, large), "1024 x 1024": (32, large)}  # of the block's grid
    assert len(rows) == len(sides)
    for latent, work, gigabytes in rows:
        side, width = sides[latent.rpartition(",")[0]]
        images, train_steps = USUAL_WORK[width > SMALL]
        assert work == f"{images}, {train_steps}"
        assert kept(float(gigabytes), images, steps, side * side, width) == side * side
        assert kept(0.8 * float(gigabytes), images, steps, side * side, width) < side * side


def kept(gigabytes: float, images: int, steps: int, patches: int, width: int) -> int:
    """Return how many patches of an image are stored in a step where the store of a hookpoint may have some size."""
    from concept_erasure.training.from_model.collection import Collector, Pictures
    from concept_erasure.unet.capture import Captured

    collector = object.__new__(Collector)
    collector.pictures = Pictures(("",), images, torch.zeros(1, 4, 1, 1), 0, steps, 1.0, "euler", "normal")
    collector._levels, collector._share, collector._new = [1.0] * steps, int(gigabytes * 1e9), []
    store = SimpleNamespace(progress=0)
    collector._writers = {"block": (store, store)}
    embeddings = torch.zeros(1, patches, width, dtype=torch.float16)
    side = round(patches**0.5)
    collector._keep(Captured("block", 500.0, embeddings, (side, side)), torch.zeros(1, 0, dtype=torch.uint8), [1], 1)
    ((_, stored, _, _),) = collector._new
    return len(stored)


def test_every_input_and_output_has_a_tooltip(node):
    for name, spec in inputs_of(node).items():
        assert len(spec) > 1 and (spec[1].get("tooltip") or "").strip(), f"{node['name']}: input {name}"
    tooltips = node.get("output_tooltips") or []
    assert len(tooltips) == len(node["output"]) and all(tooltip and tooltip.strip() for tooltip in tooltips)
    assert node["description"].strip()


def test_the_locale_repeats_the_nodes_own_texts(node):
    """Translators work from this file, so it must not lag behind the nodes."""
    texts = json.loads(LOCALE.read_text(encoding="utf-8"))[node["name"]]
    assert texts["display_name"] == node["display_name"]
    assert texts["description"] == node["description"]
    assert {name: text["tooltip"] for name, text in texts["inputs"].items()} == {
        name: spec[1]["tooltip"] for name, spec in inputs_of(node).items()
    }
    outputs = [texts.get("outputs", {})[str(index)] for index in range(len(node["output"]))]
    assert [text["tooltip"] for text in outputs] == list(node.get("output_tooltips") or [])


def test_the_locale_names_no_other_node():
    assert set(json.loads(LOCALE.read_text(encoding="utf-8"))) == set(NODES)


def test_all_nodes_that_sample_begin_alike(server: LiveServer):
    """With what the templates for the demo model use."""
    quickstart = known(read(ROOT / "workflows" / "quickstart.json"))
    (usual,) = sampling_of(server, quickstart)
    info = server.object_info()
    inputs = {kind: inputs_of(info[kind]) for kind in NODES}
    begun = [[each[name][1]["default"] for name in SAMPLING] for each in inputs.values() if set(SAMPLING) <= set(each)]
    assert len(begun) == 4 and all(tuple(values) == usual for values in begun)


def test_all_that_samples_in_a_workflow_does_so_alike(server: LiveServer, workflow_file: Path):
    """What is found or trained at other settings than those of the KSampler works less well."""
    assert len(sampling_of(server, known(read(workflow_file)))) <= 1


def sampling_of(server: LiveServer, nodes: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Return the settings of sampling that nodes of a workflow have, each once."""
    info = server.object_info()
    values = [widget_values(node, info[node["type"]]) for node in nodes]
    return {tuple(each[name] for name in SAMPLING) for each in values if set(SAMPLING) <= set(each)}


def test_the_workflows_are_up_to_the_nodes(pack):
    """``python dev/host dev.workflows`` writes widgets' names and which pack a node is of; nothing is left to do."""
    from concept_erasure.dev import workflows

    before = {path: path.read_bytes() for path in (ROOT / "workflows").glob("*.json")}
    try:
        workflows.main()
        assert not [path.name for path, content in before.items() if path.read_bytes() != content]
    finally:
        for path, content in before.items():
            path.write_bytes(content)
