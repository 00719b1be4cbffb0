"""Every workflow in the real frontend: it opens, and those for the shipped model run.

Pressing Run here is what a user does after dragging the file into the browser; what comes out is judged by
the shipped classifier against the file's own ``extra.checks``.
"""

from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, ServerError
from PIL import Image
from support.browser import Browser
from support.layout import overlapping
from support.workflows import WORKFLOWS, by_title, complaints, quickened, read
from workflow import to_prompt

pytestmark = pytest.mark.browser
VIRTUAL = ("Note", "MarkdownNote")
RUN_LIMIT = 300.0  # seconds
EXPECTED = {
    *("quickstart", "two_concepts", "detect_only", "compare_methods", "erase_sd15", "erase_sdxl"),
    *("find_concept", "concept_from_mask", "unknown_concepts", "explore_features", "train_sae", "from_scratch"),
}


def test_the_promised_workflows_are_there():
    assert {path.stem for path in WORKFLOWS} >= EXPECTED


def test_each_workflow_has_a_thumbnail_of_its_own():
    """ComfyUI's template browser shows it; dev/host/thumbnails.py makes it."""
    pictures = {}
    for path in WORKFLOWS:
        with Image.open(path.with_suffix(".jpg")) as thumbnail:
            assert thumbnail.format == "JPEG" and thumbnail.width == 512
            pictures[path.stem] = thumbnail.convert("RGB").tobytes()
            assert len(set(pictures[path.stem])) > 50, f"the thumbnail of {path.stem} shows nothing"
    assert len(set(pictures.values())) == len(WORKFLOWS)


def test_it_opens_with_every_node_and_link(browser: Browser, workflow_file: Path):
    workflow = read(workflow_file)
    browser.load(workflow)
    nodes = browser.nodes()
    assert {node["id"]: node["type"] for node in nodes} == {node["id"]: node["type"] for node in workflow["nodes"]}
    missing = [node["type"] for node in nodes if not node["known"] and node["type"] not in VIRTUAL]
    assert not missing, f"The frontend does not know {missing}"
    assert sorted(browser.links()) == sorted([link[1:5] for link in workflow["links"]])
    assert not browser.errors


def test_every_link_joins_matching_sockets(server: LiveServer, workflow_file: Path):
    info = server.object_info()
    workflow = read(workflow_file)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, origin, output, target, slot, kind in workflow["links"]:
        source, sink = nodes[origin], nodes[target]
        name = sink["inputs"][slot]["name"]
        groups = info[sink["type"]]["input"]
        spec = {**groups.get("required", {}), **groups.get("optional", {})}[name]
        wanted = "COMBO" if isinstance(spec[0], list) else spec[0]
        given = info[source["type"]]["output"][output]
        message = f"Link {link}: {source['type']} gives {given}, {name} takes {wanted}"
        # A socket that takes several types names them all: "IMAGE,LATENT".
        assert given == kind and given in wanted.split(","), message


def test_our_conversion_equals_the_frontends(browser: Browser, server: LiveServer, workflow_file: Path):
    workflow = read(workflow_file)
    browser.load(workflow)
    assert to_prompt(workflow, server.object_info()) == titled_only(browser.prompt())


def titled_only(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return a prompt whose nodes say of themselves their title alone; newer frontends add the pack and its version."""
    return {name: {**node, "_meta": {"title": node["_meta"]["title"]}} for name, node in prompt.items()}


def test_pressing_run_makes_the_promised_pictures(
    browser: Browser, server: LiveServer, shipped_workflow: Path, classify
):
    workflow = quickened(read(shipped_workflow), server.object_info())
    checks = workflow["extra"]["checks"]
    assert checks, "support/workflow_checks.json must say what the images show"
    server.forget()
    browser.load(workflow)
    prompt = browser.prompt()
    shown = by_title(prompt, server.images(server.wait(browser.run(), RUN_LIMIT)))
    for title, check in checks.items():
        assert shown.get(title), f"No node titled {title!r} showed a picture; these did: {sorted(shown)}"
        for png in shown[title] if check else []:  # curves hold no object, a sheet of tiles no one object
            problems = complaints(classify(png), check)
            assert not problems, f"{title}: {'; '.join(problems)}"
    browser.wait_for_pictures()
    assert not overlapping(browser), "after the run, with the pictures shown"
    assert not browser.errors


def test_a_workflow_for_the_users_files_lacks_nothing_but_files(server: LiveServer, foreign_workflow: Path):
    """The server may object to file names it does not have, and to nothing else."""
    prompt = to_prompt(read(foreign_workflow), server.object_info())
    with pytest.raises(ServerError) as refused:
        server.submit(prompt)
    problems = [line.strip() for line in str(refused.value).splitlines()[1:]]
    assert problems
    assert all("Value not in list" in problem or "there is no SAE file" in problem for problem in problems), problems
