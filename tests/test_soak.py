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
    (row,) = found["rows"]
    assert row["setting"] == str(RUNS) and row["columns"]["same pictures at the end"] == "yes"
    assert [row["columns"][end] for end in ("done", "interrupted", "failed")] == [RUNS - 2, 1, 1]
    assert len(found["resident"]) == RUNS


def test_turns_meet_every_workflow_sae_and_model(soak):
    turns = [soak.turn(number, ("a", "b", "c")) for number in range(60)]
    assert {(turn.workflow, turn.sae) for turn in turns} == {(w, s) for w in soak.WORKFLOWS for s in "abc"}
    assert {turn.lora for turn in turns} == {True, False}
    assert {turn.end: sum(each.end == turn.end for each in turns) for turn in turns} == {
        "done": 48, "interrupted": 6, "failed": 6,
    }  # fmt: skip


def test_memory_that_grows_is_reported(soak):
    from collections import Counter
    from types import SimpleNamespace

    resident = [100.0] * 5 + [100.0 + i for i in range(11)]
    grown = SimpleNamespace(resident=resident, steps=1, saes=[], ends=Counter())
    columns = soak.report(grown, 5, "x", "y")["rows"][0]["columns"]
    assert columns["line rises, MiB"] == 10.0 and columns["most MiB"] == 110
    assert columns["same pictures at the end"] == "no"
