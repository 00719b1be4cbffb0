"""Values that come by a link: what an input does not allow is refused by name, before the node does anything."""

import asyncio
import json
import math
import re

import numpy as np
import pytest
import torch
from live_server import LiveServer, failure
from load import ROOT
from support.demo_model import SMALL_SIDE, latents
from support.graphs import base, empty, node, replacer
from support.nodes import NODES

HUGE = 10**400
NUMBERS = [math.nan, math.inf, -math.inf, HUGE, -HUGE, True, "1", "", None, [1], np.float32("nan"), torch.ones(1)]
WRONG = {
    "INT": [*NUMBERS, 2.5, 2.0, np.float64(2), np.bool_(True)],
    "FLOAT": [*NUMBERS, np.float64("inf"), np.bool_(False)],
    "STRING": [None, 3, 0.5, True, b"cat", ["cat"], {}, np.int64(3)],
    "BOOLEAN": [None, 0, 1, 0.0, "true", "", []],
    "COMBO": ["", "no such option", None, 0, True, ["cat"], np.array(["a", "b"]), torch.ones(2)],
}
# What the node itself says of a name that no file has.
NO_FILE = ["", "no such file", "../no such file"]
NO_OBJECT = ["text", 3, {}, [], [1], {"samples": None}, object(), torch.ones(2, 2, dtype=torch.complex64)]
# A shape that a node of masks cannot use, it explains itself.
TENSORS = {"IMAGE", "MASK"}


@pytest.fixture(scope="module")
def classes(pack):
    """Every node by id."""
    from concept_erasure.nodes import ConceptErasureExtension

    found = asyncio.run(ConceptErasureExtension().get_node_list())
    return {one.define_schema().node_id: one for one in found}


@pytest.fixture(scope="module")
def objects(classes, canvas):
    """What comes by a socket, as it should be."""
    from concept_erasure.erasure.detection import Detector
    from concept_erasure.erasure.history import ErasureRecord
    from concept_erasure.nodes import files

    sae = classes["ConceptErasureSAELoader"].execute(files.names()[0]).args[0]
    return {
        "MODEL": canvas[0],
        "CLIP": canvas[1],
        "VAE": canvas[2],
        "CONDITIONING": canvas[1].encode_from_tokens_scheduled(canvas[1].tokenize("A cat")),
        "IMAGE": torch.zeros(1, SMALL_SIDE, SMALL_SIDE, 3),
        "MASK": torch.ones(1, SMALL_SIDE, SMALL_SIDE),
        "LATENT": {"samples": latents()},
        "SAE": sae,
        "CONCEPT": sae.concept("cat"),
        "DETECTION": Detector(sae, sae.concept("cat")),
        "ERASURE_RECORD": ErasureRecord.__new__(ErasureRecord),
    }


def usual(schema, objects):
    """A value for every input that must have one."""
    values = {}
    for spec in schema.inputs:
        if (kind := spec.get_io_type()) in WRONG:
            default = spec.default if spec.default is not None else getattr(spec, "options", None)
            values[spec.id] = default[0] if isinstance(default, list) else default
        elif not spec.optional:
            values[spec.id] = objects[kind.split(",")[0]]
    return values


def wrong_for(spec, objects):
    """Values that an input must refuse."""
    from concept_erasure.nodes.checking import FileChoice

    kind = spec.get_io_type()
    if kind not in WRONG:
        kinds = set(kind.split(","))
        foreign = [value for other, value in objects.items() if other not in kinds]
        if kinds & TENSORS:
            foreign = [value for value in foreign if not isinstance(value, torch.Tensor)]
        if kinds == {"IMAGE"}:
            foreign += [objects["MASK"], torch.zeros(1, 8, 8, 2), torch.zeros(0, 8, 8, 3)]
        return NO_OBJECT + foreign + ([] if spec.optional else [None])
    if isinstance(spec, FileChoice):
        return NO_FILE + [value for value in WRONG[kind] if not isinstance(value, str)]
    if kind == "INT":
        return [*WRONG[kind], spec.min - 1, spec.max + 1, np.int64(spec.min - 1)]
    if kind == "FLOAT":
        return [*WRONG[kind], math.nextafter(spec.min, -math.inf), math.nextafter(spec.max, math.inf)]
    return WRONG[kind]


