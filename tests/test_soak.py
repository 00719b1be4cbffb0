"""The benchmark that runs one prompt after the other: a few of its turns, an interrupt and an error among them."""

import pytest
from live_server import LiveServer

RUNS = 8


@pytest.fixture(scope="module")
def soak(pack, server: LiveServer):
    from concept_erasure.benchmarks import soak

    soak.write_lora(server.folder / "models" / "loras" / "soak.safetensors")
    return soak


def test_its_turns_end_as_they_should_and_leave_nothing_behind(soak, server: LiveServer):
    long = soak.Soak(server, steps=2)
    before = long.pictures()
    for number in range(RUNS):
        long.run(number)
    found = soak.report(long, 2, before, long.pictures())
    assert found["same_pictures"] and found["ends"] == {"done": RUNS - 2, "interrupted": 1, "failed": 1}
    assert len(found["resident"]) == RUNS and found["least"] <= found["most"]


def test_turns_meet_every_workflow_sae_and_model(soak):
    turns = [soak.turn(number, ("a", "b", "c")) for number in range(60)]
    assert {(turn.workflow, turn.sae) for turn in turns} == {(w, s) for w in soak.WORKFLOWS for s in "abc"}
    assert {turn.lora for turn in turns} == {True, False}
    assert {turn.end: sum(each.end == turn.end for each in turns) for turn in turns} == {
        "done": 48, "interrupted": 6, "failed": 6,
    }  # fmt: skip


def test_memory_that_grows_is_reported(soak):
    from types import SimpleNamespace

    grown = SimpleNamespace(resident=[100.0] * 5 + [100.0 + i for i in range(11)], steps=1, saes=[], ends={})
    assert soak.report(grown, 5, "x", "y")["line_rises"] == 10.0
    assert not soak.report(grown, 5, "x", "y")["same_pictures"]
