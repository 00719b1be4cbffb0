"""What SECURITY.md promises, watched while nodes load, sample, train and save in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from load import ROOT
from support.sae_formats import write

WATCHED = ROOT / "tests" / "support" / "watched_nodes.py"


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> dict:
    base = tmp_path_factory.mktemp("base").resolve()
    for name in ("sae", "output", "temp", "input"):
        (base / name).mkdir()
    write(base / "sae", "dictionary_learning")
    command = [sys.executable, str(WATCHED), str(base), str(ROOT / "dev" / "host")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=base)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_is_run_connected_unpickled_or_written_elsewhere(watched):
    assert watched["seen"] == []


def test_it_watched_nodes_that_write(watched):
    """Else the test above would say nothing."""
    tops = {Path(path).parts[0] for path in watched["written"]}
    assert {"sae", "temp"} <= tops
    assert {"sae/trained.safetensors", "sae/concepts/cat.safetensors"} <= set(watched["written"])
    saved = [path for path in watched["written"] if path.startswith("sae/saved ")]
    assert len(saved) == 4, "the shipped ones, and one that was a torch file"