@pytest.mark.parametrize("name", NODES)
def test_every_input_refuses_what_it_does_not_allow(classes, objects, name):
    schema = classes[name].define_schema()
    good = usual(schema, objects)
    for spec in schema.inputs:
        for value in wrong_for(spec, objects):
            try:
                classes[name].execute(**{**good, spec.id: value})
            except ValueError as error:
                assert schema.display_name in str(error) and f"'{spec.id}'" in str(error), f"{value!r}: {error}"
                assert len(str(error)) < 2500
            else:
                pytest.fail(f"{schema.display_name} takes {value!r} for {spec.id}")


def test_a_clip_that_can_encode_and_decode_is_no_vae(classes, objects):
    """That of ComfyUI 0.33 can: it is a language model's too."""

    class NewerCLIP:
        tokenize = encode_from_tokens_scheduled = encode = decode = lambda self, *args: None

    schema = classes["ConceptErasureConceptFinder"].define_schema()
    with pytest.raises(ValueError, match=r"Concept Finder: .*'vae'"):
        classes["ConceptErasureConceptFinder"].execute(**{**usual(schema, objects), "vae": NewerCLIP()})


@pytest.mark.parametrize("name", NODES)
def test_an_empty_text_is_refused_or_explained(classes, objects, name):
    """Where it means something, the help page says what."""
    page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    schema = classes[name].define_schema()
    good = usual(schema, objects)
    for spec in schema.inputs:
        if spec.get_io_type() != "STRING":
            continue
        row = next(line for line in page.splitlines() if line.startswith(f"| `{spec.id}` "))
        if not re.search(r"\bempty\b", row, re.IGNORECASE):
            with pytest.raises(ValueError, match=f"{schema.display_name}.*'{spec.id}'"):
                classes[name].execute(**{**good, spec.id: " "})


@pytest.mark.parametrize("name", NODES)
def test_a_range_that_ends_before_it_starts_is_refused(classes, objects, name):
    schema = classes[name].define_schema()
    if "start_percent" not in {spec.id for spec in schema.inputs}:
        return
    with pytest.raises(ValueError, match=rf"{schema.display_name}: input 'start_percent' \(0.8\) is after 'end_p"):
        classes[name].execute(**{**usual(schema, objects), "start_percent": 0.8, "end_percent": np.float32(0.25)})


@pytest.fixture
def small(pack):
    """A node that gives back what it gets."""
    from comfy_api.latest import io
    from concept_erasure.nodes.checking import FileChoice, checked

    class Small(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            inputs = [
                io.Int.Input("count", default=1, min=0, max=2**64 - 1),
                io.Float.Input("share", default=0.5, min=0.0, max=1.0),
                io.Float.Input("free", default=0.0),
                io.Boolean.Input("switch", default=False),
                io.Combo.Input("choice", options=["one", "two"]),
                FileChoice("file", options=["old"]),
                io.String.Input("text", default=""),
                io.Mask.Input("mask", optional=True),
            ]
            return io.Schema(node_id="Small", display_name="Small", category="x", inputs=inputs, outputs=[])

        @classmethod
        @checked
        def execute(cls, count, share, free, switch, choice, file, text, mask=None):
            return io.NodeOutput(count, share, free, switch, choice, file, text, mask)

    return Small


GOOD = (3, 0.5, 1.0, True, "two", "old", "")


def test_values_at_the_limits_and_of_numpy_are_taken(small):
    """As Python's own, so that nothing further down meets another kind of number."""
    assert small.execute(*GOOD).args == (*GOOD, None)
    assert small.execute(2**64 - 1, 1, -1e300, False, "one", "new", "").args[:2] == (2**64 - 1, 1.0)
    given = np.int64(0), np.float32(0.5), np.float64(2), np.bool_(True), np.str_("two"), np.str_("old"), np.str_("")
    taken = small.execute(*given).args[:-1]
    assert taken == (0, 0.5, 2.0, True, "two", "old", "")
    assert [type(value) for value in taken] == [int, float, float, bool, str, str, str]
    assert type(small.execute(0, 1, 2, *GOOD[3:]).args[1]) is float


def test_a_file_that_is_newer_than_the_list_is_left_to_the_node(small):
    assert small.execute(*GOOD[:5], "new", "").args[5] == "new"


def test_optional_inputs_may_be_absent(small):
    assert small.execute(*GOOD, None).args[-1] is None
    assert small.execute(**dict(zip(("count", "share", "free", "switch", "choice", "file", "text"), GOOD, strict=True)))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, -1, r"Small: input 'count' is -1. It must be a whole number from 0 to 18446744073709551615. Set it"),
        (0, HUGE, r"input 'count' is a number of 1329 bits"),
        (1, math.nan, r"input 'share' is nan. It must be a number from 0.0 to 1.0"),
        (2, math.inf, r"input 'free' is inf. It must be a number\. "),
        (4, "three", r"input 'choice' is 'three'. It must be one of these: one, two"),
        (4, "x" * 10_000, r"input 'choice' is 'x{79}\.\.\.\. It must"),
        (6, None, r"input 'text' is empty: nothing came by its link. It must be a text"),
        (7, torch.ones(2, dtype=torch.complex64), r"input 'mask' is a tensor of shape \(2,\). It must be a MASK"),
        (7, {}, r"input 'mask' is an object of type dict. It must be a MASK, as Load Image gives it"),
    ],
)
def test_the_message_says_what_came_and_what_is_allowed(small, place, value, message):
    values = [*GOOD, None]
    values[place] = value
    with pytest.raises(ValueError, match=message):
        small.execute(*values)


