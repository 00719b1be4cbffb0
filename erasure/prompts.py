"""Prompts that show a concept, and prompts that show everything but it.

Both kinds come in the same styles, in turn, so that what tells them apart is the concept and not a style.
"""

import math
import re
from collections.abc import Sequence

from ..canvas.vocabulary import OBJECTS

KINDS = ("object", "style")
# Styles that Stable Diffusion and Canvas both know; as objects, those of UnlearnCanvas, which the field measures on.
STYLES = ("photo", "watercolor", "sketch", "comic", "neon", "mosaic", "sepia", "blueprint")
FORM = "An image of {} in {} style"


def default_prompts(word: str, kind: str) -> tuple[list[str], list[str]]:
    """Return prompts with a concept and prompts without it.

    Args:
        word: what the concept is called: "cat", "sketch", "red car".
        kind: see `KINDS`.
    """
    if kind == "style":
        styles = _without(STYLES, word)
        return [FORM.format(thing, word) for thing in OBJECTS], _pairs(OBJECTS, styles)
    return [FORM.format(word, style) for style in STYLES], _pairs(_without(OBJECTS, word), STYLES)


def _pairs(objects: Sequence[str], styles: Sequence[str]) -> list[str]:
    """Return prompts in which objects and styles take turns, until a pair would come up again."""
    count = math.lcm(len(objects), len(styles))
    return [FORM.format(objects[i % len(objects)], styles[i % len(styles)]) for i in range(count)]


def _without(names: tuple[str, ...], word: str) -> list[str]:
    """Leave out what a word names, in the singular or the plural."""
    said = {*re.findall(r"\w+", word.lower())}
    return [name for name in names if not said & {name, f"{name}s", f"{name}es", f"{name[:-1]}ies"}]


def lines(text: str) -> list[str]:
    """Return the prompts of a text, one a line; empty lines are skipped."""
    return [line.strip() for line in text.splitlines() if line.strip()]
