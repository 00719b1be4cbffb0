"""The styles of the small world: filters over a whole picture, float32 [128, 128, 3], 0 to 1.

Patterns (grid, tiles, dots) keep to the latent's 8-pixel grid, so that a small decoder can learn them.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def gray(image: np.ndarray) -> np.ndarray:
    """Return the brightness, [H, W, 1]."""
    return (image @ LUMA)[..., None]


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur the picture but not across channels."""
    return gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=2.5)


def edges(image: np.ndarray) -> np.ndarray:
    """Return how sharply the strongest channel changes, about 0 to 1, [H, W, 1]."""
    soft = blur(image, 0.7)
    dy = np.diff(soft, axis=0, append=soft[-1:])
    dx = np.diff(soft, axis=1, append=soft[:, -1:])
    return np.sqrt(dx**2 + dy**2).max(axis=-1, keepdims=True) * 5


def vignette(image: np.ndarray, strength: float) -> np.ndarray:
    """Darken the corners."""
    line = np.linspace(-1, 1, image.shape[0], dtype=np.float32) ** 2
    return image * (1 - strength * (line[:, None] + line[None]) / 2)[..., None]


def photo(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft, with dark corners."""
    return vignette(blur(image, 0.4), rng.uniform(0.2, 0.4))


def sepia(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brown tones with dark corners."""
    tone = 0.12 + 0.85 * blur(gray(image), 0.4)
    return vignette(tone * np.array([1.0, 0.82, 0.58], np.float32), rng.uniform(0.3, 0.5))


def sketch(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark lines on paper, faintly shaded."""
    lines = np.clip(1.5 * edges(image) - 0.08, 0, 1)
    shade = 0.78 + 0.2 * gray(image)
    return (shade - 0.72 * lines) * np.array([1.0, 0.99, 0.96], np.float32)


def blueprint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White lines on blue paper with a grid."""
    paper = np.array([0.05, 0.2, 0.55], np.float32) + 0.16 * gray(image)
    grid = np.zeros(image.shape[:2], np.float32)
    grid[::16] = grid[:, ::16] = 0.1
    lines = np.clip(1.6 * edges(image) - 0.08, 0, 1)
    return paper + grid[..., None] + lines * (np.array([0.85, 0.95, 1.0], np.float32) - paper)


def neon(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Glowing, fully coloured outlines in the dark."""
    soft = blur(image, 1.0)
    hue = soft - soft.min(axis=-1, keepdims=True) + 0.08
    hue = hue / hue.max(axis=-1, keepdims=True)
    lines = np.clip(1.8 * edges(image) - 0.1, 0, 1) * hue
    return 0.12 * soft * hue + lines + 0.9 * blur(lines, 2.0)


def mosaic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tiles of 4 x 4 pixels with dark joints."""
    height, width, channels = image.shape
    tiles = image.reshape(height // 4, 4, width // 4, 4, channels).mean(axis=(1, 3))
    out = tiles.repeat(4, axis=0).repeat(4, axis=1) * 1.05
    out[3::4] *= 0.7
    out[:, 3::4] *= 0.7
    return out


def watercolor(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pale and blurred, with uneven pigment."""
    soft = blur(image, 1.3)
    pigment = gaussian_filter(rng.standard_normal(image.shape[:2]).astype(np.float32), 7) * 0.9
    washed = soft + pigment[..., None]
    return 0.42 + 0.56 * washed - 0.22 * np.clip(edges(soft) - 0.1, 0, 1)


def comic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Few, vivid tones, dots, and black outlines."""
    vivid = gray(image) + 1.6 * (image - gray(image))
    steps = np.clip(blur(vivid, 0.6), 0, 1) * 3
    flat = (np.floor(steps) + np.clip((steps % 1 - 0.5) * 6 + 0.5, 0, 1)) / 3
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    dots = (((x % 8 - 3.5) ** 2 + (y % 8 - 3.5) ** 2) < 5).astype(np.float32)[..., None]
    flat = flat + 0.1 - 0.14 * dots
    return flat * (1 - np.clip(2.4 * edges(image) - 0.25, 0, 1))


FILTERS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "blueprint": blueprint,
    "comic": comic,
    "mosaic": mosaic,
    "neon": neon,
    "photo": photo,
    "sepia": sepia,
    "sketch": sketch,
    "watercolor": watercolor,
}


def apply_style(image: np.ndarray, style: str, rng: np.random.Generator) -> np.ndarray:
    """Return the picture in a style of `vocabulary.STYLES`; may leave 0 to 1 a little."""
    return FILTERS[style](image.astype(np.float32), rng)
