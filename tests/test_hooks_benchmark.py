"""The benchmark of the hooks against those before the core was rewritten."""

import pytest
import torch


def test_older_and_newer_hooks_do_the_same(pack):
    from concept_erasure.benchmarks import hooks

    if hooks.load_before() is None:
        pytest.skip("the older commit is not in this clone")
    size = hooks.Size(8, 32, 2, 128, 4)
    with hooks.one_thread(), torch.inference_mode():
        for mode in ("similar", "nearest", "none", hooks.SILENCED):
            assert "| True |" in hooks.row(size, mode, hooks.load_before(), 3, 0.0)


def test_without_the_older_commit_only_today_is_measured(pack, monkeypatch, capsys):
    from concept_erasure.benchmarks import hooks

    monkeypatch.delitem(hooks.sys.modules, hooks.PACKAGE, raising=False)
    assert hooks.load_before("0" * 40) is None
    monkeypatch.setattr(hooks, "load_before", lambda: None)
    hooks.compare(3, 0.0, (hooks.Size(8, 32, 1, 128, 4),))
    printed = capsys.readouterr().out
    assert "is not in this clone" in printed and printed.count("| 8 x 8, 32, 1 |") == len(hooks.MODES)
