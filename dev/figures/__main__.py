"""Write the figures of ``docs/figures/`` into the pages that show them: ``python dev/figures``, or ``nox -s figures``.

The pictures of picture.py go into ``docs/images/``.

A page marks the place, and what stands between the marks is written by this program:

    <!-- figures: erasure.json; columns: UA | nothing; rows: unedited | may change -->
    (a table)
    <!-- /figures -->

``columns`` and ``rows`` choose and order; all are shown without them. ``--check`` changes nothing, names the pages that
differ, and ends with an error if there is one. ``--list`` prints the commands that make all files, in order, each with
the minutes it takes on two cores. A file that is not there yet is shown as that command. Only the standard library is
used, so that no ComfyUI is needed.

A file of figures is JSON: ``command``, ``commit``, ``cpu`` and what else made it; ``rows``, each with a ``setting`` and
``columns``, whose entries are numbers, words, or ``{"value", "interval", "samples"}``; and ``notes``, a sentence each.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from entries import heading, line, shown
from picture import PICTURES

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
WORK = ROOT / "dev" / "work"
COMMANDS = Path(__file__).with_name("commands.json")
PAGES = ("*.md", "docs/*.md", "docs/decisions/*.md", "web/docs/*.md", "benchmarks/**/*.md", "dev/**/*.md")
PLACE = re.compile(r"<!-- figures: (?P<asked>[^>]+?) -->\n.*?<!-- /figures -->", re.DOTALL)


class FiguresError(ValueError):
    """A page asks for figures that are not there; the message says which."""


def pages() -> Iterator[Path]:
    """Yield every page that may show figures; copies of them in dev/work are none."""
    for pattern in PAGES:
        yield from (page for page in sorted(ROOT.glob(pattern)) if WORK not in page.parents)


def chosen(asked: Sequence[str] | None, there: Sequence[str], what: str, file: str) -> list[str]:
    """Return the asked names, or all that are there.

    Raises:
        FiguresError: one is not there.
    """
    missing = [name for name in asked or () if name not in there]
    if missing:
        raise FiguresError(f"{file} has no {what} {', '.join(missing)}; it has {', '.join(there)}.")
    return list(there if asked is None else asked)


def commands() -> list[dict[str, Any]]:
    """Return the commands that make the files, in order: ``command``, ``minutes`` and the ``files`` that it writes."""
    listed: list[dict[str, Any]] = json.loads(COMMANDS.read_text(encoding="utf-8"))
    return listed


def not_measured(file: str) -> str:
    """Return what stands for a file that is not there yet.

    Raises:
        FiguresError: no command makes it.
    """
    made_by = next((each["command"] for each in commands() if file in each["files"]), None)
    if made_by is None:
        raise FiguresError(f"There is no docs/figures/{file}, and no command in {COMMANDS.name} makes it.")
    return f"*Not measured yet; run: `{made_by}`*"


def table(asked: str) -> str:
    """Return the table that a mark asks for, and below it how it was made.

    Args:
        asked: such as ``erasure.json; columns: UA | nothing``.

    Raises:
        FiguresError: a row or a column is not there, or neither the file nor a command that makes it.
    """
    file, *options = (part.strip() for part in asked.split(";"))
    given = {
        key.strip(): [v.strip() for v in values.split("|")] for key, _, values in (o.partition(":") for o in options)
    }
    path = FIGURES / file
    if path.parent != FIGURES or not path.is_file():
        return not_measured(file)
    figures = json.loads(path.read_text(encoding="utf-8"))
    rows = {row["setting"]: row["columns"] for row in figures["rows"]}
    there = list(dict.fromkeys(column for row in rows.values() for column in row))
    columns = chosen(given.get("columns"), there, "column", file)
    names = chosen(given.get("rows"), list(rows), "row", file)
    lines = [heading(figures.get("of", "setting"), *columns)]
    lines += [line(name, *(shown(rows[name].get(column)) for column in columns)) for name in names]
    own = dict.fromkeys(each for row in figures["rows"] if row["setting"] in names for each in row.get("commits", ()))
    entries = [rows[name].get(column) for name in names for column in columns]
    return "\n".join([*lines, "", made_by(figures, list(own) or [figures["commit"]], entries)])


def made_by(figures: dict[str, Any], commits: Sequence[str], entries: Sequence[Any]) -> str:
    """Return the sentences below a table of some entries: what is shown, the command, of which code, and where."""
    where = [figures["cpu"], *(figures[key] for key in ("host", "dtype") if figures.get(key))]
    if figures.get("torch"):
        where.append(f"torch {figures['torch']}")
    unit = [f"In {figures['unit']}{but_for(entries)}."] if figures.get("unit") else []
    sentences = [
        *unit,
        *figures.get("notes", ()),
        f"Made by `{figures['command']}`",
        f"at {' and '.join(map(called, commits))}",
    ]
    return f"*{' '.join(sentences)} on {', '.join(where)}.*"


def called(commit: str) -> str:
    """Return a commit in short, and whether the code held changes that were not committed."""
    return commit[:10] + (" with uncommitted changes" if commit.endswith("-dirty") else "")


def but_for(entries: Sequence[Any]) -> str:
    """Return what the unit of a table is not that of, if that is shown."""
    other = any(isinstance(entry, dict) and entry.get("unit") == "mean" for entry in entries)
    return ", but for the means" if other else ""


def written(text: str) -> str:
    """Return a page with all its figures as the files have them."""
    return PLACE.sub(
        lambda place: f"<!-- figures: {place['asked']} -->\n{table(place['asked'])}\n<!-- /figures -->", text
    )


def pictures() -> Iterator[tuple[Path, str]]:
    """Yield every picture whose file of figures is there, and what it must be."""
    for name, (file, drawn) in PICTURES.items():
        if (FIGURES / file).is_file():
            yield ROOT / "docs" / "images" / name, drawn(json.loads((FIGURES / file).read_text(encoding="utf-8")))


def wanted() -> Iterator[tuple[Path, str]]:
    """Yield every page and picture, and what it must be."""
    for page in pages():
        yield page, written(page.read_text(encoding="utf-8"))
    yield from pictures()


def main() -> None:
    """Write all pages and pictures, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{each['command']}  # {each['minutes']} min" for each in commands()))
        return
    check = given.check
    differ = []
    for path, text in wanted():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        differ.append(str(path.relative_to(ROOT)))
        if not check:
            path.write_text(text, encoding="utf-8", newline="\n")
    print("\n".join(differ) or "All figures are as the files have them.")
    if check and differ:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
