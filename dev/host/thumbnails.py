"""Make the thumbnails of the workflows that need no files of the user's: ``python dev/host/thumbnails.py [NAME ...]``.

Each workflow is run on a real server as it is; ``workflows/<name>.jpg``, which ComfyUI's template browser shows, is
the first picture of each node that shows any.
"""

import io
import json
import re
import sys

from demo import pictures_of
from live_server import LiveServer
from load import ROOT
from PIL import Image

WIDTH, GAP = 512, 4
IN_A_ROW = 6
LIMIT = 7200.0  # seconds; one of them trains


def main() -> None:
    """Run the workflows, or those named, and write their thumbnails."""
    paths = sorted((ROOT / "workflows").glob("*.json"))
    with LiveServer() as server:
        for path in [path for path in paths if path.stem in sys.argv[1:] or not sys.argv[1:]]:
            workflow = json.loads(path.read_text(encoding="utf-8"))
            if not any(node["type"] == "ConceptErasureCanvasCheckpoint" for node in workflow["nodes"]):
                continue
            shown: dict[str, bytes] = {}
            for title, png in pictures_of(server, workflow, LIMIT).items():
                shown.setdefault(re.sub(r" \d+$", "", title), png)
            pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in shown.values()]
            sheet(pictures).save(path.with_suffix(".jpg"), quality=88)
            print(f"{path.stem}: {len(pictures)} pictures")


def sheet(pictures: list[Image.Image]) -> Image.Image:
    """Return pictures side by side, `WIDTH` wide, at most `IN_A_ROW` beside each other.

    Of several only the first square of each is kept.
    """
    if len(pictures) == 1:
        whole = pictures[0]
        return whole.resize((WIDTH, round(WIDTH * whole.height / whole.width)), Image.Resampling.LANCZOS)
    rows = -(-len(pictures) // IN_A_ROW)
    columns = -(-len(pictures) // rows)
    side = (WIDTH - GAP * (columns - 1)) // columns
    drawn = Image.new("RGB", (WIDTH, rows * (side + GAP) - GAP), "white")
    for i, picture in enumerate(pictures):
        square = picture.crop((0, 0, min(picture.size), min(picture.size)))
        place = (i % columns * (side + GAP), i // columns * (side + GAP))
        drawn.paste(square.resize((side, side), Image.Resampling.LANCZOS), place)
    return drawn


if __name__ == "__main__":
    main()
