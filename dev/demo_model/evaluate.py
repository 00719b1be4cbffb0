"""How good is the small world? Judge its images, measure its VAE, and draw a contact sheet.

``python dev/host dev.demo_model.evaluate`` samples 20 steps through ComfyUI's sampler on the reporting seeds, prints a
Markdown table with 95 % intervals, and one of the VAE's peak signal-to-noise ratio on held-out scenes, and writes
``docs/images/canvas_sheet.jpg``.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS, STYLES, caption
from ...reports.images import captioned, in_rows, sheet, to_pil
from . import judges, scenes
from .sampling import CFG, REPORTING_SEEDS, SAMPLER, STEPS, generate
from .shares import wilson

SHEET = Path(__file__).parents[2] / "docs" / "images" / "canvas_sheet.jpg"
FIRST_SEED = REPORTING_SEEDS.start + 500_000  # apart from the seeds that erasure is reported on


def interval(hits: list[bool]) -> str:
    """Return a share in percent with its 95 % Wilson interval and the number of pictures."""
    low, high = wilson(hits)
    return f"{100 * np.mean(hits):.1f} ({100 * low:.1f} to {100 * high:.1f}), n {len(hits)}"


def contents(singles: int, pairs: int) -> list[tuple[tuple[str, ...], str]]:
    """Return objects and style of all images; objects and styles take turns."""
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
    judge = judges.load()
    listed = contents(singles, pairs)
    seeds = range(FIRST_SEED, FIRST_SEED + len(listed))
    images = generate(model, clip, vae, [caption(*one) for one in listed], seeds, batch=batch)
    objects, styles = judge.classify(images)
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


@torch.inference_mode()
def print_round_trip(count: int) -> None:
    """Print the peak signal-to-noise ratio in dB of held-out scenes that went through the VAE, by style."""
    _, _, vae = checkpoint.load()
    errors = {}
    for place, style in enumerate(STYLES):
        seeds = scenes.HELD_OUT[place * count : (place + 1) * count]
        drawn = np.stack([scenes.render(seed, style=style).image for seed in seeds])
        pixels = torch.from_numpy(drawn).float() / 255
        errors[style] = float(((vae.decode(vae.encode(pixels)) - pixels) ** 2).mean())
    errors = {"all": float(np.mean(list(errors.values()))), **errors}
    print(f"\n| VAE, n {count} a style | dB |\n|---|---|")
    for style, error in errors.items():
        print(f"| {style} | {-10 * np.log10(error):.1f} |")


def draw_sheet() -> None:
    """Draw every object in four styles, and a row of pairs."""
    model, clip, vae = checkpoint.load()
    listed: list[tuple[tuple[str, ...], str]] = [
        ((name,), STYLES[(i + 2 * k) % len(STYLES)]) for i, name in enumerate(OBJECTS) for k in range(4)
    ]
    listed += [((OBJECTS[i], OBJECTS[-1 - i]), STYLES[i % len(STYLES)]) for i in range(8)]
    seeds = range(FIRST_SEED + 10_000, FIRST_SEED + 10_000 + len(listed))
    images = generate(model, clip, vae, [caption(*one) for one in listed], seeds)
    tiles = [
        captioned(to_pil(image), f"{' + '.join(names)}, {style}", 11)
        for image, (names, style) in zip(images, listed, strict=True)
    ]
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    sheet(in_rows(tiles, 8)).save(SHEET, quality=85)
    print(f"\n{SHEET.relative_to(Path(__file__).parents[2])}")


def main() -> None:
    """Print the tables and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--singles", type=int, default=640)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--scenes", type=int, default=100, help="that the VAE is measured on, for each style")
    parser.add_argument("--batch", type=int, default=40)
    arguments = parser.parse_args()
    measure(arguments.singles, arguments.pairs, arguments.batch)
    print_round_trip(arguments.scenes)
    draw_sheet()
