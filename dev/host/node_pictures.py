"""Take a picture of the nodes of each group of the menu in the real frontend: ``python dev/host/node_pictures.py``.

It writes ``docs/images/nodes_<group>.webp``, which the README shows.
"""

import io
from typing import Any

from live_server import LiveServer
from load import ROOT
from PIL import Image
from screenshot import BARS, FIT, PAGE, ROOM, frontend

TARGET = ROOT / "docs" / "images"
MENU = "SAE concept erasure/"
# Pixels of a picture for each unit of the graph: small letters can still be read.
SCALE = 0.75
# Puts new nodes beside each other, hardly larger than they must be, onto an empty graph.
ADD = """(kinds) => {
    const graph = window.app.graph;
    graph.clear();
    let left = 0;
    for (const kind of kinds) {
        const node = window.LiteGraph.createNode(kind);
        graph.add(node);
        node.pos = [left, 0];
        const [wide, high] = node.computeSize();
        node.setSize([wide + 70, high]);  // so that no name is cut off
        left += node.size[0] + 24;
    }
    return left;
}"""


def main() -> None:
    """Write the pictures."""
    executable = frontend.chromium_path()
    if executable is None:
        raise SystemExit("Chromium is not installed.")
    with LiveServer() as server:
        # Else the frontend greets a new user with its templates and shows a map, both in front of the graph.
        server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
        with frontend.Browser(executable, server.url) as browser:
            browser.page.set_viewport_size({"width": PAGE[0], "height": PAGE[1]})
            for group, kinds in grouped(server.object_info()).items():
                path = TARGET / f"nodes_{group.replace(' ', '_')}.webp"
                taken(browser, kinds).save(path, quality=50, method=6)
                print(f"{path.name}: {len(kinds)} nodes, {path.stat().st_size} bytes")


def grouped(info: dict[str, Any]) -> dict[str, list[str]]:
    """Return the pack's nodes by their group in the menu."""
    groups: dict[str, list[str]] = {}
    for kind, node in info.items():
        if node["category"].startswith(MENU):
            groups.setdefault(node["category"].removeprefix(MENU), []).append(kind)
    return groups


def taken(browser: Any, kinds: list[str]) -> Image.Image:
    """Return what the frontend shows of new nodes of some types."""
    width = browser.page.evaluate(ADD, kinds)
    browser.wait_for_pictures()
    left, top, wide, high = browser.page.evaluate(FIT, [*PAGE, *BARS, ROOM])
    browser.wait_for_pictures()
    png = browser.page.screenshot(clip={"x": left, "y": top, "width": wide, "height": high})
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    size = round(SCALE * width), round(SCALE * width * picture.height / picture.width)
    return picture.resize(size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
