"""Plugins of pytest: which lines of the pack each test runs, and that no test takes too long."""

import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


class Lines:
    """Notes, for each test that passes, its seconds and the lines of some packages that it runs, fixtures included.

    Args:
        tree: the repository.
        packages: folders in it.
        out: the JSON file to write when all have run; nothing is said of those that fail.
    """

    def __init__(self, tree: Path, packages: Sequence[str], out: Path) -> None:
        self.tree, self.out = f"{tree}/", out
        self.folders = tuple(f"{tree}/{name}/" for name in packages)
        self.found: dict[str, dict[str, Any]] = {}
        self.failed: set[str] = set()
        self._lines: dict[str, set[int]] = defaultdict(set)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what would run the code in another process."""
        items[:] = [item for item in items if not {"server", "browser"} & set(getattr(item, "fixturenames", ()))]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Watch one test."""
        self._lines, start = defaultdict(set), time.process_time()
        sys.settrace(self._enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            lines = {name.removeprefix(self.tree): sorted(held) for name, held in self._lines.items()}
            self.found[item.nodeid] = {"seconds": time.process_time() - start, "lines": lines}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which tests do not pass: one that fails in the copy anyway would kill every change."""
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write what was seen."""
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            passed = {name: test for name, test in self.found.items() if name not in self.failed}
            self.out.write_text(json.dumps(passed), encoding="utf-8")

    def _enter(self, frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(self.folders):
            return None
        lines = self._lines[name]

        def step(frame: FrameType, event: str, _: Any) -> Any:
            lines.add(frame.f_lineno)
            return step

        lines.add(frame.f_lineno)
        return step


class Limits:
    """Ends the process where a test takes more CPU time than it may.

    Args:
        seconds: for each test, by its name.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = seconds

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Start the clock anew; what it does when time is up needs no Python, which may be stuck."""
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, self.seconds.get(item.nodeid, sum(self.seconds.values())))
        return (yield)


def merged(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return all tests of some files that ``Lines`` wrote, by their names; lines as sets."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for name, test in json.loads(path.read_text(encoding="utf-8")).items():
            lines = {file: frozenset(held) for file, held in test["lines"].items()}
            found[name] = {"seconds": test["seconds"], "lines": lines}
    return found
