"""What help pages and docs quote from messages is what the code says: the left column of "If something goes wrong"."""

import ast
import re
from functools import cache

import pytest
from load import ROOT
from published import published_files

PAGES = [*sorted((ROOT / "web" / "docs").glob("*.md"))]
LEAST = 0.45  # share of a quote that must be the code's own words; the rest is what it fills in
ANYTHING = "\0"


@cache
def messages() -> tuple[str, ...]:
    """Every text in the shipped code, with ``ANYTHING`` for what is filled in."""
    found = []
    for path in published_files():
        if path.suffix == ".py":
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    values = [p.value if isinstance(p, ast.Constant) else ANYTHING for p in node.values]
                    found.append("".join(map(str, values)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                    found.append(node.value)
    return tuple(found)


def quotes(page: str) -> list[str]:
    """What is quoted in the first column of the table of troubles; names of inputs and values are no quotes."""
    table = page.partition("## If something goes wrong")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    return [quote for cell in cells for quote in re.findall(r"`([^`]*)`", cell) if " " in quote]


def is_said(quote: str) -> bool:
    """Tell whether each part of a quote, between dots, is a message's words with something filled in."""
    parts = [part.strip() for part in quote.split("...") if part.strip()]
    return all(any(covered(part, text) for text in messages()) for part in parts)


def covered(part: str, text: str) -> bool:
    """Tell whether a text says a part somewhere, most of it in its own words."""
    if part in text:
        return True
    pieces = text.split(ANYTHING)
    for first in range(len(pieces)):
        for last in range(first + 1, len(pieces)):
            inner = pieces[first + 1 : last]
            middle = "".join(f"{re.escape(piece)}(?:.*?)" for piece in inner)
            for head in heads(pieces[first], part):
                rest = part[len(head) :]
                for tail in tails(pieces[last], rest):
                    body = rest[: len(rest) - len(tail)]
                    own = len(head) + len(tail) + sum(map(len, inner))
                    if own >= LEAST * len(part) and re.fullmatch(f"(?:.*?){middle}", body):
                        return True
    return False


def heads(piece: str, part: str) -> list[str]:
    """The longest end of a piece with which a part begins, and none."""
    return [next((piece[i:] for i in range(len(piece)) if part.startswith(piece[i:])), "")]


def tails(piece: str, part: str) -> list[str]:
    """The longest beginning of a piece with which a part ends."""
    return [next((piece[:i] for i in range(len(piece), 0, -1) if part.endswith(piece[:i])), "")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_help_page_quotes_what_the_code_says(page):
    unknown = [quote for quote in quotes(page.read_text(encoding="utf-8")) if not is_said(quote)]
    assert not unknown, f"no message says {unknown}"


def test_a_quote_that_nobody_says_is_found():
    assert is_said("does not know the concept") and is_said("holds ... image(s), but the sampling run shown made")
    assert not is_said("does not know this concept") and not is_said("holds ... pictures, but the run made")
