"""A short run of the benchmark that damages files, and that it would say if something went wrong."""

import json
import re
import sys

import pytest
import torch
from safetensors.torch import save_file
from support.sae_formats import CASES, write

FILES = 60


@pytest.fixture(scope="module")
def run(pack):
    from concept_erasure.benchmarks.fuzz import run

    return run


@pytest.fixture(scope="module")
def fuzzer(run, tmp_path_factory):
    fuzzer = run.Fuzzer(tmp_path_factory.mktemp("fuzz"), seed=1)
    yield fuzzer
    fuzzer.reader.close()


def test_damaged_files_are_refused_or_read_as_they_were(fuzzer):
    for number in range(FILES):
        fuzzer.run(number)
    report = fuzzer.report(FILES, 1.0)
    assert not report["faults"]
    counts = report["rows"][0]["columns"]
    assert counts["files"] == FILES == sum(row["columns"]["files"] for row in report["rows"][1:])
    assert counts["refused"] > FILES / 2 and counts["fault"] == 0
    assert fuzzer.reader.starts == 1, "one process reads them all"


def test_every_change_can_be_done_and_is_the_same_again(fuzzer):
    done = [fuzzer.change(number) for number in range(300)]
    from concept_erasure.benchmarks.fuzz.mutations import MUTATIONS

    assert {how for _, how, _ in done} == {mutate.__name__ for mutate in MUTATIONS}
    assert done[7] == fuzzer.change(7) and all(changed != fuzzer.contents[which] for which, _, changed in done)


def test_whatever_goes_wrong_is_a_fault(fuzzer):
    which = next(i for i, specimen in enumerate(fuzzer.specimens) if specimen.checked)
    name, content = fuzzer.specimens[which].path.name, fuzzer.contents[which]

    def judged(**answer):
        right = {"outcome": "read", "digest": fuzzer.known[which], "memory": 0, "seconds": 0.0}
        return fuzzer._judge(which, {**right, **answer}, content)

    assert not judged() and not judged(outcome="refused", said=f"{name}: is damaged")
    assert "names no file" in judged(outcome="refused", said="is damaged")
    assert "something else" in judged(digest="0")
    assert "took" in judged(memory=2 * len(content) + 2**26)
    for outcome in ("crash", "hang", "KeyError"):
        assert judged(outcome=outcome).startswith(outcome)


LARGE = 1280, 10_240


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's accounts of memory")
@pytest.mark.parametrize("case", ["saeuron", "saelens decoder norm", "sdxl-unbox", "dictionary_learning"])
def test_a_large_file_takes_little_more_than_its_size(fuzzer, run, case, tmp_path):
    """Transposed or scaled as well: read whole and then copied, it would take half as much again."""
    name, tensors, settings, _ = CASES[case]
    path = write(tmp_path, case)
    wide, features = LARGE
    sizes = {16: wide, 48: features}

    def grown(value):
        if isinstance(value, dict):
            return {key: grown(inner) for key, inner in value.items()}
        return torch.ones([sizes[size] for size in value.shape], dtype=value.dtype)

    (save_file if name.endswith(".safetensors") else torch.save)(grown(tensors), path / name)
    config = next(path.glob("*.json"))
    config.write_text(re.sub(r"\b(16|48)\b", lambda size: str(sizes[int(size[0])]), json.dumps(settings)))
    answer = fuzzer.reader.ask("sae", path)
    assert answer["outcome"] == "read", answer
    assert answer["memory"] < run.FACTOR * (path / name).stat().st_size


def test_a_process_that_ends_is_noticed_and_started_anew(fuzzer):
    specimen, before = fuzzer.specimens[0], fuzzer.reader.starts
    assert fuzzer.reader.ask("no kind of file", specimen.path)["outcome"] == "crash"
    assert fuzzer.reader.ask(specimen.kind, specimen.path)["digest"] == fuzzer.known[0]
    assert fuzzer.reader.starts == before + 1


@pytest.mark.skipif(sys.platform != "linux", reason="pipes in folders, by Linux's means")
def test_a_file_that_hangs_is_noticed(fuzzer, run, tmp_path, monkeypatch):
    """A pipe that nobody writes to is waited for; a picture is opened without a look at what it is."""
    import os

    fuzzer.reader.ask(fuzzer.specimens[0].kind, fuzzer.specimens[0].path)
    monkeypatch.setattr(run, "WAIT_SECONDS", 0.0)
    os.mkfifo(tmp_path / "picture.png")
    assert fuzzer.reader.ask("picture", tmp_path / "picture.png")["outcome"] == "hang"
