"""Render the drawings of the small world into one atlas, ``dev/demo_model/sprites.png`` (development only).

The icon sets come from npm (see README.md in this folder); only the rendered atlas is committed.
``python dev/host dev.demo_model.build_sprites --icons FOLDER`` where FOLDER holds ``node_modules/@iconify-json``.
Needs resvg-py.
"""

import argparse
import io
import json
from pathlib import Path

from PIL import Image

from ...demo_model.vocabulary import OBJECTS
from .scenes import SPRITE_FILE, SPRITE_INDEX, SPRITE_SIDE

SETS = {"N": "noto", "F": "fluent-emoji", "L": "fluent-emoji-flat", "X": "fxemoji"}
COLUMNS = 12

# Three to five drawings an object. Cats and dogs whose outlines nearly agree between sets are left out.
DRAWINGS = {
    "architecture": "N:classical-building F:classical-building X:classicalbuilding N:house L:house",
    "bear": "N:bear L:bear N:teddy-bear F:teddy-bear",
    "bird": "N:bird L:bird F:duck L:parrot",
    "butterfly": "N:butterfly F:butterfly L:butterfly N:monarch-butterfly",
    "cat": "N:cat F:black-cat N:cat-face L:cat-face",
    "dog": "N:dog F:poodle N:dog-face F:dog-face",
    "fish": "N:fish L:fish X:fish N:tropical-fish",
    "flame": "N:fire F:fire L:fire X:fire",
    "flower": "N:tulip N:sunflower L:hibiscus F:sunflower",
    "frog": "N:frog F:frog L:frog X:frog",
    "horse": "N:horse F:horse X:horse L:horse-face",
    "human": "N:person-standing N:man-standing F:man-standing L:woman-standing",
    "jellyfish": "N:jellyfish F:jellyfish L:jellyfish",
    "rabbit": "N:rabbit F:rabbit N:rabbit-face F:rabbit-face",
    "sandwich": "N:sandwich F:sandwich L:sandwich",
    "sea": "N:water-wave F:water-wave L:water-wave X:wave",
    "statue": "N:statue-of-liberty L:statue-of-liberty N:moai F:moai",
    "tower": "N:tokyo-tower F:tokyo-tower L:tokyo-tower N:lighthouse",
    "tree": "N:deciduous-tree F:deciduous-tree N:evergreen-tree L:evergreen-tree",
    "waterfall": "own:0 own:1 own:2",
}

# No set has a waterfall, so these are this project's own: rock, grass, water, and where the water falls.
WATERFALLS = (
    ("#7a5c43", "#5fa83c", "#3aa0e0", 34, 62),
    ("#6b7078", "#3f8f4f", "#5cc0f0", 28, 56),
    ("#8d6748", "#79b83a", "#2f86d0", 42, 76),
)


def waterfall_svg(variant: int) -> str:
    """Return the drawing of a cliff with water falling over it into a pool, 96 x 96 units."""
    rock, grass, water, left, right = WATERFALLS[variant]
    streaks = "".join(
        f'<path d="M{x} 12V{74 - 4 * (i % 2)}" stroke="#fff" stroke-width="2.6" stroke-linecap="round" opacity=".8"/>'
        for i, x in enumerate(range(left + 5, right - 3, 7))
    )
    foam = "".join(f'<circle cx="{x}" cy="78" r="6" fill="#fff"/>' for x in range(left - 2, right + 6, 8))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96">
    <path d="M6 88V22Q8 12 20 12H78Q88 12 90 24V88Z" fill="{rock}"/>
    <path d="M10 44l14-6 6 14-12 10zM74 34l12 8-4 14-12-6z" fill="#000" opacity=".18"/>
    <path d="M6 26Q8 8 22 8H{left}V18H20Q12 18 6 26ZM{right} 8H76Q88 8 90 26Q84 18 76 18H{right}Z" fill="{grass}"/>
    <path d="M{left} 8H{right}V80H{left}Z" fill="{water}"/>{streaks}
    <ellipse cx="48" cy="84" rx="45" ry="10" fill="{water}"/>{foam}</svg>"""


def icon_svg(icons: dict, name: str) -> str:
    """Return icon `name` of an Iconify set as an SVG document."""
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}">{icon["body"]}</svg>'
    )


def render_sprite(svg: str) -> Image.Image:
    """Render an SVG, cut it to what is visible and fit that into a square of `SPRITE_SIDE`, RGBA."""
    import resvg_py  # not a dependency of the pack: only who rebuilds the atlas needs it

    big = 4 * SPRITE_SIDE
    png = resvg_py.svg_to_bytes(svg_string=svg, width=big, height=big, skip_system_fonts=True)
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    # A faint glow around an icon would make its box too large.
    image = image.crop(image.getchannel("A").point(lambda a: 255 if a > 40 else 0).getbbox())
    scale = SPRITE_SIDE / max(image.size)
    image = image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SPRITE_SIDE, SPRITE_SIDE))
    square.paste(image, ((SPRITE_SIDE - image.width) // 2, (SPRITE_SIDE - image.height) // 2))
    return square


def main() -> None:
    """Render every drawing and write the atlas with its index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--icons", type=Path, required=True, help="folder with node_modules/@iconify-json")
    root = parser.parse_args().icons / "node_modules" / "@iconify-json"
    sets = {key: json.loads((root / name / "icons.json").read_text()) for key, name in SETS.items()}
    sprites: list[Image.Image] = []
    index: dict[str, list[int]] = {}
    for name in OBJECTS:
        index[name] = []
        for drawing in DRAWINGS[name].split():
            source, icon = drawing.split(":")
            svg = waterfall_svg(int(icon)) if source == "own" else icon_svg(sets[source], icon)
            index[name].append(len(sprites))
            sprites.append(render_sprite(svg))
    rows = -(-len(sprites) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * SPRITE_SIDE, rows * SPRITE_SIDE))
    for i, sprite in enumerate(sprites):
        atlas.paste(sprite, (i % COLUMNS * SPRITE_SIDE, i // COLUMNS * SPRITE_SIDE))
    atlas.save(SPRITE_FILE, optimize=True)
    SPRITE_INDEX.write_text(json.dumps({"columns": COLUMNS, "sprites": index}, indent=1) + "\n")
    print(f"{len(sprites)} drawings, {SPRITE_FILE.stat().st_size / 1024:.0f} kB -> {SPRITE_FILE}")
