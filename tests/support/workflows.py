"""The pack's workflow files, and running them on a server without a browser."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from load import ROOT
from PIL import Image
from workflow import all_inputs, widget_names

# What makes a node that works for minutes quick enough for a test; everything else is as shipped. Where its SAE is to
# erase something, it has to be as good as it is.
QUICK = {"ConceptErasureSAETrainer": {"pictures": 40, "steps": 4, "train_steps": 20}}

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    """Return a workflow file's JSON."""
    workflow: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return workflow


def quickened(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a workflow in which the nodes of `QUICK` have their quick values, unless it erases."""
    copy: dict[str, Any] = json.loads(json.dumps(workflow))
    if any(node["type"] == "ConceptErasurePatchReplacer" for node in copy["nodes"]):
        return copy
    for node in copy["nodes"]:
        if node["type"] in QUICK:
            names = [name for pair in all_inputs(object_info[node["type"]]) for name in widget_names(*pair)]
            for name, value in QUICK[node["type"]].items():
                node["widgets_values"][names.index(name)] = value
    return copy


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
