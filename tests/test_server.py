"""The pack in a running ComfyUI server, over HTTP."""

import json
import re
from typing import Any

import pytest
import torch
from live_server import LiveServer, ServerError, cached_nodes, failure
from load import DYNAMIC, ROOT, options
from support.demo_model import SMALL_SIDE
from support.nodes import NODES
from support.workflows import by_title, complaints, quickened, read, to_tensor
from workflow import to_prompt

GRAY = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 32, "height": 32, "batch_size": 2, "color": 8421504},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}

GROUPS = ("load", "find a concept", "detect and edit", "inspect", "train")


def test_the_server_runs_a_stock_graph(server: LiveServer):
    images = server.run(GRAY)
    assert [image[:4] for image in images["2"]] == [b"\x89PNG", b"\x89PNG"]


def test_a_refused_prompt_names_node_and_input(server: LiveServer):
    wrong = json.loads(json.dumps(GRAY))
    wrong["1"]["inputs"]["width"] = -4
    with pytest.raises(ServerError, match=r"EmptyImage \(1\).*width"):
        server.run(wrong)


def test_every_node_is_there(server: LiveServer):
    ours = {name: info for name, info in server.object_info().items() if name.startswith("ConceptErasure")}
    assert {name: info["display_name"] for name, info in ours.items()} == NODES
    groups = {info["category"] for info in ours.values()}
    assert groups == {f"SAE concept erasure/{name}" for name in GROUPS}


def test_the_pack_loads_without_complaint(server: LiveServer):
    assert "IMPORT FAILED): " not in server.log()
    assert "comfy_entrypoint in" not in server.log()


@pytest.mark.skipif(DYNAMIC not in options(), reason=f"COMFYUI_OPTIONS lacks {DYNAMIC}")
def test_dynamic_memory_is_on(server: LiveServer):
    assert "DynamicVRAM support detected and enabled" in server.log()


def test_every_workflow_runs(server: LiveServer, shipped_workflow):
    """Quickly; what it shows is judged in the browser, where it runs as an artist would run it."""
    info = server.object_info()
    images = server.run(to_prompt(quickened(read(shipped_workflow), info, judged=False), info))
    assert images and all(images.values())


@pytest.mark.research
@pytest.mark.parametrize("name", ["find_concept", "concept_from_mask", "from_scratch"])
def test_what_is_learnt_or_found_in_full_is_erased(server: LiveServer, classify, name: str):
    """The workflows that take minutes, with every value as shipped; the browser runs them with fewer images."""
    workflow = read(ROOT / "workflows" / f"{name}.json")
    prompt = to_prompt(workflow, server.object_info())
    shown = by_title(prompt, server.run(prompt, limit=500.0))
    for title, check in workflow["extra"]["checks"].items():
        (png,) = shown[title]
        assert not complaints(classify(png), check), title


@pytest.fixture
def computed(server: LiveServer, quickstart_prompt: dict[str, Any]) -> dict[str, list[bytes]]:
    """The quickstart's pictures, computed once."""
    return run_anew(server, quickstart_prompt)


def test_the_same_workflow_twice_gives_the_same_picture(server: LiveServer, quickstart_prompt, computed):
    assert_same_pictures(run_anew(server, quickstart_prompt), computed)


def test_an_interrupt_leaves_the_next_run_clean(server: LiveServer, quickstart_prompt, computed):
    server.forget()
    prompt_id = server.submit(with_steps(quickstart_prompt, 2000))
    interrupt_while_sampling(server, prompt_id)
    entry = server.wait(prompt_id)
    assert failure(entry).startswith("Interrupted in KSampler"), failure(entry)
    assert_same_pictures(run_anew(server, quickstart_prompt), computed)


def run_anew(server: LiveServer, prompt: dict) -> dict[str, list[bytes]]:
    """Run a prompt with nothing taken from the server's cache."""
    for _ in range(5):
        server.forget()
        entry = server.wait(server.submit(prompt))
        # On a busy machine the server may take the prompt before it has forgotten.
        if not cached_nodes(entry):
            return server.images(entry)
    raise AssertionError(f"the server still remembers {cached_nodes(entry)}")


def assert_same_pictures(found: dict[str, list[bytes]], expected: dict[str, list[bytes]]) -> None:
    """Compare the pictures of two runs by their pixels."""
    assert found.keys() == expected.keys()
    for node in expected:
        pairs = zip(found[node], expected[node], strict=True)
        assert all(torch.equal(to_tensor(one), to_tensor(other)) for one, other in pairs), f"node {node} changed"


def with_steps(prompt: dict, steps: int) -> dict:
    """Return a copy whose erasing sampler takes more steps than anyone waits for."""
    changed = json.loads(json.dumps(prompt))
    for node in changed.values():
        if node["class_type"] == "KSampler" and changed[node["inputs"]["model"][0]]["class_type"].endswith("Replacer"):
            node["inputs"]["steps"] = steps
    return changed


