"""Scenes of the small world: a seed makes a 128 x 128 picture, its caption and each object's mask.

A scene is a background, none, one or two different objects, and a style over the whole picture
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
from scipy.ndimage import gaussian_filter

from ...demo_model.vocabulary import OBJECTS, STYLES, caption
from .styles import apply_style

SIDE = 128
GRID = 16  # of the latent, and of the masks
SPRITE_SIDE = 96
SPRITE_FILE = Path(__file__).parent / "sprites.png"
SPRITE_INDEX = SPRITE_FILE.with_suffix(".json")

TRAIN = range(10_000_000)
VALIDATION = range(10_000_000, 20_000_000)
HELD_OUT = range(20_000_000, 30_000_000)

EMPTY_SHARE, PAIR_SHARE = 0.05, 0.5
SINGLE_SIZE, PAIR_SIZE = (0.55, 0.75), (0.42, 0.55)  # of the picture's side
SHADOW = 0.4
OVERLAP = 0.08  # most of the smaller box that a pair may share


@dataclass(frozen=True)
class Scene:
    """A picture of the small world.

    Attributes:
        image: uint8 [128, 128, 3].
        objects: names from `OBJECTS`, in the caption's order.
        style: a name from `STYLES`.
        masks: for each object the share of every latent cell that it covers and that nothing hides,
            float32 [16, 16], 0 to 1.
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


def smooth_noise(rng: np.random.Generator, cells: int, channels: int) -> np.ndarray:
    """Return noise without detail, float32 [128, 128, channels], 0 to 1."""
    small = rng.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
    planes = [Image.fromarray(small[..., c]).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1).astype(np.float32) / 255


def draw_background(rng: np.random.Generator) -> np.ndarray:
    """Return a gradient, a soft texture, or ground under a sky, float32 [128, 128, 3], 0 to 1."""
    first, second = rng.uniform(0.25, 0.95, (2, 3)).astype(np.float32)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    kind = rng.integers(3)
    if kind == 0:
        angle = rng.uniform(0, 2 * np.pi)
        mix = 0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    elif kind == 1:
        mix = smooth_noise(rng, int(rng.integers(3, 6)), 1)[..., 0]
    else:
        horizon = rng.uniform(0.45, 0.75)
        mix = np.clip((y - horizon) * SIDE / 3, 0, 1) * (0.8 + 0.2 * y)
    return first + np.clip(mix, 0, 1)[..., None] * (second - first)


def place(rng: np.random.Generator, count: int) -> list[tuple[int, int, int]]:
    """Return (left, top, side) in pixels of each object's box; a pair overlaps little."""
    low, high = PAIR_SIZE if count == 2 else SINGLE_SIZE
    for attempt in range(60):
        boxes = []
        for _ in range(count):
            # After many misses smaller boxes are tried, so that the loop ends.
            side = int(SIDE * rng.uniform(low, high if attempt < 40 else low + 0.05))
            margin = side // 16
            left, top = (int(v) for v in rng.integers(-margin, SIDE - side + margin + 1, 2))
            boxes.append((left, top, side))
        if count < 2 or shared(*boxes) <= OVERLAP:
            break
    return boxes


def shared(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """Return the share of the smaller of two boxes that lies in the other."""
    width, height = (min(a[i] + a[2], b[i] + b[2]) - max(a[i], b[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0) / min(a[2], b[2]) ** 2


def draw_object(rng: np.random.Generator, name: str, box: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return an object in its place: premultiplied colour [128, 128, 3] and alpha [128, 128, 1], 0 to 1."""
    drawings = sprites()[name]
    sprite = drawings[rng.integers(len(drawings))]
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top, side = box
    sprite = sprite.resize((side, side), Image.Resampling.BOX if side < 48 else Image.Resampling.BILINEAR)
    sprite = sprite.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)
    layer = Image.new("RGBa", (SIDE, SIDE))
    layer.paste(sprite, (left, top))
    pixels = np.asarray(layer).astype(np.float32) / 255
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    tint = rng.uniform(0.85, 1.15, 3).astype(np.float32)
    return np.minimum(colour * tint, alpha), alpha


def soften(alpha: np.ndarray) -> np.ndarray:
    """Blur a [128, 128, 1] alpha, for a shadow that sets an object off a background of its own brightness."""
    return gaussian_filter(alpha[..., 0], 2, truncate=2.5)[..., None]


def cover(alpha: np.ndarray) -> np.ndarray:
    """Average a [128, 128, 1] alpha over the latent's cells -> float32 [16, 16]."""
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
    image = draw_background(rng)
    alphas: dict[str, np.ndarray] = {}
    for name, box in zip(names, place(rng, len(names)), strict=True):
        colour, alpha = draw_object(rng, name, box)
        image = image * (1 - SHADOW * soften(alpha)) * (1 - alpha) + colour
        alphas = {other: hidden * (1 - alpha) for other, hidden in alphas.items()} | {name: alpha}
    image = apply_style(np.clip(image, 0, 1), style, rng)
    return Scene(
        image=np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8),
        objects=names,
        style=style,
        masks={name: cover(alpha) for name, alpha in alphas.items()},
        caption=caption(names, style),
    )
