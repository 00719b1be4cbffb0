"""How good is the demo model? Judge its images, measure its VAE, and draw a contact sheet.

``python dev/host benchmarks.canvas --json docs/figures`` samples 20 steps through ComfyUI's sampler on the reporting
seeds, and writes ``canvas_images.json``, ``canvas_vae.json``, ``canvas_judges.json`` and ``canvas_parts.json`` there,
which the tables of docs/canvas.md show, and ``docs/images/canvas_sheet.jpg``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from ..demo_model import checkpoint
from ..demo_model.vocabulary import OBJECTS, STYLES, caption
from ..dev.demo_model import judges, scenes
from ..dev.demo_model.sampling import CFG, REPORTING_SEEDS, SAMPLER, STEPS, generate
from ..reports.images import captioned, in_rows, sheet, to_pil
from .framework import storage
from .framework.facts import facts
from .framework.tables import entry

SHEET = Path(__file__).parents[1] / "docs" / "images" / "canvas_sheet.jpg"
WIDTH = 1280  # of the sheet
FIRST_SEED = REPORTING_SEEDS.start + 500_000  # apart from the seeds that erasure is reported on
SETTING = f"{SAMPLER}, {STEPS} steps, cfg {CFG}."
Content = tuple[tuple[str, ...], str]
Row = dict[str, Any]


def contents(singles: int, pairs: int) -> list[Content]:
    """Return objects and style of all images; objects and styles take turns."""
    rng = np.random.default_rng(FIRST_SEED)
    listed: list[Content] = []
    for i in range(singles):
        listed.append(((OBJECTS[i % len(OBJECTS)],), STYLES[i // len(OBJECTS) % len(STYLES)]))
    for i in range(pairs):
        first = OBJECTS[i % len(OBJECTS)]
        second = str(rng.choice([name for name in OBJECTS if name != first]))
        listed.append(((first, second), STYLES[int(rng.integers(len(STYLES)))]))
    return listed


def row(setting: str, hits: Sequence[bool]) -> Row:
    """Return one row of shares."""
    return {"setting": setting, "columns": {"percent": entry("percent", hits)}}


def judged(listed: Sequence[Content], batch: int) -> list[Row]:
    """Generate images and return what the judges find in them, as rows."""
    model, clip, vae = checkpoint.load()
    judge = judges.load()
    images = generate(
        model, clip, vae, [caption(*one) for one in listed], range(FIRST_SEED, FIRST_SEED + len(listed)), batch=batch
    )
    objects, styles = judge.classify(images)
    shown = objects > judge.threshold
    truth = torch.tensor([[name in names for name in OBJECTS] for names, _ in listed])
    there, exact = (shown | ~truth).all(1).tolist(), (shown == truth).all(1).tolist()
    alone = [len(names) == 1 for names, _ in listed]
    right = [STYLES[style] == wanted for style, (_, wanted) in zip(styles.argmax(1), listed, strict=True)]
    rows = [
        row("the object is there", [hit for hit, one in zip(there, alone, strict=True) if one]),
        row("that object and no other", [hit for hit, one in zip(exact, alone, strict=True) if one]),
        row("both of two are there", [hit for hit, one in zip(there, alone, strict=True) if not one]),
        row("the style is right", right),
    ]
    for name in OBJECTS:
        rows.append(row(name, [hit for hit, (names, _) in zip(there, listed, strict=True) if names == (name,)]))
    return rows


@torch.inference_mode()
def round_trip(count: int) -> list[Row]:
    """Return the peak signal-to-noise ratio in dB of held-out scenes that went through the VAE, by style."""
    _, _, vae = checkpoint.load()
    errors = {}
    for place, style in enumerate(STYLES):
        seeds = scenes.HELD_OUT[place * count : (place + 1) * count]
        drawn = np.stack([scenes.render(seed, style=style).image for seed in seeds])
        pixels = torch.from_numpy(drawn).float() / 255
        errors[style] = float(((vae.decode(vae.encode(pixels)) - pixels) ** 2).mean())
    errors = {"all": float(np.mean(list(errors.values()))), **errors}
    return [{"setting": style, "columns": {"dB": round(-10 * np.log10(e), 1)}} for style, e in errors.items()]


def judges_rows() -> tuple[list[Row], int]:
    """Return the judges' accuracy on held-out scenes, as their file has it, and the number of scenes."""
    with safe_open(judges.DEFAULT_PATH, "pt") as file:
        known = json.loads(file.metadata()["facts"])
    rows = []
    for name in ("scenes", "reconstructions"):
        columns = {
            "each object": 100 * known[f"objects_each_{name}"],
            "all objects exactly": 100 * known[f"objects_exact_{name}"],
            "style": 100 * known[f"style_{name}"],
            "areas, IoU": known[f"area_iou_{name}"],
        }
        rows.append({"setting": name, "columns": columns})
    return rows, known["held_out_scenes"]


def parts() -> list[Row]:
    """Return the number of weights of each part of the checkpoint."""
    counts = {"UNet": 0, "text encoder": 0, "VAE": 0}
    with safe_open(checkpoint.DEFAULT_PATH, "pt") as file:
        for key in file.keys():
            name = {"unet": "UNet", "text": "text encoder", "vae": "VAE"}[key.split(".")[0]]
            counts[name] += int(np.prod(file.get_slice(key).get_shape()))
    return [{"setting": name, "columns": {"weights": count}} for name, count in counts.items()]


def seconds_an_image(times: int) -> float:
    """Return the median time of one image, from noise to pixels."""
    model, clip, vae = checkpoint.load()
    taken = []
    for seed in range(times + 1):
        started = time.perf_counter()
        generate(model, clip, vae, [caption((OBJECTS[seed],), STYLES[seed])], [FIRST_SEED + seed])
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def draw_sheet() -> None:
    """Draw every object in four styles, and a row of pairs."""
    model, clip, vae = checkpoint.load()
    listed: list[Content] = [
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
    whole = sheet(in_rows(tiles, 8))
    whole.resize((WIDTH, round(whole.height * WIDTH / whole.width))).save(SHEET, quality=85)


def main() -> None:
    """Measure, write the files, and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--singles", type=int, default=640)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--scenes", type=int, default=100, help="that the VAE is measured on, for each style")
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write the tables' files there")
    arguments = parser.parse_args()
    made_by = facts()  # before, so that what is edited meanwhile is not named
    accuracy, held_out = judges_rows()
    pace = f"One image takes {seconds_an_image(5):.1f} s, from noise to pixels (median of 5)."
    tables = {
        "images": ("of the images", judged(contents(arguments.singles, arguments.pairs), arguments.batch)),
        "vae": ("style", round_trip(arguments.scenes)),
        "judges": ("held-out", accuracy),
        "parts": ("part", parts()),
    }
    notes = {
        "images": [SETTING, pace],
        "vae": [f"{arguments.scenes} scenes a style."],
        "judges": [f"{held_out} scenes. Percent, and intersection over union."],
        "parts": [],
    }
    for name, (of, rows) in tables.items():
        print(json.dumps(rows))
        if arguments.json:
            content = {**made_by, "of": of, "rows": rows, "notes": notes[name]}
            storage.write_json(arguments.json / f"canvas_{name}.json", content)
    draw_sheet()