def interrupt_while_sampling(server: LiveServer, prompt_id: str) -> None:
    """Interrupt a prompt once its long sampler has shown progress; ComfyUI stops it at the next step."""
    # Its progress bar is written over one line: "3%| ... | 61/2000".
    server.wait_until(lambda: bool(re.search(r"[1-9]\d*/2000", server.log())), "the prompt samples", 120)
    server.post("/interrupt", {"prompt_id": prompt_id})


def listed(server: LiveServer, node: str, name: str) -> list[str]:
    """Return what an input of a node offers now."""
    options: list[str] = server.get("/object_info")[node]["input"]["required"][name][1]["options"]
    return options


def test_an_sae_is_saved_listed_and_loaded(server: LiveServer):
    def options() -> list[str]:
        return listed(server, "ConceptErasureSAELoader", "sae_file")

    prompt = {
        "1": {"class_type": "ConceptErasureSAELoader", "inputs": {"sae_file": options()[0]}},
        "2": {
            "class_type": "ConceptErasureSaveSAE",
            "inputs": {"sae": ["1", 0], "name": "kept", "weights": "as in its file", "overwrite": False},
        },
    }
    entry = server.wait(server.submit(prompt))
    assert entry["status"]["status_str"] == "success" and "20 concepts" in entry["outputs"]["2"]["text"][0]
    assert "kept.safetensors" in options()
    prompt["1"]["inputs"]["sae_file"], prompt["2"]["inputs"]["name"] = "kept.safetensors", "kept"
    assert "Save SAE: kept.safetensors is there already" in failure(server.wait(server.submit(prompt)))


def test_an_sae_is_trained_interrupted_and_trained_on(server: LiveServer):
    info = server.object_info()["ConceptErasureSAETrainer"]["input"]
    inputs = {name: spec[1].get("default") for name, spec in info["required"].items()}
    inputs |= {"model": ["1", 0], "clip": ["1", 1], "latent": ["2", 0], "name": "trained", "features": 256, "k": 8}
    inputs |= {"images": 40, "steps": 4, "train_steps": 1_000_000}
    prompt = {
        "1": {"class_type": "ConceptErasureCanvasCheckpoint", "inputs": {}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": SMALL_SIDE, "height": SMALL_SIDE, "batch_size": 8}},
        "3": {"class_type": "ConceptErasureSAETrainer", "inputs": inputs},
    }
    prompt_id = server.submit(prompt)
    kept = server.folder / "output" / "sae_training"
    server.wait_until(lambda: any(kept.glob("trained-*/**/*.safetensors")), "the SAE Trainer has stored patches")
    server.post("/interrupt", {"prompt_id": prompt_id})
    assert failure(server.wait(prompt_id)).startswith("Interrupted in ConceptErasureSAETrainer")
    inputs["train_steps"] = 20
    entry = server.wait(server.submit(prompt))
    assert entry["status"]["status_str"] == "success", failure(entry)
    assert "trained.safetensors: 256 features" in entry["outputs"]["3"]["text"][0]
    assert server.images(entry)["3"], "the curves are shown"
    again = server.wait(server.submit(prompt))
    assert "3" in cached_nodes(again), "what is trained is not trained again"


def test_a_concept_is_saved_listed_and_detected_with(server: LiveServer):
    def options() -> list[str]:
        return listed(server, "ConceptErasureConceptDetector", "concept")

    detector = {"start_percent": 0.0, "end_percent": 1.0, "sensitivity": 1.0, "features": "", "join_mode": "union"}
    detector["more_concepts"] = ""
    shipped = listed(server, "ConceptErasureSAELoader", "sae_file")
    prompt = {
        "1": {"class_type": "ConceptErasureSAELoader", "inputs": {"sae_file": shipped[0]}},
        "2": {"class_type": "ConceptErasureConceptDetector", "inputs": {"sae": ["1", 0], "concept": "cat", **detector}},
        "3": {
            "class_type": "ConceptErasureSaveConcept",
            "inputs": {"concept": ["2", 1], "name": "mine", "feature_names": "", "overwrite": True},
        },
    }
    entry = server.wait(server.submit(prompt))
    assert entry["status"]["status_str"] == "success" and "'cat'" in entry["outputs"]["3"]["text"][0]
    assert "concepts/mine.safetensors" in options()
    prompt["2"]["inputs"]["concept"], prompt["3"]["inputs"]["name"] = "concepts/mine.safetensors", "again"
    assert server.wait(server.submit(prompt))["status"]["status_str"] == "success"
    prompt["1"]["inputs"]["sae_file"] = shipped[1]
    said = failure(server.wait(server.submit(prompt)))
    assert "made for another SAE" in said and shipped[0] in said and shipped[1] in said
