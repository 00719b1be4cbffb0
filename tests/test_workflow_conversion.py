"""dev/host/workflow.py: what the demo sends to the server. Browser tests compare it with the real frontend."""

import pytest
from workflow import to_prompt

INFO = {
    "Source": {
        "display_name": None,
        "input": {
            "required": {
                "name": [["a", "b"], {}],
                "seed": ["INT", {}],
                "text": ["STRING", {"forceInput": True}],
            }
        },
    },
    "Filter": {
        "display_name": "Filter it",
        "input": {"required": {"image": ["IMAGE", {}]}, "optional": {"amount": ["FLOAT", {"default": 1.0}]}},
    },
    "Sink": {"display_name": "Sink", "input": {"required": {"image": ["IMAGE"]}}},
}


def chain(filter_mode: int) -> dict:
    return {
        "nodes": [
            {
                "id": 1,
                "type": "Source",
                "widgets_values": ["b", 7, "randomize"],
                "outputs": [{"type": "IMAGE"}],
            },
            {
                "id": 2,
                "type": "Filter",
                "mode": filter_mode,
                "widgets_values": [0.5],
                "inputs": [{"name": "image", "type": "IMAGE", "link": 10}],
                "outputs": [{"type": "IMAGE"}],
            },
            {
                "id": 3,
                "type": "Sink",
                "title": "Result",
                "inputs": [{"name": "image", "type": "IMAGE", "link": 11}],
            },
            {"id": 4, "type": "MarkdownNote", "widgets_values": ["Read me"]},
        ],
        "links": [[10, 1, 0, 2, 0, "IMAGE"], [11, 2, 0, 3, 0, "IMAGE"]],
    }


def test_widgets_links_and_titles():
    prompt = to_prompt(chain(0), INFO)
    assert prompt == {
        "1": {"inputs": {"name": "b", "seed": 7}, "class_type": "Source", "_meta": {"title": "Source"}},
        "2": {
            "inputs": {"amount": 0.5, "image": ["1", 0]},
            "class_type": "Filter",
            "_meta": {"title": "Filter it"},
        },
        "3": {"inputs": {"image": ["2", 0]}, "class_type": "Sink", "_meta": {"title": "Result"}},
    }


def test_a_bypassed_node_hands_its_input_on():
    prompt = to_prompt(chain(4), INFO)
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"] == {"image": ["1", 0]}


def test_a_muted_node_cuts_the_link():
    prompt = to_prompt(chain(2), INFO)
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"] == {}


def test_an_unknown_node_is_named():
    with pytest.raises(ValueError, match="Node 3 is of type 'Sink'"):
        to_prompt(chain(0), {name: info for name, info in INFO.items() if name != "Sink"})


def test_too_many_widget_values_are_refused():
    workflow = chain(0)
    workflow["nodes"][1]["widgets_values"] = [0.5, 1]
    with pytest.raises(ValueError, match=r"Node 2 \(Filter\) has 2 widget values for \['amount'\]"):
        to_prompt(workflow, INFO)
