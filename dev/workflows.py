"""Bring the workflow files up to the nodes: widgets, the pack that a node comes from, and where public files are.

``python dev/host dev.workflows`` does it; tests fail where a file lags behind. A widget that is new, and the last
of its node, gets its default.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from workflow import all_inputs, widget_names

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same as tomli
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
Json = dict[str, Any]
# Public files that a workflow begins with. The frontend offers to download those that are missing.
PUBLIC_FILES = {
    name: {"name": name, "url": f"https://huggingface.co/{folder}/resolve/main/{name}", "directory": "checkpoints"}
    for name, folder in {
        "v1-5-pruned-emaonly-fp16.safetensors": "Comfy-Org/stable-diffusion-v1-5-archive",
        "sd_xl_base_1.0.safetensors": "stabilityai/stable-diffusion-xl-base-1.0",
    }.items()
}


def main() -> None:
    """Write the files."""
    kinds, pack = descriptions(), identity()
    for path in sorted((ROOT / "workflows").glob("*.json")):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        for node in workflow["nodes"]:
            files = [PUBLIC_FILES[value] for value in values_of(node) if value in PUBLIC_FILES]
            if files:
                node["properties"]["models"] = files
            if node["type"] in kinds:
                update(node, kinds[node["type"]])
                node["properties"] |= pack
        path.write_text(json.dumps(workflow, indent=2) + "\n", encoding="utf-8")


def descriptions() -> dict[str, Json]:
    """Return the pack's nodes by id, in the form of ``/object_info``."""
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


def identity() -> Json:
    """Return the properties by which a node says which pack it comes from."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"cnr_id": project["name"], "ver": project["version"]}


def values_of(node: Json) -> list[str]:
    """Return the words among a node's widget values."""
    return [value for value in node.get("widgets_values") or [] if isinstance(value, str)]


def update(node: Json, info: Json) -> None:
    """Bring one node up to its description, in the form of ``/object_info``, with ``output_name``."""
    for slot, name in zip(node.get("outputs", []), info["output_name"], strict=True):
        slot |= {"name": name, "localized_name": name}
    listed = [(name, spec, widget_names(name, spec)) for name, spec in all_inputs(info)]
    widgets = [(name, spec) for name, spec, names in listed if names]
    values = node.get("widgets_values") or []
    missing = sum(len(names) for _, _, names in listed) - len(values)
    if widgets:
        node["widgets_values"] = [*values, *(default(spec) for _, spec in widgets[len(widgets) - max(0, missing) :])]
    old = [slot for slot in node.get("inputs", []) if "widget" in slot]
    for index, (name, spec) in enumerate(widgets):
        if index < len(old):
            old[index] |= {"name": name, "localized_name": name, "widget": {"name": name}}
        else:
            kind = "COMBO" if isinstance(spec[0], list) else spec[0]
            slot = {"localized_name": name, "name": name, "type": kind, "widget": {"name": name}, "link": None}
            node["inputs"].append(slot)


def default(spec: list[Any]) -> Any:
    """Return the value that a widget has in a new node."""
    options = spec[1] if len(spec) > 1 else {}
    listed = spec[0] if isinstance(spec[0], list) else options.get("options")
    return options.get("default", listed[0] if listed else "")
