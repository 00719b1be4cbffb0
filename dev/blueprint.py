"""Write the subgraph blueprint that ComfyUI's sidebar offers: ``python dev/host dev.blueprint``.

It is built from the nodes' own descriptions, so that it cannot lag behind them; a test compares.
"""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import tomllib
from workflow import all_inputs, widget_names

from .workflows import default

ROOT = Path(__file__).resolve().parents[1]
TITLE = "Erase a concept"
FILE = ROOT / "subgraphs" / f"{TITLE}.json"
DESCRIPTION = "Generates the same image without a concept. Put it between the checkpoint's model and the KSampler."
# Kept for good: workflows of users refer to it.
IDENTITY = uuid.UUID("3f0e7c52-91d4-4d0b-9c56-6f4a4b1f2e07")
INPUT_NODE, OUTPUT_NODE = -10, -20  # as LiteGraph numbers the two ends of a subgraph
LOADER, DETECTOR, REPLACER = (f"ConceptErasure{name}" for name in ("SAELoader", "ConceptDetector", "PatchReplacer"))
ORDER = (LOADER, DETECTOR, REPLACER)
# Node and input that an input of the subgraph leads to; those with a widget show it on the subgraph's face.
FACE = (
    (REPLACER, "model"),
    (REPLACER, "fill"),
    (LOADER, "sae_file"),
    (DETECTOR, "concept"),
    (DETECTOR, "sensitivity"),
)
INSIDE = ((LOADER, "sae", DETECTOR, "sae"), (DETECTOR, "detection", REPLACER, "detection"))
RESULTS = ("model", "record")
# Lists of files begin with whatever a machine holds.
CHOSEN = {"sae_file": "shipped/canvas_output_blocks.1.1.safetensors", "concept": "cat"}
WIDTH, STEP, ROW = 330, 380, 24
Json = dict[str, Any]


class Part:
    """One node inside the subgraph.

    Args:
        number: its id, from 1.
        info: description in the form of ``/object_info``.
        properties: what the node carries beside its name.
    """

    def __init__(self, number: int, info: Json, properties: Json) -> None:
        kind = info["name"]
        listed = [(name, spec, widget_names(name, spec)) for name, spec in all_inputs(info)]
        sockets = [(name, spec) for name, spec, names in listed if not names]
        widgets = [(name, spec) for name, spec, names in listed if names]
        optional = info["input"].get("optional", {})
        self.defaults = {name: CHOSEN.get(name, default(spec)) for name, spec in widgets}
        self.slots: list[Json] = []
        for name, spec in [*sockets, *widgets]:
            slot = {"localized_name": name, "name": name, "type": kind_of(spec), "link": None}
            slot |= {"shape": 7} if name in optional else {}
            self.slots.append(slot | ({"widget": {"name": name}} if name in self.defaults else {}))
        self.outputs = [
            {"localized_name": name, "name": name, "type": type_, "links": []}
            for name, type_ in zip(info["output_name"], info["output"], strict=True)
        ]
        self.json: Json = {
            "id": number,
            "type": kind,
            "pos": [(number - 1) * STEP, 0],
            "size": [WIDTH, ROW * (2 + len(self.slots))],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": self.slots,
            "outputs": self.outputs,
            "properties": {"Node name for S&R": kind, **properties},
            "widgets_values": list(self.defaults.values()),
        }

    def place(self, name: str) -> int:
        """Return the number of an input."""
        return next(i for i, slot in enumerate(self.slots) if slot["name"] == name)

    def output_place(self, name: str) -> int:
        """Return the number of an output."""
        return next(i for i, slot in enumerate(self.outputs) if slot["name"] == name)


def kind_of(spec: list[Any]) -> str:
    """Return the type of an input's socket."""
    return "COMBO" if isinstance(spec[0], list) else str(spec[0])


