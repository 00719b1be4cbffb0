"""Scenes of the demo model: a seed makes a 256 x 256 picture, its caption and each object's mask.

A scene is a background (backgrounds.py), none, one or two different objects, and a style over the whole picture
(styles.py). Everything is drawn from the seed, so a scene never has to be stored. Seeds are split for good:
`TRAIN` for what weights are fitted to, `VALIDATION` for what is chosen (thresholds, settings), `HELD_OUT`
for what is reported.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...demo_model.sizes import GRID, SIDE
from ...demo_model.vocabulary import OBJECTS, STYLES, caption
from .backgrounds import draw_background
from .styles import apply_style, blur

SPRITE_SIDE = 208
SPRITE_FILE = Path(__file__).parent / "sprites.png"
SPRITE_INDEX = SPRITE_FILE.with_suffix(".json")

TRAIN = range(10_000_000)
VALIDATION = range(10_000_000, 20_000_000)
HELD_OUT = range(20_000_000, 30_000_000)

EMPTY_SHARE, PAIR_SHARE = 0.05, 0.5
SINGLE_SIZE, PAIR_SIZE = (0.52, 0.76), (0.40, 0.54)  # of the picture's side
SHADOW = 0.35
FLOAT = 0.3  # how far above the lower edge an object may be, of the picture's side
OVERLAP = 0.08  # most of the smaller box that a pair may share


@dataclass(frozen=True)
class Scene:
    """A picture of the demo model.

    Attributes:
        image: uint8 [256, 256, 3].
        objects: names from `OBJECTS`, in the caption's order.
        style: a name from `STYLES`.
        masks: for each object the share of every latent cell that it covers and that nothing hides,
            float32 [32, 32], 0 to 1.
        caption: the canonical caption.
    """

    image: np.ndarray
    objects: tuple[str, ...]
    style: str
    masks: dict[str, np.ndarray]
    caption: str


@functools.cache
def sprites() -> dict[str, list[Image.Image]]:
    """Return every object's drawings, RGBA with premultiplied colour."""
    index = json.loads(SPRITE_INDEX.read_text())
    # Premultiplied, so that shrinking and turning cannot bleed the colour of invisible pixels.
    with Image.open(SPRITE_FILE) as file:
        atlas = file.convert("RGBa")
    columns = index["columns"]

    def cut(i: int) -> Image.Image:
        x, y = i % columns * SPRITE_SIDE, i // columns * SPRITE_SIDE
        return atlas.crop((x, y, x + SPRITE_SIDE, y + SPRITE_SIDE))

    return {name: [cut(i) for i in numbers] for name, numbers in index["sprites"].items()}


def choose_content(rng: np.random.Generator) -> tuple[str, ...]:
    """Draw none, one or two different objects."""
    kind = rng.random()
    count = 0 if kind < EMPTY_SHARE else 2 if kind < EMPTY_SHARE + PAIR_SHARE else 1
    return tuple(OBJECTS[i] for i in rng.choice(len(OBJECTS), count, replace=False))


def place(rng: np.random.Generator, count: int) -> list[tuple[int, int, int]]:
    """Return (left, top, side) in pixels of each object's box; a pair overlaps little."""
    low, high = PAIR_SIZE if count == 2 else SINGLE_SIZE
    for attempt in range(60):
        boxes = []
        for _ in range(count):
            # After many misses smaller boxes are tried, so that the loop ends.
            side = int(SIDE * rng.uniform(low, high if attempt < 40 else low + 0.05))
            margin = side // 16
            left = int(rng.integers(-margin, SIDE - side + margin + 1))
            # Objects stand on the ground or float a little above it.
            lowest = SIDE - side + margin // 2
            top = max(-margin, int(lowest - FLOAT * SIDE * rng.random() ** 1.5))
            boxes.append((left, top, side))
        if count < 2 or shared(*boxes) <= OVERLAP:
            break
    return boxes


def shared(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """Return the share of the smaller of two boxes that lies in the other."""
    width, height = (min(a[i] + a[2], b[i] + b[2]) - max(a[i], b[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0) / min(a[2], b[2]) ** 2


def draw_object(rng: np.random.Generator, name: str, box: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return an object in its place: premultiplied colour [256, 256, 3] and alpha [256, 256, 1], 0 to 1."""
    drawings = sprites()[name]
    sprite = drawings[rng.integers(len(drawings))]
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top, side = box
    sprite = sprite.resize((side, side), Image.Resampling.BICUBIC)
    sprite = sprite.rotate(rng.uniform(-9, 9), Image.Resampling.BICUBIC)
    layer = Image.new("RGBa", (SIDE, SIDE))
    layer.paste(sprite, (left, top))
    pixels = np.asarray(layer).astype(np.float32) / 255
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    tint = rng.uniform(0.9, 1.1, 3).astype(np.float32)
    return np.minimum(colour * tint, alpha), alpha


def shadow(alpha: np.ndarray) -> np.ndarray:
    """Return an object's shadow, 0 to 1, [256, 256, 1]: its blurred outline, a little lower."""
    small = alpha.reshape(SIDE // 4, 4, SIDE // 4, 4).mean(axis=(1, 3))[..., None]
    lower = np.pad(blur(small, 1.4), ((1, 0), (0, 0), (0, 0)))[:-1, :, 0]
    return np.asarray(Image.fromarray(lower).resize((SIDE, SIDE), Image.Resampling.BILINEAR))[..., None]


def cover(alpha: np.ndarray) -> np.ndarray:
    """Average a [256, 256, 1] alpha over the latent's cells -> float32 [32, 32]."""
    cell = SIDE // GRID
    return alpha.reshape(GRID, cell, GRID, cell).mean(axis=(1, 3), dtype=np.float32)


def render(seed: int, objects: Sequence[str] | None = None, style: str | None = None) -> Scene:
    """Draw the scene of a seed.

    Args:
        seed: 0 or more; see `TRAIN`, `VALIDATION` and `HELD_OUT`.
        objects: none, one or two different names from `OBJECTS`; None draws them from the seed.
        style: a name from `STYLES`; None draws it from the seed.

    Raises:
        ValueError: an unknown name, a repeated object, or more than two objects.
    """
    rng = np.random.default_rng(seed)
    drawn, drawn_style = choose_content(rng), STYLES[rng.integers(len(STYLES))]
    names = drawn if objects is None else tuple(objects)
    style = style or drawn_style
    if not set(names) <= set(OBJECTS) or len(set(names)) < len(names) or len(names) > 2:
        raise ValueError(f"A scene has none, one or two different objects of {OBJECTS}, not {names}.")
    if style not in STYLES:
        raise ValueError(f"No style {style!r}; there are {STYLES}.")
    image = draw_background(rng, SIDE)
    alphas: dict[str, np.ndarray] = {}
    for name, box in zip(names, place(rng, len(names)), strict=True):
        colour, alpha = draw_object(rng, name, box)
        image = image * (1 - SHADOW * shadow(alpha)) * (1 - alpha) + colour
        alphas = {other: hidden * (1 - alpha) for other, hidden in alphas.items()} | {name: alpha}
    image = apply_style(np.clip(image, 0, 1), style, rng)
    return Scene(
        image=np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8),
        objects=names,
        style=style,
        masks={name: cover(alpha) for name, alpha in alphas.items()},
        caption=caption(names, style),
    )
