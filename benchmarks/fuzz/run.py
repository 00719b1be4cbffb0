"""Change files, let them be read, and count what came of it.

A fault is: the process that reads ends or hangs; an error other than the one that names the file; memory of more than
1.2 times the file beside a constant (pictures apart, which grow when they are read; Pillow bounds them); and a file
with checksums that is read although its weights or texts are others.

``--only NUMBER`` makes one file again and leaves it in the working folder, to be looked at.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import psutil
from load import ROOT

from ..framework import facts, storage
from .mutations import MUTATIONS
from .specimens import Specimen, make

CONSTANT, FACTOR = 32 * 2**20, 1.2
CPU_SECONDS, WAIT_SECONDS = 20.0, 600.0
OUTCOMES = ("refused", "read as it was", "read as something else", "fault")
# Freed memory goes back at once, so that what the next file takes shows.
EXACT = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}


class Reader:
    """The process that reads files; it is started anew when it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()
        self.starts = 0

    def ask(self, kind: str, path: Path) -> dict[str, Any]:
        """Let a file be read; return the answer, with outcome ``crash`` or ``hang`` where none came."""
        process = self._process if self._process is not None else self._start()
        assert process.stdin is not None
        spent = _cpu(process)
        process.stdin.write(json.dumps({"kind": kind, "path": str(path)}) + "\n")
        process.stdin.flush()
        return self._wait(process, spent)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "dev" / "host"), "benchmarks.fuzz.child"]
        environment = {**os.environ, **EXACT}
        self._answers = queue.Queue()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        threading.Thread(target=self._listen, args=(self._process, self._answers), daemon=True).start()
        self.starts += 1
        if self._answers.get(timeout=WAIT_SECONDS) != "ready":
            raise RuntimeError("The process that reads files does not start: python dev/host benchmarks.fuzz.child")
        return self._process

    @staticmethod
    def _listen(process: subprocess.Popen[str], answers: "queue.Queue[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line.strip())
        answers.put("")

    def _wait(self, process: subprocess.Popen[str], spent: float) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                line = self._answers.get(timeout=1.0)
            except queue.Empty:
                if _cpu(process) - spent < CPU_SECONDS and time.monotonic() < deadline:
                    continue
                self.close()
                return {"outcome": "hang", "said": f"no answer after {CPU_SECONDS:.0f} s of CPU time"}
            if line:
                answer: dict[str, Any] = json.loads(line)
                return answer
            code = process.wait()
            self.close()
            return {"outcome": "crash", "said": f"the process ended with {code}"}


def _cpu(process: subprocess.Popen[str]) -> float:
    try:
        times = psutil.Process(process.pid).cpu_times()
        return float(times.user + times.system)
    except psutil.NoSuchProcess:
        return 0.0


class Fuzzer:
    """Makes files by number, lets them be read, and keeps count.

    Args:
        folder: to work in.
        seed: the same seed and number give the same file.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.specimens = make(folder)
        self.contents = [specimen.target.read_bytes() for specimen in self.specimens]
        self.reader = Reader()
        self.faults: list[dict[str, Any]] = []
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.most = {"memory_beyond_file": 0, "seconds": 0.0}
        self.known = [self._whole(*each) for each in zip(self.specimens, self.contents, strict=True)]

    def _whole(self, specimen: Specimen, content: bytes) -> str:
        """Return the digest of a file that nothing was done to."""
        answer = self.reader.ask(specimen.kind, specimen.path)
        if answer["outcome"] != "read" or self._too_much(specimen, answer, content):
            raise RuntimeError(f"{specimen.name} cannot be read unchanged, or takes too much memory: {answer}")
        return str(answer["digest"])

    def _too_much(self, specimen: Specimen, answer: dict[str, Any], content: bytes) -> bool:
        """Tell whether reading a file took more memory than it may, and note how much."""
        if specimen.kind == "picture":
            return False
        beyond = answer["memory"] - FACTOR * len(content)
        self.most["memory_beyond_file"] = max(self.most["memory_beyond_file"], int(beyond))
        return bool(beyond > CONSTANT)

    def change(self, number: int) -> tuple[int, str, bytes]:
        """Return which specimen a file comes from, what was done to it, and its bytes."""
        random = Random(f"{self.seed}/{number}")
        weights = [specimen.weight for specimen in self.specimens]
        while True:
            (which,) = random.choices(range(len(self.specimens)), weights)
            small = [content for content in self.contents if len(content) < 2**20]
            mutate = random.choice(MUTATIONS)
            changed = mutate(self.contents[which], random, random.choice(small))
            if changed is not None and changed != self.contents[which]:
                return which, mutate.__name__, changed

    def run(self, number: int) -> None:
        """Make one file, let it be read, and put the whole one back."""
        which, how, changed = self.change(number)
        specimen = self.specimens[which]
        specimen.target.write_bytes(changed)
        try:
            answer = self.reader.ask(specimen.kind, specimen.path)
        finally:
            specimen.target.write_bytes(self.contents[which])
        problem = self._judge(which, answer, changed)
        self.outcomes[how, "fault" if problem else self._outcome(which, answer)] += 1
        if problem:
            self.faults.append({"number": number, "file": specimen.name, "change": how, "fault": problem})
            print(f"  {self.faults[-1]}", flush=True)

    def _outcome(self, which: int, answer: dict[str, Any]) -> str:
        if answer["outcome"] != "read":
            return "refused"
        return "read as it was" if answer["digest"] == self.known[which] else "read as something else"

    def _judge(self, which: int, answer: dict[str, Any], changed: bytes) -> str:
        """Return what is wrong with an answer, "" if nothing."""
        specimen, said = self.specimens[which], str(answer.get("said", ""))
        if answer["outcome"] not in ("read", "refused"):
            return f"{answer['outcome']}: {said[:300]}"
        self.most["seconds"] = max(self.most["seconds"], answer["seconds"])
        if self._too_much(specimen, answer, changed):
            return f"took {answer['memory']} bytes for a file of {len(changed)}"
        names = {specimen.path.name, specimen.target.name} | (
            {part.name for part in specimen.path.iterdir()} if specimen.path.is_dir() else set()
        )
        if answer["outcome"] == "refused":
            return "" if any(name in said for name in names) else f"the message names no file: {said[:300]}"
        known = {digest for digest, one in zip(self.known, self.specimens, strict=True) if one.checked}
        if specimen.checked and b'"checksums"' in changed[: 2**20] and answer["digest"] not in known:
            return "was read although it holds something else"
        return ""

    def report(self, files: int, seconds: float) -> dict[str, Any]:
        """Return what there is to say, as a file of figures holds it; see ``dev/figures``."""
        total: Counter[str] = Counter()
        for (_, outcome), count in self.outcomes.items():
            total[outcome] += count
        rows = [{"setting": "all", "columns": {"files": files, **{name: total[name] for name in OUTCOMES}}}]
        for mutate in MUTATIONS:
            counts = {name: self.outcomes[mutate.__name__, name] for name in OUTCOMES}
            setting = mutate.__name__.replace("_", " ")
            rows.append({"setting": setting, "columns": {"files": sum(counts.values()), **counts}})
        formats, megabytes = len({specimen.name for specimen in self.specimens}), self.most["memory_beyond_file"] / 1e6
        notes = [
            f"{formats} kinds of files, seed {self.seed}.",
            f"More memory than {FACTOR} times the file and {CONSTANT / 1e6:.0f} MB is a fault too; the most was "
            f"{FACTOR} times the file and {megabytes:.0f} MB, and {self.most['seconds']:.1f} s of CPU time.",
        ]
        return {
            "of": "change",
            "rows": rows,
            "notes": notes,
            "seed": self.seed,
            "seconds": round(seconds, 1),
            "faults": self.faults,
        }


def fuzz(files: int, seed: int, folder: Path, first: int = 0) -> dict[str, Any]:
    """Let changed files be read; return the report."""
    begun, fuzzer = time.monotonic(), Fuzzer(folder, seed)
    try:
        for number in range(first, first + files):
            fuzzer.run(number)
            if number % 500 == 499:
                print(f"{number + 1} files, {len(fuzzer.faults)} faults", flush=True)
    finally:
        fuzzer.reader.close()
    return fuzzer.report(files, time.monotonic() - begun)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Raises:
        SystemExit: there were faults.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="make this file again and keep it")
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder)")
    given = parser.parse_args(arguments)
    if given.only is not None:
        keep(given.only, given.seed, given.folder or Path(tempfile.mkdtemp()))
        return
    made_by = facts.facts()  # before, so that what is edited meanwhile is not named
    with tempfile.TemporaryDirectory() as temporary:
        report = fuzz(given.files, given.seed, given.folder or Path(temporary))
    print(json.dumps(report["rows"][0]["columns"]), *report["notes"], sep="\n")
    if given.json:
        storage.write_json(given.json, {**made_by, **report})
    if report["faults"]:
        raise SystemExit(f"{len(report['faults'])} faults")


def keep(number: int, seed: int, folder: Path) -> None:
    """Make one file and leave it; print what is said of it."""
    fuzzer = Fuzzer(folder, seed)
    which, how, changed = fuzzer.change(number)
    specimen = fuzzer.specimens[which]
    specimen.target.write_bytes(changed)
    print(f"{specimen.target}: {specimen.name}, {how}\n{fuzzer.reader.ask(specimen.kind, specimen.path)}")
    fuzzer.reader.close()
