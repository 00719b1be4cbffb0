"""Does what was found erase? The erasure benchmark with concepts found from one word, or in one painted mask.

``python dev/host benchmarks.from_scratch my_sae.safetensors --split reporting`` takes an SAE without a dictionary,
as the SAE Trainer leaves it, finds every object as benchmarks/finding.py does, erases each with the Patch Replacer's
defaults, and prints the erasure benchmark's table without damage, the shipped SAE with its dictionary beside it.
Results are kept for each target in ``dev/work/from_scratch/``, so an interrupted run goes on.
"""

import argparse
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ..demo_model import checkpoint
from ..demo_model.vocabulary import OBJECTS
from ..erasure.attach import attach
from ..erasure.detection import Detect
from ..erasure.replacement import MODES, Replacement
from ..nodes.files import BEST, SHIPPED
from ..sae_models.concepts import Concept
from ..sae_models.loaded import LoadedSAE
from ..unet.loading import load_sae
from . import work
from .erasure import (
    JUDGED,
    PLAIN,
    SPLITS,
    Outcome,
    Plan,
    World,
    add_options,
    judged_run,
    print_shares,
    print_table,
    results_of,
    row_of,
)
from .finding import FROM_MASK, FROM_WORD, find_all

KNOWN = "shipped"
WAYS = (KNOWN, FROM_WORD, FROM_MASK)
RESULTS = work.folder("from_scratch")


def erased(
    world: World,
    sae: LoadedSAE,
    concepts: Mapping[str, Concept],
    replacement: Replacement,
    split: str,
    plan: Plan,
    batch: int,
) -> dict[str, Outcome]:
    """Return the outcome of every target, running those that are not on disk yet."""
    outcomes = {}
    for target, concept in concepts.items():
        bands = concept.band_edges, [asdict(band) for band in concept.bands]
        about = [asdict(plan), asdict(replacement), sae.identity.digest, *bands]
        stamp = zlib.crc32(json.dumps([*about, zlib.crc32(checkpoint.DEFAULT_PATH.read_bytes())]).encode())
        path = RESULTS / split / f"{target}.{stamp:08x}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            model, record = attach(world.model, Detect(sae, concept), replacement)
            outcome = judged_run(world, model, record, target, plan, SPLITS[split], batch, damage=False)
            path.write_text(json.dumps(asdict(outcome)))
        outcomes[target] = Outcome(**json.loads(path.read_text()))
    return outcomes


def main() -> None:
    """Find, erase, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sae", type=Path, help="an SAE of any format")
    parser.add_argument(
        "--targets", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT", help="all if left out"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--replacement", choices=MODES, default=Replacement().mode, help="as in the Patch Replacer")
    add_options(parser, Plan(16, 12, 12))
    arguments = parser.parse_args()
    plan, split = Plan(arguments.singles, arguments.others, arguments.pairs), arguments.split
    world = World()
    shipped, sae = (load_sae(str(path), path.name) for path in (SHIPPED / BEST, arguments.sae))
    canvas = (world.model, world.clip, world.vae)
    rows: dict[str, tuple[LoadedSAE, dict[str, Concept]]] = {}
    for way in arguments.ways:
        if way == KNOWN:
            rows["shipped dictionary"] = (shipped, {name: shipped.concept(name) for name in arguments.targets})
        else:
            stored = find_all(canvas, sae, way, split, arguments.targets)
            rows[f"from a {way}"] = (sae, {name: each.concept for name, each in stored.items()})
    _, plain = results_of(world, PLAIN, split, plan, arguments.batch, targets=arguments.targets, damage=False)
    table = {PLAIN: row_of(plain, plain)}
    for label, (owner, concepts) in rows.items():
        outcomes = erased(world, owner, concepts, Replacement(arguments.replacement), split, plan, arguments.batch)
        table[label] = row_of(outcomes, plain)
        if arguments.per_target:
            print_shares(label, outcomes)
    print_table(table, JUDGED)
