"""The benchmark for a GPU, with tiny models on the CPU."""

import json
import warnings

import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(pack):
    from concept_erasure.benchmarks.gpu import run

    return run


@pytest.fixture(scope="module")
def result(run, tmp_path_factory):
    """What a tiny run writes; torch.compile is left out, which takes longer than all the rest."""
    from concept_erasure.benchmarks.hooks import one_thread

    out = tmp_path_factory.mktemp("gpu") / "figures" / "gpu.json"
    found = run.described(True, CPU)
    todo = [part for part in run.parts(True, CPU) if part.place[-1] != run.COMPILED]
    with one_thread():
        run.measure(todo, 5, found, lambda: run.write(out, found))
    return json.loads(out.read_text())


def test_everything_is_measured(result):
    assert not result["failed"] and not result["skipped"]
    assert {"command", "commit", "date", "machine", "dtype", "settings", "seconds"} <= result.keys()
    assert {"gpu", "driver", "torch", "comfyui"} <= result["machine"].keys()
    assert result["measured"].keys() == {"sd15", "sdxl", "training"}
    ways = {"bare", "none", "similar", "published"}
    for kind in ("sd15", "sdxl"):
        found = result["measured"][kind]
        assert ways <= found["steps"].keys() and ways == found["waiting"].keys() == found["memory"].keys()
        for way in ways:
            times, to_bare = found["steps"][way]["milliseconds"], found["steps"][way]["to_bare"]
            assert len(times["samples"]) == len(to_bare["samples"]) >= 3
            assert 0 < times["quartiles"][0] <= times["median"] <= times["quartiles"][1]
            # There is nothing to wait for on a CPU.
            assert found["memory"][way] is None and set(found["waiting"][way].values()) == {None}
        assert set(found["steps"]["bare"]["to_bare"]["samples"]) == {1.0}
        # Planted for 15 % of the 64 patches at each step; what is replaced changes the steps that follow.
        assert 0.1 < found["steps"]["detected_share"] < 0.4
    assert result["measured"]["training"]["patches_a_second"]["median"] > 0


def test_the_table_says_it(result, run):
    said = result | {"skipped": ["sdxl compiled"], "failed": {"sd15 compiled": "no compiler"}}
    table = run.table(said | {"notes": run.notes(said)})
    for part in ("| sd15, published |", "| SAE training |", "lack of time: sdxl compiled", "no compiler"):
        assert part in table


def test_a_page_can_show_the_file(result):
    """It has what the pages of other figures have, so whoever has a GPU can commit it as it is."""
    assert "python dev/" in result["command"] and result["cpu"]
    assert result["host"].startswith("ComfyUI ") and result["torch"] == torch.__version__
    rows = {row["setting"]: row["columns"] for row in result["rows"]}
    assert len(rows) == 9 and rows["sd15, bare"]["of bare"] == "1 (1 to 1)"
    assert "ms a step" in rows["sdxl, similar"] and list(rows["SAE training"]) == ["patches a second"]


def test_what_does_not_fit_is_named(run):
    found = run.described(False, CPU)
    done = []
    parts = [run.Part(("a", "b"), 30, lambda: done.append("b")), run.Part(("c",), 90, lambda: done.append("c"))]
    run.measure(parts, 1, found, lambda: None)
    assert found["skipped"] == ["c"] and done == ["b"] and found["measured"] == {"a": {"b": None}}


def test_one_part_that_fails_leaves_the_others(run):
    def fails():
        raise RuntimeError("no compiler")

    found = run.described(False, CPU)
    run.measure([run.Part(("a",), 0, fails), run.Part(("b",), 0, lambda: 1)], 1, found, lambda: None)
    assert found["failed"] == {"a": "RuntimeError: no compiler"} and found["measured"] == {"b": 1}


def test_waiting_is_told_by_the_line(pack):
    from concept_erasure.benchmarks.gpu import device

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        name = str(device.ROOT / "erasure" / "eraser.py")
        warnings.warn_explicit(f"{device.SYNCHRONIZES} (Triggered internally)", UserWarning, name, 12)
        warnings.warn_explicit("something else", UserWarning, name, 13)
    assert device.lines_of(caught) == ["erasure/eraser.py:12"]


def test_a_planted_concept_is_found_in_the_wanted_share(pack):
    from concept_erasure.benchmarks.full_size.models import Seen, plant_concept, random_sae
    from concept_erasure.erasure.scorer import ConceptScorer
    from concept_erasure.sae_models.sae import SAEConfig

    made = torch.Generator().manual_seed(0)
    steps = [Seen(100.0 * i, 3.0 * i + torch.randn(200, 64, generator=made)) for i in range(1, 4)]
    sae = random_sae(SAEConfig(64, 1024, 8, "output_blocks.4.1"))
    scorer = ConceptScorer(sae, plant_concept([sae], steps, 0.15), 1.0, CPU)
    for each in steps:
        assert int(scorer(each.patches, torch.tensor(each.timestep))[0].mask.sum()) == 30
