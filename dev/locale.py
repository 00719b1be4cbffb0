"""Write the nodes' own texts to ``locales/en/nodeDefs.json``, which translators work from.

``python dev/host dev.locale`` does it; a test fails where the file lags behind the nodes.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "locales" / "en" / "nodeDefs.json"


def main() -> None:
    """Write the file."""
    from ..nodes import ConceptErasureExtension

    nodes = asyncio.run(ConceptErasureExtension().get_node_list())
    texts = {schema.node_id: texts_of(schema) for schema in (node.GET_SCHEMA() for node in nodes)}
    FILE.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def texts_of(schema: Any) -> dict[str, Any]:
    """Return what a node says of itself."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {each.id: {"name": each.id, "tooltip": each.tooltip} for each in schema.inputs},
        "outputs": {
            str(i): {"name": each.display_name, "tooltip": each.tooltip} for i, each in enumerate(schema.outputs)
        },
    }
