"""The words of the demo model: its objects, its styles, and the captions made of them."""

from collections.abc import Sequence

# UnlearnCanvas's twenty objects, singular.
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
STYLES = ("blueprint", "comic", "mosaic", "neon", "photo", "sepia", "sketch", "watercolor")
FILLERS = ("a", "an", "and", "empty", "image", "in", "of", "scene", "style")

# Other spellings a prompt may use. UnlearnCanvas labels its objects in the plural.
ALIASES = {
    **{f"{name}s": name for name in OBJECTS if not name.endswith(("h", "y"))},
    "butterflies": "butterfly",
    "fishes": "fish",
    "sandwiches": "sandwich",
    "building": "architecture",
    "fire": "flame",
    "people": "human",
    "person": "human",
    "ocean": "sea",
    "blueprints": "blueprint",
    "images": "image",
    "picture": "image",
    "photograph": "photo",
    "sketches": "sketch",
    "styles": "style",
    "the": "a",
    "watercolour": "watercolor",
    "with": "and",
}

TRAINING_FORMS = (
    "{} image in {} style",
    "An image of {} in {} style",
    "{} in {} style",
)


def with_article(name: str) -> str:
    """``"cat"`` -> ``"a cat"``, ``"architecture"`` -> ``"an architecture"``."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def join_objects(objects: Sequence[str]) -> str:
    """``("cat", "dog")`` -> ``"a cat and a dog"``; no object at all -> ``"an empty scene"``."""
    return " and ".join(map(with_article, objects)) if objects else "an empty scene"


def caption(objects: Sequence[str], style: str | None) -> str:
    """Return the caption of a scene, such as ``"A cat and a dog image in photo style"``.

    Args:
        objects: names from `OBJECTS`, in the order in which the caption names them; may be empty.
        style: a name from `STYLES`, or None for a caption that leaves the style open.
    """
    things = join_objects(objects)
    things = things[0].upper() + things[1:]
    noun = " image" if objects else ""
    return f"{things}{noun} in {style} style" if style else f"{things}{noun}"
