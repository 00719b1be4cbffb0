"""Erase a concept on a real ComfyUI server and show it: ``nox -s demo``.

Runs workflows/quickstart.json as it is and writes every image it shows, and one sheet of all of them side by
side, to ``demo_output/``.
"""

import importlib
import io
import json
import re
import time
from pathlib import Path
from types import ModuleType

from live_server import LiveServer
from load import PACKAGE, ROOT, load_pack
from PIL import Image
from workflow import to_prompt

WORKFLOW = ROOT / "workflows" / "quickstart.json"
OUTPUT = ROOT / "demo_output"
HEIGHT = 512  # twice that of the shipped model's images, whose edges it keeps clean
MARGIN = 8


def main() -> None:
    """Start the server, run the workflow, save and name the images."""
    start = time.monotonic()
    print("Starting ComfyUI ...", flush=True)
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    with LiveServer() as server:
        print(f"Running {WORKFLOW.relative_to(ROOT)} ...", flush=True)
        images = images_of(server, workflow)
    if not images:
        raise SystemExit(f"{WORKFLOW.name} showed no image.")
    for path, what in save(images):
        print(f"  {path.relative_to(ROOT)}: {what}")
    print(f"Done in {time.monotonic() - start:.0f} s.")


def images_of(server: LiveServer, workflow: dict, limit: float = 240.0) -> dict[str, bytes]:
    """Run a workflow and return the PNG files it shows, by the title of the node that shows them, left to right.

    Args:
        limit: seconds that it may take.
    """
    prompt = to_prompt(workflow, server.object_info())
    shown = server.run(prompt, limit)
    images = {}
    for node in left_to_right(workflow, shown):
        for index, png in enumerate(shown[node]):
            title = prompt[node]["_meta"]["title"]
            images[title if index == 0 else f"{title} {index + 1}"] = png
    return images


def left_to_right(workflow: dict, shown: dict[str, list[bytes]]) -> list[str]:
    """Return the ids of the nodes that showed images, as a person reads the graph."""
    places = {str(node["id"]): tuple(node["pos"][:2]) for node in workflow["nodes"]}
    return sorted(shown, key=lambda node: places[node])


def save(images: dict[str, bytes]) -> list[tuple[Path, str]]:
    """Write the images and the sheet.

    Args:
        images: PNG files by the title of the node that showed them.

    Returns:
        What was written, the sheet last: (path, title).
    """
    OUTPUT.mkdir(exist_ok=True)
    written = []
    for title, png in images.items():
        path = OUTPUT / f"{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_')}.png"
        path.write_bytes(png)
        written.append((path, title))
    sheet = OUTPUT / "side_by_side.png"
    side_by_side({title: Image.open(io.BytesIO(png)) for title, png in images.items()}).save(sheet)
    return [*written, (sheet, "all of them, side by side")]


def side_by_side(images: dict[str, Image.Image]) -> Image.Image:
    """Return one image with all of them at the same height, each under its title."""
    drawing = report_images()
    panels = [
        drawing.titled(title, drawing.scaled(image.convert("RGB"), round(image.width * HEIGHT / image.height)))
        for title, image in images.items()
    ]
    whole: Image.Image = drawing.sheet([panels], MARGIN, MARGIN)
    return whole


def report_images() -> ModuleType:
    """Return the pack's own module that puts images together."""
    load_pack()
    return importlib.import_module(f"{PACKAGE}.reports.images")


if __name__ == "__main__":
    main()
