"""How much the tests notice: ``python dev/mutants --json docs/figures/mutants.json``.

One place of the code at a time is changed (``mutations``), in a copy of the repository, and the tests that run that
place are run there until one fails, the quickest first. The sample is the same for the same seed and code. Everything
is kept in ``dev/work/mutants``: an interrupted run goes on where it was, ``--limit 20`` does so many more and stops,
and ``--again`` runs those once more that no test noticed, after tests were added.

First it is found out which tests run which lines, test file by test file (``lines``); that takes as long as the tests.
It is found out anew for a test file that changed, and for all where the code did. Tests of other processes (servers,
browsers) are left out: they would not see the change. A mutant that makes a test take too long counts as killed. Needs
``fork``, so no Windows.
"""

import argparse
import compileall
import hashlib
import importlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from py_compile import PycInvalidationMode
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True  # a change would be hidden by what was compiled before it
from lines import Limits, Lines, merged  # noqa: E402
from mutations import Mutant, mutants_of  # noqa: E402

WORK = ROOT / "dev" / "work" / "mutants"
TREE, RESULTS, COVERAGE = WORK / "tree", WORK / "results.jsonl", WORK / "lines"
PACKAGES = ("erasure", "unet", "sae_models")
# Tests that start programs of their own, or are about files of the repository.
OTHERS = {
    *("browser", "server", "packaging", "help", "security", "fuzz", "layers", "hostile_files"),
    *("figures", "quoted_errors"),
}
MOST_SECONDS = 60.0  # of the tests of one mutant, by what they took before
PATIENCE, SPARE = 5.0, 30.0  # a mutant's test may take so many times as long, and so many seconds more
MOST_MEMORY = 16 * 2**30  # bytes of address space: what grows without end fails, and the machine goes on
KILLED = ("killed", "too long")
NO_TESTS = (3, 4, 5)  # of pytest's exit statuses
# What all tests need, or many, and no mutant changes.
SHARED = (
    *("pytest", "hypothesis", "PIL.Image", "scipy.ndimage", "scipy.stats", "kornia", "safetensors.torch", "yaml"),
    *("comfy.sd", "comfy.samplers", "comfy.sample", "comfy_api.latest", "comfy_extras.nodes_custom_sampler"),
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="mutants in the sample (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="stop after so many new ones")
    parser.add_argument(
        "--seconds",
        type=float,
        default=MOST_SECONDS,
        help=f"of tests for one mutant ({MOST_SECONDS:.0f}); fewer for a "
        "first round, after which --again tries the rest with all",
    )
    parser.add_argument("--again", action="store_true", help="also those that survived before")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the shares there")
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    sample = sampled(given.count, given.seed)
    copy_tree()
    warm_up()
    run(sample, measured_lines(), given)
    found = report(sample, given)
    for row in found["rows"]:
        print(f"{row['setting']}: {row['columns']}")
    for survivor in found["survivors"]:
        print(f"  survived: {survivor['file']}:{survivor['line']}: {survivor['was']} -> {survivor['is']}")
    if given.json and found["rows"][0]["columns"]["mutants"] == len(sample):
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found), encoding="utf-8")


def sampled(count: int, seed: int) -> list[Mutant]:
    """Return the sample, over all of the packages."""
    files = [path for name in PACKAGES for path in sources(name)]
    all_of_them = [mutant for path in files for mutant in mutants_of(path, path.relative_to(ROOT).as_posix())]
    return Random(seed).sample(all_of_them, min(count, len(all_of_them)))


def copy_tree() -> None:
    """Copy what git tracks, so that nothing is changed in the repository itself."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for name in filter(None, listed.decode().split("\0")):
        source, target = ROOT / name, TREE / name
        if source.is_file() and not (target.is_file() and target.read_bytes() == source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    if not (TREE / ".host").exists():
        (TREE / ".host").symlink_to((ROOT / ".host").resolve(), target_is_directory=True)
    # Each process would compile all anew. A changed file differs from the hash of what was compiled, so it is compiled.
    compileall.compile_dir(TREE, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)


def warm_up() -> None:
    """Import and load what no mutant changes, once for all processes that are forked from this one."""
    os.environ["OMP_NUM_THREADS"] = "1"
    # That of the copy: what it calls the repository is where the tests look.
    sys.path.insert(0, str(TREE / "dev" / "host"))
    from load import PACKAGE, load_comfyui, load_pack

    load_comfyui()
    for name in SHARED:
        importlib.import_module(name)
    load_pack()
    checkpoint = importlib.import_module(f"{PACKAGE}.demo_model.checkpoint")
    load, loaded = checkpoint.load, [checkpoint.load()]
    # The first in a process to ask for the shipped model gets this one.
    checkpoint.load = lambda path=None: loaded.pop() if path is None and loaded else load(path)
    early = [name for name in sys.modules if name.startswith(tuple(f"{PACKAGE}.{each}" for each in PACKAGES))]
    assert not early, f"changes to {early} would not be seen"


def in_a_fork(arguments: list[str], seconds: float, plugin: Any) -> int:
    """Run pytest in the copy; return its exit status, less than zero where a signal ended it.

    Args:
        arguments: of pytest.
        seconds: of CPU time it may take.
        plugin: one of pytest's.
    """
    child = os.fork()
    if not child:
        import resource

        import pytest

        code = 1
        try:
            os.chdir(TREE)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
            log = os.open(WORK / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            flags = ["-q", "-p", "no:cacheprovider", "--rootdir", str(TREE), "-c", str(TREE / "pyproject.toml")]
            # Nobody reads why a test fails, and to prepare for that takes longer than most tests.
            code = int(pytest.main([*flags, "--assert=plain", *arguments], plugins=[plugin]))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def measured_lines() -> dict[str, dict[str, Any]]:
    """Find out which tests run which lines, for the test files for which it is not known; see ``lines.merged``."""
    COVERAGE.mkdir(exist_ok=True)
    code = hashlib.sha256(b"\0".join(path.read_bytes() for name in PACKAGES for path in sources(name)))
    found = []
    for path in sorted((TREE / "tests").glob("test_*.py")):
        if path.stem.removeprefix("test_") in OTHERS:
            continue
        version = hashlib.sha256(code.digest() + path.read_bytes()).hexdigest()[:12]
        found.append(COVERAGE / f"{path.stem}-{version}.json")
        if not found[-1].exists():
            status = in_a_fork([f"tests/{path.name}"], 3600.0, Lines(TREE, PACKAGES, found[-1]))
            print(f"{path.name}: {f'some fail by themselves ({status})' if status else 'done'}", flush=True)
    return merged(path for path in found if path.exists())


def sources(package: str) -> list[Path]:
    """Return the modules of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def run(sample: list[Mutant], tests: dict[str, dict[str, Any]], given: argparse.Namespace) -> None:
    """Run the mutants that have not been run and, if asked for, again those that were not killed."""
    known = {result["key"]: result["outcome"] for result in results()}
    waiting = [m for m in sample if m.key not in known or (given.again and known[m.key] not in KILLED)]
    for number, mutant in enumerate(waiting[: given.limit], 1):
        target = TREE / mutant.file
        whole = target.read_bytes()
        try:
            target.write_bytes(mutant.applied(whole))
            outcome = outcome_of(tests_of(tests, mutant, given.seconds))
        finally:
            target.write_bytes(whole)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**mutant.described(), "outcome": outcome}) + "\n")
        print(f"{number} of {len(waiting)}: {outcome}: {mutant}", flush=True)


