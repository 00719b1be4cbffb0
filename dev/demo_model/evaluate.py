"""How good is the generator? Judge its pictures and draw a contact sheet.

``python dev/host dev.demo_model.evaluate`` samples 20 steps through ComfyUI's sampler on the reporting seeds, prints a
Markdown table with 95 % intervals, and writes ``docs/images/canvas_sheet.jpg``.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS, STYLES, caption
from . import classifiers
from .sampling import CFG, REPORTING_SEEDS, SAMPLER, STEPS, generate
from .shares import wilson

SHEET = Path(__file__).parents[2] / "docs" / "images" / "canvas_sheet.jpg"
FIRST_SEED = REPORTING_SEEDS.start + 500_000  # apart from the seeds that erasure is reported on


def interval(hits: list[bool]) -> str:
    """Return a share in percent with its 95 % Wilson interval and the number of pictures."""
    low, high = wilson(hits)
    return f"{100 * np.mean(hits):.1f} ({100 * low:.1f} to {100 * high:.1f}), n {len(hits)}"


def contents(singles: int, pairs: int) -> list[tuple[tuple[str, ...], str]]:
    """Return objects and style of all pictures; objects and styles take turns."""
    rng = np.random.default_rng(FIRST_SEED)
    listed: list[tuple[tuple[str, ...], str]] = []
    for i in range(singles):
        listed.append(((OBJECTS[i % len(OBJECTS)],), STYLES[i // len(OBJECTS) % len(STYLES)]))
    for i in range(pairs):
        first = OBJECTS[i % len(OBJECTS)]
        second = str(rng.choice([name for name in OBJECTS if name != first]))
        listed.append(((first, second), STYLES[int(rng.integers(len(STYLES)))]))
    return listed


def measure(singles: int, pairs: int, batch: int) -> None:
    """Generate, judge and print the table."""
    model, clip, vae = checkpoint.load()
    judge = classifiers.load()
    listed = contents(singles, pairs)
    seeds = range(FIRST_SEED, FIRST_SEED + len(listed))
    pictures = generate(model, clip, vae, [caption(*one) for one in listed], seeds, batch=batch)
    objects, styles = judge.classify(pictures)
    shown = objects > judge.threshold
    rows: dict[str, list[bool]] = {"object present": [], "exactly that object": [], "both present": [], "style": []}
    for found, style, (names, wanted) in zip(shown, styles.argmax(1), listed, strict=True):
        truth = torch.tensor([name in names for name in OBJECTS])
        if len(names) == 1:
            rows["object present"].append(bool(found[truth].all()))
            rows["exactly that object"].append(bool((found == truth).all()))
        else:
            rows["both present"].append(bool(found[truth].all()))
        rows["style"].append(STYLES[style] == wanted)
    print(f"{SAMPLER}, {STEPS} steps, cfg {CFG}\n\n| | percent (95 % interval) |\n|---|---|")
    for name, hits in rows.items():
        print(f"| {name} | {interval(hits)} |")
    for name in OBJECTS:
        hits = [bool(f[OBJECTS.index(name)]) for f, (n, _) in zip(shown, listed, strict=True) if n == (name,)]
        print(f"| {name} | {interval(hits)} |")


def draw_sheet() -> None:
    """Draw every object in four styles, and a row of pairs."""
    model, clip, vae = checkpoint.load()
    listed: list[tuple[tuple[str, ...], str]] = [
        ((name,), STYLES[(i + 2 * k) % len(STYLES)]) for i, name in enumerate(OBJECTS) for k in range(4)
    ]
    listed += [((OBJECTS[i], OBJECTS[-1 - i]), STYLES[i % len(STYLES)]) for i in range(8)]
    seeds = range(FIRST_SEED + 10_000, FIRST_SEED + 10_000 + len(listed))
    pictures = generate(model, clip, vae, [caption(*one) for one in listed], seeds)
    columns, side, line = 8, 128, 14
    rows = math.ceil(len(listed) / columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, (names, style)) in enumerate(zip(pictures, listed, strict=True)):
        x, y = i % columns * side, i // columns * (side + line)
        sheet.paste(Image.fromarray((picture.numpy() * 255).round().astype(np.uint8)), (x, y))
        draw.text((x + 2, y + side), f"{' + '.join(names)}, {style}"[:24], fill="black")
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(SHEET, quality=85)
    print(f"\n{SHEET.relative_to(Path(__file__).parents[2])}")


def main() -> None:
    """Print the table and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--singles", type=int, default=640)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--batch", type=int, default=40)
    arguments = parser.parse_args()
    measure(arguments.singles, arguments.pairs, arguments.batch)
    draw_sheet()
