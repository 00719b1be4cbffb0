"""Take a picture of a workflow in the real frontend after a run: ``python dev/host/screenshot.py [NAME]``.

It writes ``docs/images/graph.webp``, which the README shows.
"""

import importlib
import io
import json
import sys
from typing import Any

from live_server import LiveServer
from load import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "tests"))
frontend = importlib.import_module("support.browser")

TARGET = ROOT / "docs" / "images" / "graph.webp"
PAGE = (2700, 1600)
WIDTH = 1800
LIMIT = 600.0  # seconds
# The page's own bars at the left and the top, and the room that is left around the graph.
BARS, ROOM = (60, 180), 16
# Everything but the notes, whose text stands in the README too.
FIT = """([width, height, side, top, room]) => {
    const graph = window.app.graph, view = window.app.canvas.ds;
    const shown = [...graph.nodes.filter((node) => !node.type.endsWith("Note")), ...graph.groups];
    const boxes = shown.map((each) => each.getBounding?.() ?? each.boundingRect);
    const left = Math.min(...boxes.map((box) => box[0])), above = Math.min(...boxes.map((box) => box[1]));
    const right = Math.max(...boxes.map((box) => box[0] + box[2]));
    const below = Math.max(...boxes.map((box) => box[1] + box[3]));
    const scale = Math.min((width - side - 2 * room) / (right - left), (height - top - 2 * room) / (below - above));
    view.scale = scale;
    view.offset[0] = (side + room) / scale - left;
    view.offset[1] = (top + room) / scale - above;
    window.app.canvas.setDirty(true, true);
    return [side, top, (right - left) * scale + 2 * room, (below - above) * scale + 2 * room];
}"""


def main() -> None:
    """Run a workflow and write its picture."""
    name = sys.argv[1] if len(sys.argv) > 1 else "quickstart"
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    executable = frontend.chromium_path()
    if executable is None:
        raise SystemExit("Chromium is not installed.")
    with LiveServer() as server:
        # Else the frontend greets a new user with its templates, in front of the graph.
        server.post("/settings", {"Comfy.TutorialCompleted": True})
        with frontend.Browser(executable, server.url) as browser:
            picture = taken(server, browser, workflow)
    height = round(picture.height * WIDTH / picture.width)
    picture.resize((WIDTH, height), Image.Resampling.LANCZOS).save(TARGET, quality=60, method=6)
    print(f"{TARGET}: {WIDTH} x {height}, {TARGET.stat().st_size} bytes")


def taken(server: LiveServer, browser: Any, workflow: dict[str, Any]) -> Image.Image:
    """Return what the frontend shows of a workflow once it has run."""
    browser.page.set_viewport_size({"width": PAGE[0], "height": PAGE[1]})
    browser.load(workflow)
    browser.page.evaluate(FIT, [*PAGE, *BARS, ROOM])  # the canvas takes images only of nodes that it draws
    server.images(server.wait(browser.run(), LIMIT))
    browser.wait_for_pictures()
    left, top, width, height = browser.page.evaluate(FIT, [*PAGE, *BARS, ROOM])
    browser.wait_for_pictures()
    png = browser.page.screenshot(clip={"x": left, "y": top, "width": width, "height": height})
    return Image.open(io.BytesIO(png)).convert("RGB")


if __name__ == "__main__":
    main()