def outcome_of(chosen: dict[str, float]) -> str:
    """Run tests, see ``tests_of``; return ``killed``, ``too long``, ``survived``, or ``not run`` if there are none."""
    if not chosen:
        return "not run"
    limits = Limits({name: PATIENCE * seconds + SPARE for name, seconds in chosen.items()})
    status = in_a_fork(["-x", *chosen], PATIENCE * sum(chosen.values()) + SPARE, limits)
    if status in NO_TESTS:
        raise RuntimeError(f"The tests cannot be run ({status}); see {WORK / 'log'}")
    if status in (-signal.SIGPROF, -signal.SIGXCPU, -signal.SIGKILL):
        return "too long"
    return "killed" if status else "survived"


def tests_of(tests: dict[str, dict[str, Any]], mutant: Mutant, most: float) -> dict[str, float]:
    """Return the tests to run for a mutant, at most so many seconds of them, those of the quickest file first."""
    # Lines that run when the module is imported belong to no test: then all that run anything of the module.
    hit = {
        name: test["seconds"]
        for name, test in tests.items()
        if mutant.file in test["lines"] and (mutant.at_import or mutant.line in test["lines"][mutant.file])
    }
    # One case of each test before its second: cases of one test notice the same.
    case: Counter[str] = Counter()
    turn = {}
    for name in sorted(hit, key=lambda name: hit[name]):
        test = name.partition("[")[0]
        turn[name], case[test] = case[test], case[test] + 1
    chosen: dict[str, float] = {}
    for name in sorted(hit, key=lambda name: (turn[name], hit[name])):
        if not chosen or sum(chosen.values()) + hit[name] <= most:
            chosen[name] = hit[name]
    of_file: Counter[str] = Counter()
    for name, seconds in chosen.items():
        of_file[name.partition("::")[0]] += seconds
    order = sorted(chosen, key=lambda name: (of_file[name.partition("::")[0]], name.partition("::")[0], chosen[name]))
    return {name: chosen[name] for name in order}


def results() -> list[dict[str, Any]]:
    """Return what is known of the mutants that were run."""
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def report(sample: list[Mutant], given: argparse.Namespace) -> dict[str, Any]:
    """Return the shares, for JSON."""
    known = {result["key"]: result for result in results()}
    found = [known[mutant.key] for mutant in sample if mutant.key in known]
    describe = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    parts = {"all": found} | {name: [r for r in found if r["file"].startswith(f"{name}/")] for name in PACKAGES}
    return {
        "command": shlex.join(["python", "dev/mutants", *sys.argv[1:]]),
        "commit": commit,
        "cpu": platform.processor() or platform.machine(),
        "host": f"Python {platform.python_version()}",
        "of": "package",
        "rows": [{"setting": name, "columns": shares(results)} for name, results in parts.items()],
        "notes": [
            f"A sample of all changes, seed {given.seed}.",
            f"Of the tests that run a changed line, quick ones of {given.seconds:.0f} s together were tried.",
            "None of them has a server or a browser.",
            "A change that makes the tests take too long is killed too.",
        ],
        "seed": given.seed,
        "survivors": [result for result in found if result["outcome"] not in KILLED],
    }


def shares(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many of some mutants ended how, and the share that was killed, in percent."""
    count = Counter(result["outcome"] for result in results)
    killed = sum(count[outcome] for outcome in KILLED)
    share = f"{100 * killed / len(results):.1f} %" if results else "-"
    return {"mutants": len(results), "killed": share, "survived": count["survived"], "run by no test": count["not run"]}


if __name__ == "__main__":
    main()
