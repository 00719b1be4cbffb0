"""Take a picture of a workflow in the real frontend after a run: ``python dev/host/screenshot.py [NAME]``.

It writes ``docs/images/<name>_graph.jpg``, which the README shows.
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

WIDTH = 1600
LIMIT = 600.0
# The whole graph, with some room around it and below the frontend's own bars.
FIT = """([width, height, top, side]) => {
    const boxes = window.app.graph.nodes.map((node) => node.getBounding()), canvas = window.app.canvas;
    const left = Math.min(...boxes.map((box) => box[0])), above = Math.min(...boxes.map((box) => box[1]));
    const right = Math.max(...boxes.map((box) => box[0] + box[2]));
    const below = Math.max(...boxes.map((box) => box[1] + box[3]));
    const scale = Math.min((width - side - 40) / (right - left), (height - top - 40) / (below - above));
    canvas.ds.scale = scale;
    canvas.ds.offset = [(side + 20) / scale - left, (top + 20) / scale - above];
    canvas.setDirty(true, true);
    return [side, top, (right - left) * scale + 40, (below - above) * scale + 40];
}"""


def main() -> None:
    """Run a workflow and write its picture."""
    name = sys.argv[1] if len(sys.argv) > 1 else "quickstart"
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    executable = frontend.chromium_path()
    if executable is None:
        raise SystemExit("Chromium is not installed.")
    with LiveServer() as server, frontend.Browser(executable, server.url) as browser:
        picture = taken(server, browser, workflow)
    path = ROOT / "docs" / "images" / f"{name}_graph.jpg"
    picture.resize((WIDTH, round(picture.height * WIDTH / picture.width))).save(path, quality=88)
    print(path)


def taken(server: LiveServer, browser: Any, workflow: dict[str, Any]) -> Image.Image:
    """Return what the frontend shows of a workflow once it has run."""
    browser.page.set_viewport_size({"width": 2400, "height": 1500})
    browser.load(workflow)
    browser.page.keyboard.press("Escape")  # the frontend greets new users with its templates
    server.wait(browser.run(), LIMIT)
    browser.wait_for_pictures()
    left, top, width, height = browser.page.evaluate(FIT, [2400, 1500, 60, 80])
    browser.wait_for_pictures()
    png = browser.page.screenshot(clip={"x": left, "y": top, "width": width, "height": height})
    return Image.open(io.BytesIO(png)).convert("RGB")


if __name__ == "__main__":
    main()
