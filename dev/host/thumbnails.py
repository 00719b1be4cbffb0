"""Make the thumbnails of the workflows: ``python dev/host/thumbnails.py [NAME ...]``.

ComfyUI's template browser shows ``workflows/<name>.jpg`` half as wide as it is, so there are few images in it. Each
workflow is run on a real server as it is, and the first image of each node that shows any is taken; reports only where
there is hardly anything else. A workflow that needs files of the user's cannot be run: its thumbnail says for what it
is.
"""

import io
import json
import re
import sys
from typing import Any

import numpy as np
from demo import images_of, report_images
from live_server import LiveServer
from load import ROOT
from PIL import Image
from workflow import to_prompt

WIDTH, GAP = 512, 4
IN_A_ROW = 3
REPORTS = {f"ConceptErasure{name}" for name in ("ConceptFinder", "ConceptFromMask", "ErasureReport", "SAETrainer")}
FOR = {"erase_sd15": "SD1.5", "erase_sdxl": "SDXL"}
HEIGHT, LARGE, SMALL = 256, 150, 36  # of a thumbnail in words, and of their letters, in pixels
CAPTION_FROM = 0.4  # share of an image's height; what is plain above belongs to the image
LIMIT = 7200.0  # seconds; one of them trains


def main() -> None:
    """Run the workflows, or those named, and write their thumbnails."""
    paths = sorted((ROOT / "workflows").glob("*.json"))
    with LiveServer() as server:
        for path in [path for path in paths if path.stem in sys.argv[1:] or not sys.argv[1:]]:
            images = [] if path.stem in FOR else taken(server, json.loads(path.read_text(encoding="utf-8")))
            thumbnail = sheet(images) if images else said(FOR[path.stem])
            thumbnail.save(path.with_suffix(".jpg"), quality=88)
            print(f"{path.stem}: {len(images)} images")


def taken(server: LiveServer, workflow: dict[str, Any]) -> list[Image.Image]:
    """Run a workflow and return what its thumbnail shows."""
    shown: dict[str, bytes] = {}
    for title, png in images_of(server, workflow, LIMIT).items():
        shown.setdefault(re.sub(r" \d+$", "", title), png)
    prompt = to_prompt(workflow, server.object_info())
    reports = {node["_meta"]["title"] for node in prompt.values() if node["class_type"] in REPORTS}
    others = {title: png for title, png in shown.items() if title not in reports}
    chosen = others if len(others) > 1 else shown
    return [Image.open(io.BytesIO(png)).convert("RGB") for png in chosen.values()]


def said(model: str) -> Image.Image:
    """Return what a thumbnail says of a workflow for a model of the user's."""
    drawing = report_images()
    rows = [
        [drawing.words(model, WIDTH, LARGE)],
        [drawing.words("your own checkpoint and SAE", WIDTH, SMALL)],
    ]
    written = drawing.sheet(rows)
    whole = Image.new("RGB", (WIDTH, HEIGHT), written.getpixel((0, 0)))
    whole.paste(written, (0, (HEIGHT - written.height) // 2))
    return whole


def sheet(images: list[Image.Image]) -> Image.Image:
    """Return images side by side, `WIDTH` wide, at most `IN_A_ROW` beside each other.

    Of several only the first square of each is kept, without its caption.
    """
    drawing = report_images()
    if len(images) == 1:
        alone: Image.Image = drawing.scaled(images[0], WIDTH)
        return alone
    rows = -(-len(images) // IN_A_ROW)
    columns = -(-len(images) // rows)
    side = (WIDTH - GAP * (columns - 1)) // columns
    squares = [first_square(image) for image in images]
    drawn = drawing.sheet(drawing.in_rows([drawing.scaled(each, side) for each in squares], columns), GAP)
    whole = Image.new("RGB", (WIDTH, drawn.height), drawn.getpixel((drawn.width - 1, drawn.height - 1)))
    whole.paste(drawn)  # a few columns' width may have been lost in rounding
    return whole


def first_square(image: Image.Image) -> Image.Image:
    """Return the largest square at the upper left that reaches into no caption below."""
    plain = np.asarray(image.convert("L")).std(axis=1) < 1  # a row of one color is between an image and its caption
    captioned = image.width != image.height
    ends = [int(row) for row in np.flatnonzero(plain) if captioned and row > CAPTION_FROM * image.height]
    side = min(*image.size, *ends)
    return image.crop((0, 0, side, side))


if __name__ == "__main__":
    main()
