"""Make the thumbnails of the workflows that need no files of the user's: ``python host/thumbnails.py``.

Each workflow is run on a real server as it is; its pictures stand side by side in ``workflows/<name>.jpg``, which
ComfyUI's template browser shows.
"""

import io
import json

from demo import pictures_of
from live_server import LiveServer
from load import ROOT
from PIL import Image

WIDTH, GAP = 512, 4


def main() -> None:
    """Run the workflows and write their thumbnails."""
    with LiveServer() as server:
        for path in sorted((ROOT / "workflows").glob("*.json")):
            workflow = json.loads(path.read_text(encoding="utf-8"))
            if not any(node["type"] == "ConceptErasureCanvasCheckpoint" for node in workflow["nodes"]):
                continue
            pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in pictures_of(server, workflow).values()]
            row(pictures).save(path.with_suffix(".jpg"), quality=88)
            print(f"{path.stem}: {len(pictures)} pictures")


def row(pictures: list[Image.Image]) -> Image.Image:
    """Return pictures side by side, `WIDTH` wide, each scaled to the same height; only its first square is kept."""
    side = (WIDTH - GAP * (len(pictures) - 1)) // len(pictures)
    sheet = Image.new("RGB", (WIDTH, side), "white")
    for i, picture in enumerate(pictures):
        square = picture.crop((0, 0, picture.height, picture.height)) if picture.width > picture.height else picture
        sheet.paste(square.resize((side, side), Image.Resampling.LANCZOS), (i * (side + GAP), 0))
    return sheet


if __name__ == "__main__":
    main()
