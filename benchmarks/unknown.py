"""Concepts that the shipped dictionary does not know: styles, a colour, two things of one kind.

``python host benchmarks.unknown my_sae.safetensors --split reporting`` finds each with the Concept Finder and prints
how well it is told apart on prompts that were kept back. Styles are then erased with the Patch Replacer's defaults and
judged: the style gone from its own prompts, the object kept there, and other styles kept in theirs. The small world's
model knows no word for a colour and was never shown two things of one kind; those rows show what the finder says then.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ..canvas.sampling import CFG, SAMPLER, SCHEDULER, STEPS
from ..canvas.vocabulary import OBJECTS, STYLES, caption
from ..erasure.collecting import Sampling
from ..erasure.detection import Detect
from ..erasure.finder import Search, find_by_drawing
from ..erasure.model_patcher import attach, load_sae
from ..sae_models.loaded import LoadedSAE
from ..sae_models.observing import WAYS, Finding
from .erasure import SPLITS, Prompt, World, half_width
from .finding import BATCH, from_word
from .from_scratch import DEFAULTS

PAIRS = {
    "red": [[f"A {colour} {name} image in photo style" for name in OBJECTS[:10]] for colour in ("red", "blue")],
    "two of a kind": [
        [f"A {name} and a {name} image in photo style" for name in OBJECTS[:10]],
        [caption((name,), "photo") for name in OBJECTS[:10]],
    ],
}


def styles_of(world: World, sae: LoadedSAE, style: str, finding: Finding, seeds: range, batch: int) -> list[list[bool]]:
    """Erase a style; return whether it is gone, whether the object is kept, and whether other styles are kept."""
    model, _ = attach(world.model, Detect(sae, finding.concept), DEFAULTS)
    start = seeds.start + 500_000 + STYLES.index(style) * 1_000
    rest = [name for name in STYLES if name != style]
    own = [Prompt((name,), style, start + i) for i, name in enumerate(OBJECTS)]
    others = [Prompt((name,), rest[i % len(rest)], start + 100 + i) for i, name in enumerate(OBJECTS)]
    prompts = own + others
    pictures = world.pictures(model, [p.text for p in prompts], [p.seed for p in prompts], batch, "")
    objects, styles = world.judge.classify(pictures)
    said = [STYLES[i] for i in styles.argmax(1).tolist()]
    kept = (objects > world.judge.threshold)[range(len(own)), range(len(own))].tolist()
    return [
        [name != style for name in said[: len(own)]],
        kept,
        [name == p.style for name, p in zip(said[len(own) :], others, strict=True)],
    ]


@torch.no_grad()
def main() -> None:
    """Find and print; erase styles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sae", type=Path, help="an SAE of any format")
    parser.add_argument("--split", choices=list(SPLITS), default="tuning")
    parser.add_argument("--batch", type=int, default=40)
    arguments = parser.parse_args()
    world = World()
    canvas = (world.model, world.clip, world.vae)
    sae = load_sae(str(arguments.sae), arguments.sae.name)
    print("| style | held-out AUC, noisiest last | gone | object kept | other styles kept |\n|---|---|---|---|---|")
    pooled: list[list[bool]] = [[], [], []]
    for style in STYLES:
        finding = from_word(canvas, sae, style, "style")
        outcome = styles_of(world, sae, style, finding, SPLITS[arguments.split], arguments.batch)
        print_row(style, finding, outcome)
        for all_of_them, one in zip(pooled, outcome, strict=True):
            all_of_them += one
    print_row("all", None, pooled)
    sampling = Sampling(STEPS, CFG, SAMPLER, SCHEDULER, 0)
    for name, (targets, contrasts) in PAIRS.items():
        search = Search(name, targets, contrasts, 32, 5, WAYS[0], 99.99)
        finding, _ = find_by_drawing(*canvas, sae, search, torch.zeros(BATCH, 4, 16, 16), sampling)
        print(finding.summary(), flush=True)


def print_row(name: str, finding: Finding | None, outcome: list[list[bool]]) -> None:
    """Print a line of a Markdown table."""
    aucs = ", ".join(f"{found.auc:.2f}" for found in finding.found) if finding else ""
    cells = [f"{100 * np.mean(v):.0f} ± {100 * half_width(v):.0f} (n {len(v)})" for v in outcome]
    print(f"| {name} | {aucs} | {' | '.join(cells)} |", flush=True)
