"""The styles of the demo model: filters over a whole picture, float32 [256, 256, 3], 0 to 1.

Patterns (grid, tiles, dots) keep to the latent's 8-pixel grid, so that a small decoder can draw them sharply.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def gray(image: np.ndarray) -> np.ndarray:
    """Return the brightness, [H, W, 1]."""
    return (image @ LUMA)[..., None]


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a picture of one or three channels, 0 to 1; values outside are clipped."""
    # Pillow's blur takes bytes, and is several times faster than a blur of floats.
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    soft = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(soft, np.float32).reshape(image.shape) / 255


def edges(image: np.ndarray) -> np.ndarray:
    """Return how sharply the strongest channel changes, about 0 to 1, [H, W, 1]."""
    soft = blur(image, 1.0)
    dy = np.diff(soft, axis=0, append=soft[-1:])
    dx = np.diff(soft, axis=1, append=soft[:, -1:])
    change = dx * dx + dy * dy
    # Two maxima of planes are much faster than one along the last axis.
    return 6 * np.sqrt(np.maximum(np.maximum(change[..., :1], change[..., 1:2]), change[..., 2:]))


def lines_of(image: np.ndarray, gain: float, floor: float) -> np.ndarray:
    """Return smooth outlines, 0 to 1, [H, W, 1]."""
    return blur(np.clip(gain * edges(image) - floor, 0, 1), 0.6)


def vignette(image: np.ndarray, strength: float) -> np.ndarray:
    """Darken the corners."""
    line = np.linspace(-1, 1, image.shape[0], dtype=np.float32) ** 2
    return image * (1 - strength * (line[:, None] + line[None]) / 2)[..., None]


def photo(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Warm light, a little more contrast, and dark corners."""
    contrast = image + 0.12 * np.sin(2 * np.pi * (image - 0.5)) * 0.5
    return vignette(contrast * np.array([1.02, 1.0, 0.97], np.float32), rng.uniform(0.15, 0.35))


def sepia(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brown tones with dark corners."""
    tone = 0.1 + 0.88 * gray(image)
    return vignette(tone * np.array([1.0, 0.83, 0.6], np.float32), rng.uniform(0.3, 0.5))


def sketch(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pencil lines on paper, shaded in three tones."""
    lines = lines_of(image, 1.9, 0.1)
    light = blur(gray(image), 1.2)
    shade = 0.97 - 0.1 * np.clip((0.62 - light) * 9, 0, 1) - 0.14 * np.clip((0.38 - light) * 9, 0, 1)
    return (shade - 0.72 * lines) * np.array([1.0, 0.99, 0.96], np.float32)


def blueprint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White lines on blue paper with a grid."""
    paper = np.array([0.06, 0.22, 0.55], np.float32) + 0.12 * gray(image)
    grid = np.zeros(image.shape[:2], np.float32)
    grid[::32] = grid[:, ::32] = 0.14
    lines = lines_of(image, 2.0, 0.1)
    return paper + grid[..., None] + lines * (np.array([0.9, 0.96, 1.0], np.float32) - paper)


def neon(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Glowing, fully colored outlines in the dark."""
    soft = blur(image, 2.0)
    hue = soft - soft.min(axis=-1, keepdims=True) + 0.08
    hue = hue / hue.max(axis=-1, keepdims=True)
    lines = lines_of(image, 2.4, 0.12) * hue
    return np.array([0.03, 0.02, 0.08], np.float32) + 0.14 * soft * hue + lines + 0.8 * blur(lines, 4.0)


def mosaic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tiles of 8 x 8 pixels with light joints."""
    height, width, channels = image.shape
    tiles = image.reshape(height // 8, 8, width, channels).mean(axis=1)
    tiles = tiles.reshape(height // 8, width // 8, 8, channels).mean(axis=2)
    out = np.clip(1.12 * (tiles - 0.5) + 0.52, 0, 1).repeat(8, axis=0).repeat(8, axis=1)
    out[7::8] = 0.55 * out[7::8] + 0.3
    out[:, 7::8] = 0.55 * out[:, 7::8] + 0.3
    return out


def watercolor(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pale washes with uneven pigment, darker at their borders."""
    soft = blur(image, 1.6)
    spots = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).resize(
        (image.shape[1], image.shape[0]), Image.Resampling.BICUBIC
    )
    pigment = (np.asarray(spots, np.float32)[..., None] / 255 - 0.5) * 0.22
    return 0.36 + 0.6 * (soft + pigment * (1 - soft)) - 0.3 * lines_of(soft, 1.6, 0.12)


def comic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Few, vivid tones, dots in the dark ones, and black outlines."""
    vivid = blur(gray(image) + 1.5 * (image - gray(image)), 1.0)
    steps = np.clip(vivid, 0, 1) * 4
    flat = (np.floor(steps) + np.clip((steps % 1 - 0.5) * 5 + 0.5, 0, 1)) / 4
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)
    away = np.sqrt((x % 8 - 3.5) ** 2 + (y % 8 - 3.5) ** 2)
    dots = np.clip(3.2 - away, 0, 1)[..., None] * np.clip((0.6 - gray(flat)) * 4, 0, 1)
    return (flat + 0.06 - 0.16 * dots) * (1 - lines_of(image, 3.0, 0.3))


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
