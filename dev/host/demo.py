"""Erase a concept on a real ComfyUI server and show it: ``nox -s demo``.

Runs workflows/quickstart.json as it is and writes every picture it shows, and one sheet of all of them side by
side, to ``demo_output/``.
"""

import io
import json
import re
import time
from pathlib import Path

from live_server import LiveServer
from load import ROOT
from PIL import Image, ImageDraw
from workflow import to_prompt

WORKFLOW = ROOT / "workflows" / "quickstart.json"
OUTPUT = ROOT / "demo_output"
HEIGHT = 384
MARGIN = 8
CAPTION = 20


def main() -> None:
    """Start the server, run the workflow, save and name the pictures."""
    start = time.monotonic()
    print("Starting ComfyUI ...", flush=True)
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    with LiveServer() as server:
        print(f"Running {WORKFLOW.relative_to(ROOT)} ...", flush=True)
        pictures = pictures_of(server, workflow)
    if not pictures:
        raise SystemExit(f"{WORKFLOW.name} showed no picture.")
    for path, what in save(pictures):
        print(f"  {path.relative_to(ROOT)}: {what}")
    print(f"Done in {time.monotonic() - start:.0f} s.")


def pictures_of(server: LiveServer, workflow: dict, limit: float = 240.0) -> dict[str, bytes]:
    """Run a workflow and return the PNG files it shows, by the title of the node that shows them, left to right.

    Args:
        limit: seconds that it may take.
    """
    prompt = to_prompt(workflow, server.object_info())
    shown = server.run(prompt, limit)
    pictures = {}
    for node in left_to_right(workflow, shown):
        for index, png in enumerate(shown[node]):
            title = prompt[node]["_meta"]["title"]
            pictures[title if index == 0 else f"{title} {index + 1}"] = png
    return pictures


def left_to_right(workflow: dict, shown: dict[str, list[bytes]]) -> list[str]:
    """Return the ids of the nodes that showed pictures, as a person reads the graph."""
    places = {str(node["id"]): tuple(node["pos"][:2]) for node in workflow["nodes"]}
    return sorted(shown, key=lambda node: places[node])


def save(pictures: dict[str, bytes]) -> list[tuple[Path, str]]:
    """Write the pictures and the sheet.

    Args:
        pictures: PNG files by the title of the node that showed them.

    Returns:
        What was written, the sheet last: (path, title).
    """
    OUTPUT.mkdir(exist_ok=True)
    written = []
    for title, png in pictures.items():
        path = OUTPUT / f"{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_')}.png"
        path.write_bytes(png)
        written.append((path, title))
    sheet = OUTPUT / "side_by_side.png"
    side_by_side({title: Image.open(io.BytesIO(png)) for title, png in pictures.items()}).save(sheet)
    return [*written, (sheet, "all of them, side by side")]


def side_by_side(pictures: dict[str, Image.Image]) -> Image.Image:
    """Return one picture with all of them at the same height, each under its title."""
    scaled = {
        title: picture.convert("RGB").resize((round(picture.width * HEIGHT / picture.height), HEIGHT))
        for title, picture in pictures.items()
    }
    width = sum(picture.width + MARGIN for picture in scaled.values()) + MARGIN
    sheet = Image.new("RGB", (width, HEIGHT + CAPTION + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    left = MARGIN
    for title, picture in scaled.items():
        draw.text((left, MARGIN), title, fill="black")
        sheet.paste(picture, (left, MARGIN + CAPTION))
        left += picture.width + MARGIN
    return sheet


if __name__ == "__main__":
    main()
