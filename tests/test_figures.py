"""Figures stand in pages as the benchmarks wrote them, and each can be made again."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys

import pytest
from load import ROOT

SPEC = importlib.util.spec_from_file_location("figures_program", ROOT / "dev" / "figures" / "__main__.py")
figures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(figures)
FILES = sorted(figures.FIGURES.glob("*.json"))
SESSIONS = set(re.findall(r"@nox\.session(?:\(name=\"(\w+)\"\))?\ndef (\w+)", (ROOT / "noxfile.py").read_text()))


def program_of(command: str) -> str:
    """Return what a command starts: a module for ``dev/host``, a file or folder, or a session of nox."""
    words = [word for word in shlex.split(command) if not re.match(r"^[A-Z_]+=", word)]
    assert words[0] in ("python", "nox"), command
    if words[0] == "nox":
        return f"nox {words[words.index('-s') + 1]}"
    return words[2] if words[1] == "dev/host" else words[1]


def exists(program: str) -> bool:
    if program.startswith("nox "):
        return any(program[4:] in names for names in SESSIONS)
    if "/" in program:
        return (ROOT / program).exists()
    path = ROOT.joinpath(*program.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@pytest.mark.parametrize("page", list(figures.pages()), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_the_files_say(page):
    text = page.read_text(encoding="utf-8")
    assert figures.written(text) == text, "run `nox -s figures`"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_figures_name_a_command_that_exists_and_what_made_them(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    assert exists(program_of(content["command"])), content["command"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", content["commit"])
    assert content["cpu"] and content["rows"]
    assert all(row["setting"] and row["columns"] for row in content["rows"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_figures_are_shown_on_a_page(file):
    assert any(f"figures: {file.name}" in page.read_text(encoding="utf-8") for page in figures.pages())


def test_a_command_that_is_gone_is_noticed():
    assert not exists(program_of("COMFYUI_OPTIONS=--bf16-unet python dev/host benchmarks.gone --json x"))
    assert not exists(program_of("nox -s gone")) and exists(program_of("nox -s gpu -- --out x"))
    assert exists(program_of("python dev/host benchmarks.erasure plain"))


@pytest.fixture
def own_figures(monkeypatch, tmp_path):
    """Let the program read figures of the test."""
    content = {
        "command": "nox -s bench",
        "commit": "0" * 40,
        "cpu": "a CPU",
        "rows": [
            {"setting": "plain", "columns": {"UA": {"value": 1.25, "interval": [1, 2], "samples": 80}, "steps": 20}},
            {"setting": "keep", "columns": {"UA": None, "steps": 2.5}},
        ],
    }
    (tmp_path / "own.json").write_text(json.dumps(content))
    monkeypatch.setattr(figures, "FIGURES", tmp_path)


def test_a_table_has_the_asked_rows_and_columns(own_figures):
    page = "before\n<!-- figures: own.json; columns: steps, UA; rows: keep, plain -->\nold\n<!-- /figures -->\nafter"
    lines = figures.written(page).splitlines()
    assert lines[2:6] == [
        "| setting | steps | UA |",
        "| --- | --- | --- |",
        "| keep | 2.5 | - |",
        "| plain | 20 | 1.2 ± 0.5 (n 80) |",
    ]
    assert lines[0] == "before" and lines[-1] == "after" and "nox -s bench" in lines[7]


@pytest.mark.parametrize("asked", ["own.json; columns: nothing", "own.json; rows: gone", "gone.json", "../own.json"])
def test_what_is_not_there_is_an_error(own_figures, asked):
    with pytest.raises(figures.FiguresError):
        figures.written(f"<!-- figures: {asked} -->\n<!-- /figures -->")


def test_the_program_runs_without_comfyui():
    done = subprocess.run([sys.executable, "-I", str(ROOT / "dev" / "figures"), "--check"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
