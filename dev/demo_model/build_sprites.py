"""Render the drawings of the demo model into one atlas, ``dev/demo_model/sprites.png`` (development only).

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
COLUMNS = 10

# Three or four drawings an object. Cats and dogs whose outlines nearly agree between sets are left out.
DRAWINGS = {
    "architecture": "N:classical-building L:classical-building N:house F:house",
    "bear": "N:bear L:bear N:teddy-bear F:teddy-bear",
    "bird": "N:bird N:duck N:parrot L:parrot",
    "butterfly": "N:butterfly F:butterfly N:monarch-butterfly",
    "cat": "N:cat N:black-cat N:cat-face L:cat",
    "dog": "N:dog N:poodle N:dog-face L:dog-face",
    "fish": "N:fish X:fish N:tropical-fish L:tropical-fish",
    "flame": "N:fire F:fire L:fire",
    "flower": "N:tulip L:sunflower N:hibiscus N:rose",
    "frog": "N:frog F:frog L:frog",
    "horse": "N:horse F:horse X:horse N:horse-face",
    "human": "N:woman-dancing N:man-dancing F:man-dancing X:dancer",
    "jellyfish": "N:jellyfish F:jellyfish L:jellyfish",
    "rabbit": "N:rabbit L:rabbit N:rabbit-face",
    "sandwich": "N:sandwich F:sandwich L:sandwich",
    "sea": "N:water-wave F:water-wave L:water-wave",
    "statue": "N:statue-of-liberty L:statue-of-liberty N:moai F:moai",
    "tower": "N:tokyo-tower F:tokyo-tower L:tokyo-tower",
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
        f'<path d="M{x} {14 + 3 * (i % 3)}V{72 - 5 * (i % 2)}" stroke="#fff" stroke-width="2.4" '
        'stroke-linecap="round" opacity=".85"/>'
        for i, x in enumerate(range(left + 4, right - 2, 6))
    )
    foam = "".join(
        f'<circle cx="{x}" cy="{77 + 2 * (i % 2)}" r="{5 + i % 2}" fill="#fff"/>'
        for i, x in enumerate(range(left - 3, right + 7, 7))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><defs>
    <linearGradient id="r" x1="0" x2="0" y1="0" y2="1"><stop stop-color="{rock}"/>
    <stop offset="1" stop-color="{rock}" stop-opacity=".86"/></linearGradient></defs>
    <path d="M6 88V22Q8 12 20 12H78Q88 12 90 24V88Z" fill="{rock}"/>
    <path d="M8 44l14-8 8 14-12 12zM70 32l14 8-4 16-14-8zM10 70l12-6 4 12-10 6zM72 66l14-4 2 14-10 4z"
     fill="#000" opacity=".2"/>
    <path d="M8 30l12-8 6 8-10 8zM72 56l10-6 6 6-8 8z" fill="#fff" opacity=".18"/>
    <path d="M4 28Q6 6 22 6H{left}V20Q26 16 22 22T12 24Q8 30 4 28ZM{right} 6H76Q90 6 92 28Q88 30 84 24T74 22
     Q70 16 {right} 20Z" fill="{grass}"/>
    <path d="M{left} 8Q{(left + right) // 2} 2 {right} 8V80H{left}Z" fill="{water}"/>{streaks}
    <ellipse cx="48" cy="85" rx="46" ry="10" fill="{water}"/>
    <path d="M10 87h14M70 88h16M34 91h26" stroke="#fff" stroke-width="1.8" stroke-linecap="round" opacity=".7"/>
    {foam}</svg>"""


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

    big = 2 * SPRITE_SIDE
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
