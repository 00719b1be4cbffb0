"""Make the thumbnails of the workflows that need no files of the user's: ``python host/thumbnails.py [NAME ...]``.

Each workflow is run on a real server as it is; its pictures stand side by side in ``workflows/<name>.jpg``, which
ComfyUI's template browser shows.
"""

import io
import json
import sys

from demo import pictures_of
from live_server import LiveServer
from load import ROOT
from PIL import Image

WIDTH, GAP = 512, 4
LIMIT = 7200.0  # seconds; one of them trains


def main() -> None:
    """Run the workflows, or those named, and write their thumbnails."""
    paths = sorted((ROOT / "workflows").glob("*.json"))
    with LiveServer() as server:
        for path in [path for path in paths if path.stem in sys.argv[1:] or not sys.argv[1:]]:
            workflow = json.loads(path.read_text(encoding="utf-8"))
            if not any(node["type"] == "ConceptErasureCanvasCheckpoint" for node in workflow["nodes"]):
                continue
            shown = pictures_of(server, workflow, LIMIT)
            pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in shown.values()]
            row(pictures).save(path.with_suffix(".jpg"), quality=88)
            print(f"{path.stem}: {len(pictures)} pictures")


def row(pictures: list[Image.Image]) -> Image.Image:
    """Return pictures side by side, `WIDTH` wide, each scaled to the same height.

    Of several only the first square of each is kept.
    """
    if len(pictures) == 1:
        whole = pictures[0]
        return whole.resize((WIDTH, round(WIDTH * whole.height / whole.width)), Image.Resampling.LANCZOS)
    side = (WIDTH - GAP * (len(pictures) - 1)) // len(pictures)
    sheet = Image.new("RGB", (WIDTH, side), "white")
    for i, picture in enumerate(pictures):
        square = picture.crop((0, 0, picture.height, picture.height)) if picture.width > picture.height else picture
        sheet.paste(square.resize((side, side), Image.Resampling.LANCZOS), (i * (side + GAP), 0))
    return sheet


if __name__ == "__main__":
    main()
