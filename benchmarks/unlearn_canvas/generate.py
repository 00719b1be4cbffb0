"""Make the protocol's images on a ComfyUI server. An image that is there is not made again."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ..framework.storage import whole
from .protocol import ProtocolImage

GRAPHS = Path(__file__).parent / "graphs"
GRAPH = "graph.json"
UNEDITED = "plain"  # the graph that erases nothing: its images serve every target

Graph = dict[str, Any]


class Server(Protocol):
    """What is needed of dev/host/live_server.py's Server."""

    def run(self, prompt: Graph, limit: float = ...) -> dict[str, list[bytes]]:
        """Run a prompt in API format and return the images it shows."""


def read_graph(name: str) -> Graph:
    """Read a graph in API format: one of ``graphs/`` by name, or a file of the user's."""
    shipped = GRAPHS / f"{name}.json"
    graph: Graph = json.loads((shipped if shipped.exists() else Path(name)).read_text(encoding="utf-8"))
    return graph


def filled(graph: Graph, values: Mapping[str, Any]) -> Graph:
    """Return a graph with every input that is ``"$NAME"`` set to the value of that name.

    Raises:
        KeyError: a name without a value; it lists those that have one.
    """

    def fill(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith("$"):
            return value
        if value[1:] not in values:
            raise KeyError(f"the graph asks for {value}; give it with --fill {value[1:]}=... (known: {sorted(values)})")
        return values[value[1:]]

    return {
        node: {**content, "inputs": {name: fill(value) for name, value in content["inputs"].items()}}
        for node, content in graph.items()
    }


def folder_of(out: Path, run: str, target: str | None) -> Path:
    """Return where a run's images with one target erased lie; None for the unedited ones."""
    return out / run if target is None else out / run / target


def require_same_graph(path: Path, graph: Graph) -> None:
    """Keep a folder's graph beside its images, so that those of two settings are never mixed.

    Raises:
        ValueError: another graph was kept there.
    """
    text = json.dumps(graph, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"The images beside {path} are of another graph or other --fill values; use another --out.")
    path.write_text(text, encoding="utf-8")


def generate(
    server: Server,
    graph: Graph,
    values: Mapping[str, Any],
    wanted: Sequence[ProtocolImage],
    folder: Path,
    limit: float = 3600.0,
) -> int:
    """Make those images that are not in a folder yet; return how many were made.

    Args:
        server: where the graph runs.
        graph: in API format; PROMPT and SEED are filled in for each image.
        values: what else its placeholders stand for.
        wanted: the images.
        folder: made if it is not there. An image appears whole or not at all.
        limit: seconds an image may take.

    Raises:
        ValueError: the graph does not show exactly one image, or the folder holds another graph's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    require_same_graph(folder / GRAPH, filled(graph, {"PROMPT": "", "SEED": 0, **values}))
    missing = [image for image in wanted if not (folder / image.file).exists()]
    for image in missing:
        prompt = filled(graph, {**values, "PROMPT": image.prompt, "SEED": image.seed})
        shown = [png for images in server.run(prompt, limit).values() for png in images]
        if len(shown) != 1:
            raise ValueError(f"The graph shows {len(shown)} images; it must show one.")
        with whole(folder / image.file) as partial:
            # The quality that the published scripts save with, by Pillow's default.
            Image.open(io.BytesIO(shown[0])).convert("RGB").save(partial, "JPEG")
    return len(missing)