LINKS = {
    "MODEL": ["1", 0],
    "CLIP": ["1", 1],
    "VAE": ["1", 2],
    "SAE": ["2", 0],
    "DETECTION": ["3", 0],
    "CONCEPT": ["3", 1],
    "ERASURE_RECORD": ["4", 1],
    "CONDITIONING": ["5", 0],
    "LATENT": ["7", 0],
    "IMAGE": ["8", 0],
    "MASK": ["9", 0],
}


def graph(info, name: str, given: str, value: object):
    """A prompt in which a value comes by a link to an input of a node, and all else is as it should be."""
    values = {}
    for spec, (kind, options) in {**info["input"].get("optional", {}), **info["input"]["required"]}.items():
        if kind.split(",")[0] not in LINKS:
            values[spec] = options.get("default", (options.get("options") or [None])[0])
        elif spec in info["input"]["required"]:
            values[spec] = LINKS[kind.split(",")[0]]
    return {
        **base(),
        "4": replacer(),
        "7": empty(),
        "8": node("EmptyImage", width=SMALL_SIDE, height=SMALL_SIDE, batch_size=1, color=0),
        "9": node("SolidMask", value=1.0, width=SMALL_SIDE, height=SMALL_SIDE),
        "10": node("TestAnyValue", json=json.dumps(value)),
        "11": {"class_type": name, "inputs": {**values, given: ["10", 0]}},
        **({} if info["output_node"] else {"12": node("PreviewAny", source=["11", 0])}),
    }


def sent(kind: str, options: dict):
    """Values to send to an input by the server."""
    if kind in ("INT", "FLOAT"):
        return [options["min"] - 1, options["max"] * 2, math.nan]
    return {"STRING": [3], "BOOLEAN": ["true"], "COMBO": ["no such option"]}.get(kind, [None, "text"])


@pytest.mark.parametrize("name", NODES)
def test_the_server_says_which_node_and_input(server: LiveServer, name: str):
    """ComfyUI refuses a literal value by itself, and passes on a linked one."""
    info = server.object_info()[name]
    for given, (kind, options) in {**info["input"].get("required", {}), **info["input"].get("optional", {})}.items():
        for value in sent(kind, options):
            if value is None and given in info["input"].get("optional", {}):
                continue
            said = failure(server.wait(server.submit(graph(info, name, given, value))))
            assert said.startswith(f"{name} (11): "), f"{given} = {value!r}: {said}"
            assert NODES[name] in said and f"'{given}'" in said, f"{given} = {value!r}: {said}"
