"""Turn a workflow as the frontend saves it into the prompt that the server runs.

The frontend does this in the browser when Run is pressed; this is the part of it that the demo and the tests
need without a browser. A browser test compares the two on every workflow of the pack.
"""

from typing import Any

MUTED, BYPASSED = 2, 4
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTES = ("Note", "MarkdownNote")
SEEDS = ("seed", "noise_seed")

Json = dict[str, Any]
Link = tuple[int, int]


def to_prompt(workflow: Json, object_info: Json) -> Json:
    """Convert a workflow in UI format to a prompt in API format.

    Args:
        workflow: the parsed ``.json`` file. Muted and bypassed nodes and notes are understood; reroutes,
            primitives and subgraphs are not.
        object_info: the server's ``/object_info``.

    Raises:
        ValueError: a node the server does not know, or widget values that do not fit its inputs.
    """
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] not in NOTES}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    prompt = {}
    for node in nodes.values():
        if node["type"] not in object_info:
            raise ValueError(f"Node {node['id']} is of type {node['type']!r}, which this server does not have.")
        if node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        info = object_info[node["type"]]
        inputs = widget_values(node, info) | linked_inputs(node, nodes, links)
        title = node.get("title") or info["display_name"] or node["type"]
        prompt[str(node["id"])] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}
    return prompt


def widget_values(node: Json, info: Json) -> Json:
    """Return the node's widget values by input name."""
    names = [name for name, spec in all_inputs(info) for name in widget_names(name, spec)]
    values = node.get("widgets_values") or []
    if len(values) != len(names):
        raise ValueError(f"Node {node['id']} ({node['type']}) has {len(values)} widget values for {names}.")
    return {name: value for name, value in zip(names, values, strict=True) if name}


def all_inputs(info: Json) -> list[tuple[str, list[Any]]]:
    """Return (name, specification) of every input, in the order the frontend lays them out."""
    groups = (info["input"].get(group) or {} for group in ("required", "optional"))
    return [(name, spec) for group in groups for name, spec in group.items()]


def widget_names(name: str, spec: list[Any]) -> list[str]:
    """Return the names of the widgets that an input makes; "" for one that is saved but never sent.

    A seed is followed by "control after generate", a file choice by its upload button.
    """
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if not (isinstance(kind, list) or kind in WIDGET_TYPES) or options.get("forceInput"):
        return []
    controlled = options.get("control_after_generate", kind == "INT" and name in SEEDS)
    extra = controlled or any(options.get(f"{media}_upload") for media in ("image", "video", "audio"))
    return [name, ""] if extra else [name]


def linked_inputs(node: Json, nodes: dict[int, Json], links: dict[int, Link]) -> Json:
    """Return [node id, output index] by name for each input whose link leads to a node that runs."""
    found = {}
    for slot in node.get("inputs") or []:
        source = resolve(links.get(slot.get("link")), nodes, links)
        if source:
            found[slot["name"]] = [str(source[0]), source[1]]
    return found


def resolve(source: Link | None, nodes: dict[int, Json], links: dict[int, Link]) -> Link | None:
    """Follow a link back through bypassed nodes; None where it ends at a muted node or nowhere."""
    while source:
        node = nodes[source[0]]
        mode = node.get("mode", 0)
        if mode == MUTED:
            return None
        if mode != BYPASSED:
            return source
        source = passed_through(node, source[1], links)
    return None


def passed_through(node: Json, index: int, links: dict[int, Link]) -> Link | None:
    """Return what a bypassed node hands on at output ``index``: the source of an input of its type."""
    kind = node["outputs"][index]["type"]
    slots = node.get("inputs") or []
    same_place = slots[index : index + 1]
    for slot in [*same_place, *slots]:
        if slot["type"] == kind:
            return links.get(slot.get("link"))
    return None
