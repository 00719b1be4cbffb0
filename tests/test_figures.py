"""Figures stand in pages as the benchmarks wrote them, and each can be made again."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from load import ROOT
from support.commands import SHARED, exists, figures, program_of

FILES = sorted(figures.FIGURES.glob("*.json"))
COMMANDS = figures.commands()


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


@pytest.mark.parametrize("name", sorted(figures.PICTURES))
def test_a_picture_is_drawn_from_its_file_and_shown(name):
    """Each mark stands for a row of the file; the program writes the picture anew where it differs."""
    file, drawn = figures.PICTURES[name]
    picture = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
    assert (ROOT / "docs" / "images" / name, picture) in list(figures.pictures()), "run `nox -s figures`"
    content = json.loads((figures.FIGURES / file).read_text(encoding="utf-8"))
    for row in content["rows"]:
        if row["setting"] == "guided: steering":
            row["columns"]["AR"] = {"value": 1.0, "interval": [0.0, 2.0]}
    assert drawn(content) != picture and len(picture) < 40_000
    assert any(f"](images/{name})" in page.read_text(encoding="utf-8") for page in figures.pages())


def made_by(name):
    """Return the listed command that makes a file."""
    (found,) = [each["command"] for each in COMMANDS if name in each["files"]]
    return found


LISTED = {name for each in COMMANDS for name in each["files"]}


@pytest.mark.parametrize("file", [file for file in FILES if file.name in LISTED], ids=lambda file: file.name)
def test_figures_are_made_by_the_program_that_the_list_names(file):
    assert program_of(json.loads(file.read_text(encoding="utf-8"))["command"]) == program_of(made_by(file.name))


@pytest.mark.parametrize("name", sorted(LISTED))
def test_listed_figures_are_shown_on_a_page(name):
    assert any(f"figures: {name}" in page.read_text(encoding="utf-8") for page in figures.pages())


@pytest.mark.parametrize("listed", COMMANDS, ids=lambda listed: program_of(listed["command"]))
def test_a_listed_command_exists_has_its_options_and_writes_its_files(listed):
    command = listed["command"]
    program = program_of(command)
    assert exists(program), command
    path = ROOT.joinpath(*program.split("."))
    sources = [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else sorted(path.glob("*.py"))
    declared = "".join(source.read_text(encoding="utf-8") for source in [*sources, *SHARED])
    words = shlex.split(command)
    assert not [word for word in words if word.startswith("--") and f'"{word}"' not in declared]
    written = words[words.index("--json") + 1]
    assert written in ("docs/figures", f"docs/figures/{listed['files'][0]}") and listed["minutes"] > 0


def test_a_command_that_is_gone_is_noticed():
    assert not exists(program_of("COMFYUI_OPTIONS=--bf16-unet python dev/host benchmarks.gone --json x"))
    assert not exists(program_of("nox -s gone")) and exists(program_of("nox -s gpu -- --json x"))
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


def test_an_interval_is_shown_by_its_ends_unless_the_figure_is_its_middle():
    """At 100 % the whole interval lies below the figure: half of its width would be read as the other half."""
    from entries import shown

    assert shown({"value": 100.0, "interval": [91.2, 100.0], "samples": 40}) == "100.0 (91 to 100; n 40)"
    assert shown({"value": 3.0, "interval": [1.0, 9.0]}) == "3.0 (1 to 9)"
    assert shown({"value": 0.5, "interval": [0.4, 0.6], "samples": 3, "digits": 2}) == "0.50 ± 0.10 (n 3)"


def test_below_a_table_stands_of_which_code_its_rows_are():
    made = {"command": "c", "commit": "f" * 40, "cpu": "a CPU", "unit": "percent"}
    commits = ["a" * 40, "b" * 40 + "-dirty"]
    said = figures.made_by(made, commits, [{"value": 1.0, "unit": "mean"}])
    assert said == (
        "*In percent, but for the means. Made by `c` at aaaaaaaaaa and bbbbbbbbbb with uncommitted changes on a CPU.*"
    )
    assert figures.made_by(made, ["f" * 40], [1.0, None]) == "*In percent. Made by `c` at ffffffffff on a CPU.*"


def test_a_table_has_the_asked_rows_and_columns(own_figures):
    page = "before\n<!-- figures: own.json; columns: steps | UA; rows: keep | plain -->\nold\n<!-- /figures -->\nafter"
    lines = figures.written(page).splitlines()
    assert lines[2:6] == [
        "| setting | steps | UA |",
        "| --- | --- | --- |",
        "| keep | 2.5 | - |",
        "| plain | 20 | 1.2 (1 to 2; n 80) |",
    ]
    assert lines[0] == "before" and lines[-1] == "after" and "nox -s bench" in lines[7]


def test_a_file_that_is_not_there_yet_is_shown_as_its_command(own_figures):
    page = "<!-- figures: region.json; columns: missed % -->\nold\n<!-- /figures -->"
    (said,) = figures.written(page).splitlines()[1:-1]
    assert said == f"*Not measured yet; run: `{made_by('region.json')}`*"


@pytest.mark.parametrize("asked", ["own.json; columns: nothing", "own.json; rows: gone", "gone.json", "../own.json"])
def test_what_is_not_there_is_an_error(own_figures, asked):
    with pytest.raises(figures.FiguresError):
        figures.written(f"<!-- figures: {asked} -->\n<!-- /figures -->")


README = (ROOT / "README.md").read_text(encoding="utf-8")
CLAIMS = README.partition("| claim | behind it |")[2].partition("\n\n")[0].splitlines()[2:]
LIMITS = README.partition("And the limits:")[2].partition("\n## ")[0]
BEHIND = re.compile(r"/blob/main/([\w./-]+)(?:#([\w-]+))?\)")


def anchor(title):
    """Return what GitHub calls a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def backed(text):
    """Return the links of a text behind which nothing stands: no test, and no section with figures or with tests."""
    wrong = []
    for path, section in BEHIND.findall(text):
        if not (ROOT / path).is_file():
            wrong.append(path)
        elif not path.startswith("tests/"):
            parts = re.split(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
            there = {anchor(title): below for title, below in zip(parts[1::2], parts[2::2], strict=True)}
            if not re.search(r"<!-- figures: |`tests/test_\w+\.py`", there.get(section, "")):
                wrong.append(f"{path}#{section}")
    return wrong


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_figure_or_a_test_stands_behind_each_claim_of_the_readme(claim):
    assert BEHIND.findall(claim) and not backed(claim)


def test_what_stands_behind_nothing_is_seen():
    assert len(CLAIMS) > 4
    (link,) = BEHIND.finditer(CLAIMS[0])
    for gone in ("docs/gone.md", "docs/results.md#gone", "docs/results.md#", "tests/test_gone.py"):
        assert backed(CLAIMS[0].replace(link[0], f"/blob/main/{gone.rstrip('#')})")) == [gone]


def test_the_limits_that_matter_most_stand_beside_the_claims():
    """With the figures behind them, where something was measured."""
    for word in ("SD1.5", "SDXL", "GPU", "SAE that was trained", "style", "damage", "twice", "Flux", "safety filter"):
        assert word in LIMITS
    assert BEHIND.findall(LIMITS) and not backed(LIMITS.replace("docs/run-on-your-gpu.md", "tests/test_commands.py"))


def test_the_program_runs_without_comfyui():
    done = subprocess.run([sys.executable, "-I", str(ROOT / "dev" / "figures"), "--check"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def test_the_list_has_every_command_in_order(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["figures", "--list"])
    figures.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  #")[0] for line in lines] == [each["command"] for each in COMMANDS]
