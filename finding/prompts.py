"""Prompts that show a concept, prompts that show everything but it, and prompts that show a bit of everything.

The first two come in the same styles, in turn, so that what tells them apart is the concept and not a style.
"""

import math
import re
from collections.abc import Sequence

KINDS = OBJECT, STYLE = ("object", "style")
# The objects of UnlearnCanvas, which the field measures on, in the singular.
OBJECTS = (
    "architecture",
    "bear",
    "bird",
    "butterfly",
    "cat",
    "dog",
    "fish",
    "flame",
    "flower",
    "frog",
    "horse",
    "human",
    "jellyfish",
    "rabbit",
    "sandwich",
    "sea",
    "statue",
    "tower",
    "tree",
    "waterfall",
)
# Styles that Stable Diffusion and the demo model both know.
STYLES = ("photo", "watercolor", "sketch", "comic", "neon", "mosaic", "sepia", "blueprint")
FORM = "An image of {} in {} style"


def default_prompts(word: str, kind: str) -> tuple[list[str], list[str]]:
    """Return prompts with a concept and prompts without it.

    Args:
        word: what the concept is called: "cat", "sketch", "red car".
        kind: see `KINDS`.
    """
    if kind == STYLE:
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


def object_prompts() -> list[str]:
    """Return a prompt for each object alone, all in one style."""
    return [FORM.format(name, "photo") for name in OBJECTS]


def varied_prompts() -> list[str]:
    """Return prompts for each object alone and each beside another one, in styles that take turns."""
    alone = [FORM.format(_a(name), STYLES[i % len(STYLES)]) for i, name in enumerate(OBJECTS)]
    others = [OBJECTS[(3 * i + 7) % len(OBJECTS)] for i in range(len(OBJECTS))]
    pairs = [
        FORM.format(f"{_a(name)} and {_a(other)}", STYLES[(i + 3) % len(STYLES)])
        for i, (name, other) in enumerate(zip(OBJECTS, others, strict=True))
    ]
    return alone + pairs


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def around(name: str, shown: str, contrast: str) -> tuple[list[str], list[str]]:
    """Return prompts around a masked image: those without the concept, and those that show what the image shows.

    Args:
        name: of the concept.
        shown: what the image shows, in words, without its style; may be empty, which gives no prompts of the second
            kind. If it names the concept and something else, half of them show the concept alone.
        contrast: prompts without the concept, one a line; empty for common objects.
    """
    without, shown = lines(contrast) or default_prompts(name, "object")[1], " ".join(shown.split())
    named, rest = parted(shown, name)
    # Alone it is found more easily, beside the rest as in the masked image.
    similar = [prompt for thing in dict.fromkeys((named, shown)) if thing for prompt in in_styles(thing)]
    return mixed(without, in_styles(rest) if rest else []), similar


def in_styles(shown: str) -> list[str]:
    """Return prompts that show something, such as "a cat and a dog", in each of the styles."""
    return [FORM.format(shown, style) for style in STYLES]


def parted(shown: str, word: str) -> tuple[str, str]:
    """Return what of a description a word names, and the rest: "a cat and a dog" by "cat" is "a cat" and "a dog".

    Returns:
        both "" if the word does not name anything in it.
    """
    names = re.compile(rf"(?:(?:an?|the|some|two|three)\s+)?\b{re.escape(word)}(?:e?s)?\b", re.IGNORECASE)
    found = names.search(shown) if word else None
    if found is None:
        return "", ""
    things = (names.sub("", thing).strip() for thing in re.split(r"\s*,\s*(?:and\s+)?|\s+(?:and|with)\s+", shown))
    return found[0], " and ".join(thing for thing in things if thing)


def mixed(prompts: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return prompts with one of the others, in turn, after every two."""
    if not others:
        return list(prompts)
    return [
        each
        for i, prompt in enumerate(prompts)
        for each in ([prompt, others[i // 2 % len(others)]] if i % 2 else [prompt])
    ]


def lines(text: str) -> list[str]:
    """Return the prompts of a text, one a line; empty lines are skipped."""
    return [line.strip() for line in text.splitlines() if line.strip()]
