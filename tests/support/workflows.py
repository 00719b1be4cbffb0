"""The pack's workflow files, and running them on a server without a browser."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from load import ROOT
from PIL import Image
from workflow import NOTES, all_inputs, widget_names

from .demo_model import SMALL_SIDE

TRAINER = "ConceptErasureSAETrainer"
# What makes a node that works for long quick enough for a test; everything else is as shipped. Where no judged image
# depends on it:
QUICK = {
    TRAINER: {"images": 40, "steps": 4, "train_steps": 20},
    "ConceptErasureConceptFinder": {"timestep_bands": 2, "images": 4, "steps": 4},
    "ConceptErasureConceptFromMask": {
        "timestep_bands": 2,
        "noise_samples": 2,
        "contrast_images": 4,
        "extra_images": 2,
        "steps": 4,
    },
    "ConceptErasureFeatureExplorer": {"steps": 2},
    "EmptyLatentImage": {"width": SMALL_SIDE, "height": SMALL_SIDE},
    "KSampler": {"steps": 2},
}
# And where one does: the concept is found from fewer images and the image has fewer steps, and it must still be erased.
SHORT = {
    "ConceptErasureConceptFinder": {"timestep_bands": 3, "images": 8, "steps": 6},
    "ConceptErasureConceptFromMask": {
        "timestep_bands": 3,
        "noise_samples": 4,
        "contrast_images": 8,
        "extra_images": 2,
        "steps": 6,
    },
    "KSampler": {"steps": 12},
}

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


# By workflow and by the title of the node that shows it: which objects an image has, and which it lacks.
CHECKS: dict[str, Any] = json.loads(Path(__file__).with_name("workflow_checks.json").read_text(encoding="utf-8"))


def read(path: Path) -> dict[str, Any]:
    """Return a workflow file's JSON, with what its images must show at ``extra.checks``."""
    workflow: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    workflow["extra"]["checks"] = CHECKS.get(path.stem, {})
    return workflow


def quickened(workflow: dict[str, Any], object_info: dict[str, Any], judged: bool = True) -> dict[str, Any]:
    """Return a copy of a workflow in which long work is short, most of all where no judged picture depends on it.

    Training is as short everywhere: what an SAE that has seen 20 batches finds is shown, and its check says nothing.

    Args:
        workflow: the parsed file.
        object_info: the server's ``/object_info``.
        judged: whether what its pictures show is asked for at all; if not, every check says nothing.
    """
    copy: dict[str, Any] = json.loads(json.dumps(workflow))
    checks, untrained = copy["extra"]["checks"], reached(copy, TRAINER)
    titles = {node["id"]: node.get("title") or object_info[node["type"]]["display_name"] for node in known(copy)}
    for number in titles if not judged else untrained:
        if titles[number] in checks:
            checks[titles[number]] = {}
    judged_nodes = [number for number, title in titles.items() if any(checks.get(title, {}).values())]
    needed = followed(copy, judged_nodes, backwards=True)
    for node in known(copy):
        shorter = SHORT if node["id"] in needed and node["type"] != TRAINER else QUICK
        give(node, object_info, shorter.get(node["type"], {}))
    return copy


def give(node: dict[str, Any], object_info: dict[str, Any], values: dict[str, Any]) -> None:
    """Give widgets of a node other values."""
    names = [name for pair in all_inputs(object_info[node["type"]]) for name in widget_names(*pair)]
    for name, value in values.items():
        node["widgets_values"][names.index(name)] = value


def known(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes that the server runs: all but notes."""
    return [node for node in workflow["nodes"] if node["type"] not in NOTES]


def reached(workflow: dict[str, Any], kind: str) -> set[int]:
    """Return the nodes of a type, and all that come after them."""
    return followed(workflow, [node["id"] for node in workflow["nodes"] if node["type"] == kind])


def followed(workflow: dict[str, Any], start: list[int], backwards: bool = False) -> set[int]:
    """Return the ids of some nodes and of all that links lead to from them, or come to them from."""
    found, waiting = set(), list(start)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            ends = [(link[3], link[1]) if backwards else (link[1], link[3]) for link in workflow["links"]]
            waiting += [there for here, there in ends if here == one]
    return found


def runs_as_shipped(path: Path) -> bool:
    """Return whether the workflow gets its model from the pack, so that it needs no files of the user's."""
    return any(node["type"] == "ConceptErasureCanvasCheckpoint" for node in read(path)["nodes"])


def by_title(prompt: dict[str, Any], images: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
    """Rename the outputs of a prompt from node ids to node titles.

    Raises:
        AssertionError: two output nodes share a title, which the checks could not tell apart.
    """
    titles = [prompt[node]["_meta"]["title"] for node in images]
    assert len(set(titles)) == len(titles), f"Two output nodes share a title: {titles}"
    return dict(zip(titles, images.values(), strict=True))


def to_tensor(png: bytes) -> torch.Tensor:
    """Decode a PNG file to float [1, H, W, 3] in 0..1, as ComfyUI holds images."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255.0)[None]


def complaints(found: dict[str, float], check: dict[str, list[str]]) -> list[str]:
    """Compare what the classifier found with a workflow's check.

    Args:
        found: probability of each object.
        check: ``has`` and ``lacks``, lists of objects; either may be missing.
    """
    unknown = [name for name in [*check.get("has", []), *check.get("lacks", [])] if name not in found]
    return (
        [f"{name!r} is no object the classifier knows" for name in unknown]
        + [f"no {name} ({found[name]:.2f})" for name in check.get("has", []) if found.get(name, 1.0) < 0.5]
        + [f"still {name} ({found[name]:.2f})" for name in check.get("lacks", []) if found.get(name, 0.0) >= 0.5]
    )