def blueprint(kinds: dict[str, Json], properties: Json) -> Json:
    """Return the workflow that holds the subgraph as its only node.

    Args:
        kinds: descriptions by node id, in the form of ``/object_info``.
        properties: the pack's name and version, as nodes carry them.
    """
    parts = {name: Part(number, kinds[name], properties) for number, name in enumerate(ORDER, 1)}
    links: list[Json] = []
    inputs, face = [], []
    for place, (kind, name) in enumerate(FACE):
        part = parts[kind]
        slot = part.slots[part.place(name)]
        link = connect(links, (INPUT_NODE, place), (part.json["id"], part.place(name)), slot["type"])
        slot["link"] = link
        inputs.append({**described(name, slot["type"], [link]), "pos": [-160, 20 + 20 * place]})
        widget = {"widget": {"name": name}} if name in part.defaults else {}
        face.append({"name": name, "type": slot["type"], **widget, "link": None})
    for source, output, target, name in INSIDE:
        ends = parts[source], parts[target]
        slot = ends[1].slots[ends[1].place(name)]
        start = ends[0].json["id"], ends[0].output_place(output)
        slot["link"] = connect(links, start, (ends[1].json["id"], ends[1].place(name)), slot["type"])
        ends[0].outputs[start[1]]["links"].append(slot["link"])
    outputs, results = [], []
    for place, name in enumerate(RESULTS):
        part = parts[REPLACER]
        out = part.outputs[part.output_place(name)]
        link = connect(links, (part.json["id"], part.output_place(name)), (OUTPUT_NODE, place), out["type"])
        out["links"].append(link)
        outputs.append({**described(name, out["type"], [link]), "pos": [STEP * 3 + 20, 20 + 20 * place]})
        results.append({"name": name, "type": out["type"], "links": []})
    shown = [(kind, name) for kind, name in FACE if name in parts[kind].defaults]
    return {
        "revision": 0,
        "last_node_id": len(ORDER) + 1,
        "last_link_id": 0,
        "nodes": [
            {
                "id": len(ORDER) + 1,
                "type": str(IDENTITY),
                "pos": [0, 0],
                "size": [WIDTH, ROW * (2 + len(FACE))],
                "flags": {},
                "order": 0,
                "mode": 0,
                "inputs": face,
                "outputs": results,
                "title": TITLE,
                "properties": {"proxyWidgets": [["-1", name] for _, name in shown], **properties},
                "widgets_values": [parts[kind].defaults[name] for kind, name in shown],
            }
        ],
        "links": [],
        "groups": [],
        "version": 0.4,
        "definitions": {
            "subgraphs": [
                {
                    "id": str(IDENTITY),
                    "version": 1,
                    "state": {
                        "lastGroupId": 0,
                        "lastNodeId": len(ORDER) + 1,
                        "lastLinkId": len(links),
                        "lastRerouteId": 0,
                    },
                    "revision": 0,
                    "config": {},
                    "name": TITLE,
                    "inputNode": {"id": INPUT_NODE, "bounding": [-200, 0, 120, 40 + 20 * len(FACE)]},
                    "outputNode": {"id": OUTPUT_NODE, "bounding": [STEP * 3, 0, 120, 40 + 20 * len(RESULTS)]},
                    "inputs": inputs,
                    "outputs": outputs,
                    "widgets": [],
                    "nodes": [part.json for part in parts.values()],
                    "groups": [],
                    "links": links,
                    "extra": {},
                    "description": DESCRIPTION,
                }
            ]
        },
        "extra": {},
    }


def described(name: str, kind: str, links: list[int]) -> Json:
    """Return an input or output of the subgraph."""
    return {"id": str(uuid.uuid5(IDENTITY, name)), "name": name, "type": kind, "linkIds": links}


def connect(links: list[Json], start: tuple[int, int], end: tuple[int, int], kind: str) -> int:
    """Append a link and return its number."""
    number = len(links) + 1
    ends = dict(zip(("origin_id", "origin_slot", "target_id", "target_slot"), (*start, *end), strict=True))
    links.append({"id": number, **ends, "type": kind})
    return number


def descriptions() -> dict[str, Json]:
    """Return the pack's nodes in the form of ``/object_info``."""
    from ..nodes import ConceptErasureExtension

    nodes = asyncio.run(ConceptErasureExtension().get_node_list())
    return {
        node.GET_SCHEMA().node_id: {
            "name": node.GET_SCHEMA().node_id,
            "input": node.INPUT_TYPES(),
            "output": node.RETURN_TYPES,
            "output_name": node.RETURN_NAMES,
        }
        for node in nodes
    }


def made() -> str:
    """Return the file's content."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    properties = {"cnr_id": project["name"], "ver": project["version"]}
    return json.dumps(blueprint(descriptions(), properties), indent=2) + "\n"


def main() -> None:
    """Write the file."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
