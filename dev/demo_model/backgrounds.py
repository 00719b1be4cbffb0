"""What stands behind the objects of the demo model: open land, a room, a backdrop, or soft color.

Every function returns float32 [side, side, 3], 0 to 1, and draws all its choices from `rng`.
"""

import numpy as np
from PIL import Image

# Pairs of colors from top to bottom, each a picture's sky; and what may lie under it.
SKIES = (
    ("#5aa9e6", "#d9f0fb"),
    ("#8ecdf0", "#fdf3d8"),
    ("#f7b58a", "#fde7c3"),
    ("#b9a6e0", "#fbd9d3"),
    ("#9fd9cf", "#f2fae6"),
    ("#29477c", "#7fa0c9"),
    ("#c9d6df", "#f4f6f7"),
)
GROUNDS = ("#7bbf5a", "#a6cf6d", "#e6cf96", "#eef2f6", "#b98d5f", "#5fa58a", "#c5b3dc", "#d99a6c")
WALLS = ("#f3d9c4", "#cfe3dc", "#dcd3ea", "#f6e6b4", "#c4d8ea", "#e8c3c0", "#d7dcc0", "#9db4c0")
FLOORS = ("#c69c6d", "#a97f57", "#d8c3a5", "#8f9aa3", "#b5a8b9", "#e0d6c8")


def rgb(code: str) -> np.ndarray:
    """``"#ff8000"`` -> float32 [3], 0 to 1."""
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def pick(rng: np.random.Generator, codes: tuple[str, ...]) -> np.ndarray:
    """Return one of the colors, a little changed."""
    return np.clip(rgb(codes[rng.integers(len(codes))]) + rng.uniform(-0.06, 0.06, 3), 0, 1).astype(np.float32)


def smooth_noise(rng: np.random.Generator, side: int, cells: tuple[int, int]) -> np.ndarray:
    """Return noise with `cells` (rows, columns) of detail, float32 [side, side, 1], 0 to 1."""
    small = Image.fromarray(rng.integers(0, 256, cells, dtype=np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.float32)[..., None] / 255


def ramp(top: np.ndarray, bottom: np.ndarray, side: int) -> np.ndarray:
    """Return a gradient from top to bottom."""
    share = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    return np.broadcast_to(top + share * (bottom - top), (side, side, 3)).copy()


def cover(image: np.ndarray, color: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Paint everything below a line (a height in pixels for each column, [side]) in a color or picture."""
    rows = np.arange(len(line), dtype=np.float32)[:, None]
    share = np.clip(rows - line[None] + 0.5, 0, 1)[..., None]
    return image + share * (color - image)


def hill_line(rng: np.random.Generator, side: int, height: float, swing: float) -> np.ndarray:
    """Return a rolling horizon, [side]."""
    x = np.linspace(0, 2 * np.pi, side, dtype=np.float32)
    waves = sum(
        rng.uniform(0.3, 1) / k * np.sin(k * x * rng.uniform(0.6, 1.1) + rng.uniform(0, 6.28)) for k in (1, 2, 3)
    )
    return (side * (height + swing * waves)).astype(np.float32)


def land(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return ground under a sky: a sun or none, none to two rows of hills, and a textured foreground."""
    sky = SKIES[rng.integers(len(SKIES))]
    image = ramp(pick(rng, sky[:1]), pick(rng, sky[1:]), side)
    if rng.random() < 0.5:
        image += 0.16 * np.clip(smooth_noise(rng, side, (7, 3)) - 0.55, 0, 1) * 2
    if rng.random() < 0.45:
        y, x = np.mgrid[0:side, 0:side].astype(np.float32)
        at, radius = rng.uniform(0.12, 0.88) * side, rng.uniform(0.05, 0.09) * side
        away = np.sqrt((x - at) ** 2 + (y - rng.uniform(0.1, 0.3) * side) ** 2)
        image += np.clip(radius - away + 0.5, 0, 1)[..., None] * (np.array([1, 0.95, 0.75], np.float32) - image)
    ground = pick(rng, GROUNDS)
    horizon = rng.uniform(0.5, 0.68)
    for i in range(int(rng.integers(0, 3)), 0, -1):
        hill = ground + (image[side // 2, 0] - ground) * (0.3 + 0.25 * i)
        image = cover(image, hill, hill_line(rng, side, horizon - 0.07 * i, 0.05))
    rough = smooth_noise(rng, side, (int(rng.integers(10, 24)), int(rng.integers(5, 10)))) - 0.5
    near = ramp(ground * 1.0, ground * 0.86, side) + 0.1 * rough
    return cover(image, near, hill_line(rng, side, horizon, 0.012))


def room(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a wall, plain, striped or dotted, over a floor."""
    wall, floor = pick(rng, WALLS), pick(rng, FLOORS)
    image = ramp(wall * 1.02, wall * 0.93, side)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    pattern = rng.integers(3)
    if pattern == 1:
        image *= 1 - 0.06 * np.clip(2 * np.sin(2 * np.pi * x / 32), -1, 1)[..., None].clip(0)
    elif pattern == 2:
        away = np.sqrt(((x + 16 * (y // 32 % 2)) % 32 - 16) ** 2 + (y % 32 - 16) ** 2)
        image *= 1 - 0.1 * np.clip(5 - away, 0, 1)[..., None]
    height = np.full(side, side * rng.uniform(0.62, 0.76), np.float32)
    image = cover(image, 0.5 * wall + 0.5, height - 5)
    planks = floor * (0.94 + 0.1 * smooth_noise(rng, side, (18, 3)))
    return cover(image, planks, height)


def backdrop(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a studio's backdrop, light behind the object."""
    color = pick(rng, WALLS + SKIES[0] + GROUNDS[:2])
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    away = np.sqrt((x - rng.uniform(0.3, 0.7)) ** 2 + (y - rng.uniform(0.25, 0.55)) ** 2)[..., None]
    image = color * (1.12 - 0.55 * away)
    return cover(image, image * 0.88, np.full(side, side * rng.uniform(0.68, 0.85), np.float32))


def soft_color(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return two colors that flow into each other."""
    first, second = pick(rng, WALLS), pick(rng, SKIES[rng.integers(len(SKIES))])
    cells = int(rng.integers(3, 6))
    return first + smooth_noise(rng, side, (cells, cells)) * (second - first)


KINDS = (land, land, land, room, room, backdrop, soft_color)


def draw_background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a background of any kind."""
    return np.clip(KINDS[rng.integers(len(KINDS))](rng, side), 0, 1).astype(np.float32)
