"""Does what was found erase? The erasure benchmark with concepts found from one word, or in one painted mask.

``python dev/host benchmarks.from_scratch my_sae.safetensors --split reporting`` takes an SAE without a dictionary,
as the SAE Trainer leaves it, or the shipped one without its dictionary, finds every object as benchmarks/finding.py
does, erases each with the Patch Replacer's defaults, and prints the erasure table without artifacts, the shipped SAE
with its dictionary beside it. Results are kept for each target in ``dev/work/from_scratch/``, so an interrupted run
resumes.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ..erasure.attach import attach
from ..erasure.detection import Detector
from ..erasure.keep import Rest
from ..erasure.replacement import MODES, Replacement
from ..nodes.files import SHIPPED
from ..sae_models.concepts import Concept
from ..sae_models.loaded import LoadedSAE
from ..sae_models.shipped import file_name
from ..unet.loading import load_sae
from .finding import FROM_MASK, FROM_WORD, find_all
from .framework import storage
from .framework.outcomes import COLUMNS, Outcome, Row
from .framework.prompts import Plan
from .framework.runs import Scope, add_options, judged_run, print_targets, results_of, row_of, scope_of
from .framework.tables import Table, add_json
from .framework.ways import PLAIN, by_model
from .framework.world import World

KNOWN = "shipped"
WAYS = (KNOWN, FROM_WORD, FROM_MASK)
KEPT = ("untouched", "moved, alone", "moved, pair", "in place")  # columns of framework/changes.py


def erased(
    world: World, sae: LoadedSAE, concepts: Mapping[str, Concept], replacement: Replacement, scope: Scope, unedited: Row
) -> Row:
    """Return the row of an SAE's concepts, running those that are not on disk yet."""

    def path_of(target: str) -> Path:
        concept = concepts[target]
        bands = concept.band_edges, [asdict(band) for band in concept.bands]
        stamp = storage.stamp(asdict(scope.plan), asdict(replacement), Rest().attempts, sae.identity.digest, *bands)
        return storage.folder("from_scratch") / scope.split / f"{target}.{stamp}.json"

    def make(target: str) -> Outcome:
        model, _ = attach(world.model, Detector(sae, concepts[target]), replacement, rest=Rest())
        return judged_run(world, by_model(world, model, target), target, scope, areas=world.judge)

    return row_of(list(concepts), path_of, make, unedited)


def main() -> None:
    """Find, erase, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sae", nargs="?", type=Path, default=SHIPPED / file_name(), help="the shipped one if left out")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--replacement", choices=MODES, default=Replacement().mode, help="as in the Patch Replacer")
    add_options(parser, Plan(16, 12, 12))
    add_json(parser)
    arguments = parser.parse_args()
    scope, world = scope_of(arguments), World()
    shipped, sae = (load_sae(str(path), path.name) for path in (SHIPPED / file_name(), arguments.sae))
    found: dict[str, tuple[LoadedSAE, dict[str, Concept]]] = {}
    for way in arguments.ways:
        if way == KNOWN:
            found["shipped dictionary"] = (shipped, {name: shipped.concept(name) for name in scope.targets})
        else:
            stored = find_all(world.unedited, sae, way, scope.split, scope.targets)
            found[f"from a {way}"] = (sae, {name: each.concept for name, each in stored.items()})
    unedited = results_of(world, PLAIN, scope, areas=lambda: world.judge)
    table = Table("concept", (*COLUMNS, *KEPT))
    table.add_outcomes("unedited", unedited)
    for label, (owner, concepts) in found.items():
        row = erased(world, owner, concepts, Replacement(arguments.replacement), scope, unedited)
        table.add_outcomes(label, row)
        if arguments.per_target:
            print_targets(label, row)
    targets = f"Erased: {', '.join(scope.targets)}."
    table.write(arguments.json, targets, unit="percent", split=scope.split)
