"""Write the subgraph blueprint that ComfyUI's sidebar offers: ``python dev/host dev.blueprint``.

It is built from the nodes' own descriptions, so that it cannot lag behind them; a test compares.
"""

import json
import uuid
from typing import Any

from workflow import all_inputs, widget_names

from ..nodes.files import SHIPPED_PREFIX
from ..sae_models import shipped
from .workflows import ROOT, default, descriptions, identity

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
CHOSEN = {"sae_file": SHIPPED_PREFIX + shipped.file_name(), "concept": "cat"}
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


def place(listed: list[Json], name: str) -> int:
    """Return the number of an input or output."""
    return next(i for i, each in enumerate(listed) if each["name"] == name)


def kind_of(spec: list[Any]) -> str:
    """Return the type of an input's socket."""
    return "COMBO" if isinstance(spec[0], list) else str(spec[0])


class Subgraph:
    """The parts, wired to each other and to the two ends.

    Args:
        kinds: descriptions by node id, in the form of ``/object_info``.
        properties: the pack's name and version, as nodes carry them.

    Attributes:
        inputs, outputs: of the subgraph, seen from inside.
        face, results: the same, seen from outside.
    """

    def __init__(self, kinds: dict[str, Json], properties: Json) -> None:
        self.parts = {name: Part(number, kinds[name], properties) for number, name in enumerate(ORDER, 1)}
        self.links: list[Json] = []
        self.inputs, self.face = zip(*(self._input(i, *each) for i, each in enumerate(FACE)), strict=True)
        for each in INSIDE:
            self._join(*each)
        self.outputs, self.results = zip(*(self._output(i, name) for i, name in enumerate(RESULTS)), strict=True)

    def _connect(self, start: tuple[int, int], end: tuple[int, int], kind: str) -> int:
        """Append a link and return its number."""
        number = len(self.links) + 1
        ends = dict(zip(("origin_id", "origin_slot", "target_id", "target_slot"), (*start, *end), strict=True))
        self.links.append({"id": number, **ends, "type": kind})
        return number

    def _lead(self, start: tuple[int, int], part: Part, name: str) -> Json:
        """Lead a link into an input of a part, and return the input."""
        number = place(part.slots, name)
        slot = part.slots[number]
        slot["link"] = self._connect(start, (part.json["id"], number), slot["type"])
        return slot

    def _input(self, number: int, kind: str, name: str) -> tuple[Json, Json]:
        """Make an input of the subgraph."""
        part = self.parts[kind]
        slot = self._lead((INPUT_NODE, number), part, name)
        widget = {"widget": {"name": name}} if name in part.defaults else {}
        inside = described(name, slot["type"], slot["link"], -160, number)
        return inside, {"name": name, "type": slot["type"], **widget, "link": None}

    def _join(self, source: str, output: str, target: str, name: str) -> None:
        """Lead an output of one part into an input of another."""
        part = self.parts[source]
        number = place(part.outputs, output)
        slot = self._lead((part.json["id"], number), self.parts[target], name)
        part.outputs[number]["links"].append(slot["link"])

    def _output(self, number: int, name: str) -> tuple[Json, Json]:
        """Make an output of the subgraph out of one of the replacer's."""
        part = self.parts[REPLACER]
        own = place(part.outputs, name)
        out = part.outputs[own]
        link = self._connect((part.json["id"], own), (OUTPUT_NODE, number), out["type"])
        out["links"].append(link)
        inside = described(name, out["type"], link, STEP * 3 + 20, number)
        return inside, {"name": name, "type": out["type"], "links": []}

    def definition(self) -> Json:
        """Return what a workflow holds below ``definitions``."""
        counts = {"lastGroupId": 0, "lastNodeId": len(ORDER) + 1, "lastLinkId": len(self.links), "lastRerouteId": 0}
        return {
            "id": str(IDENTITY),
            "version": 1,
            "state": counts,
            "revision": 0,
            "config": {},
            "name": TITLE,
            "inputNode": {"id": INPUT_NODE, "bounding": [-200, 0, 120, 40 + 20 * len(FACE)]},
            "outputNode": {"id": OUTPUT_NODE, "bounding": [STEP * 3, 0, 120, 40 + 20 * len(RESULTS)]},
            "inputs": self.inputs,
            "outputs": self.outputs,
            "widgets": [],
            "nodes": [part.json for part in self.parts.values()],
            "groups": [],
            "links": self.links,
            "extra": {},
            "description": DESCRIPTION,
        }

    def node(self, properties: Json) -> Json:
        """Return the node that stands for the subgraph."""
        shown = {name: self.parts[kind].defaults[name] for kind, name in FACE if name in self.parts[kind].defaults}
        return {
            "id": len(ORDER) + 1,
            "type": str(IDENTITY),
            "pos": [0, 0],
            "size": [WIDTH, ROW * (2 + len(FACE))],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": self.face,
            "outputs": self.results,
            "title": TITLE,
            "properties": {"proxyWidgets": [["-1", name] for name in shown], **properties},
            "widgets_values": list(shown.values()),
        }


def described(name: str, kind: str, link: int, x: int, number: int) -> Json:
    """Return an input or output of the subgraph, at its place in the list."""
    identity = str(uuid.uuid5(IDENTITY, name))
    return {"id": identity, "name": name, "type": kind, "linkIds": [link], "pos": [x, 20 + 20 * number]}


def made() -> str:
    """Return the file's content: a workflow that holds the subgraph as its only node."""
    properties = identity()
    subgraph = Subgraph(descriptions(), properties)
    workflow = {
        "revision": 0,
        "last_node_id": len(ORDER) + 1,
        "last_link_id": 0,
        "nodes": [subgraph.node(properties)],
        "links": [],
        "groups": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph.definition()]},
        "extra": {},
    }
    return json.dumps(workflow, indent=2) + "\n"


def main() -> None:
    """Write the file."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(made(), encoding="utf-8")
