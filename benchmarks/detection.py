"""How well do the shipped SAEs localize? ROC-AUC and IoU against the true masks of held-out scenes.

``python dev/host benchmarks.detection`` prints, for each SAE and timestep band, the mean over the objects, and with
``--per-concept`` every object. See framework/localization.py.
"""

import argparse
from pathlib import Path

import torch

from ..demo_model import checkpoint
from ..demo_model.vocabulary import OBJECTS
from ..dev.demo_model import scenes
from ..dev.demo_model.activations import from_scenes
from ..nodes.files import SHIPPED
from ..sae_models.formats.native import SAEFile
from .framework.localization import HEADS, cells, qualities, summaries
from .framework.tables import Table, add_json


@torch.no_grad()
def main() -> None:
    """Measure all shipped SAEs, or the files given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="SAE files; the shipped ones if left out")
    parser.add_argument("--scenes", type=int, default=800)
    parser.add_argument("--per-concept", action="store_true")
    add_json(parser)
    arguments = parser.parse_args()
    files = [SAEFile(path) for path in arguments.files or sorted(SHIPPED.glob("*.safetensors"))]
    sites = [file.config.hookpoint for file in files]
    noised = from_scenes(*checkpoint.load(), sites, scenes.HELD_OUT[: arguments.scenes])
    table, said = Table("SAE", HEADS), []
    for file in files:
        concepts = {name: file.dictionary().concepts[name] for name in OBJECTS}
        site, facts = file.config.hookpoint, file.facts
        values = qualities(file.load(dtype=torch.float32), concepts, noised[site])
        for label, entries in summaries(values).items():
            table.add(f"{site}, {label}", *entries)
        for i, label in enumerate(OBJECTS if arguments.per_concept else ()):
            table.add(f"{site}, {label}, AUC / IoU", *cells(values[:, i].tolist()))
        said.append(
            f"{site}: explained variance {facts['explained_variance']:.3f}, dead features {facts['dead_share']:.1%}."
        )
    table.write(arguments.json, f"{arguments.scenes} held-out scenes, {len(OBJECTS)} objects.", *said)
