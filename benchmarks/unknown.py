"""Concepts that the shipped dictionary does not know: styles, a color, two things of one kind.

``python dev/host benchmarks.unknown --split reporting`` finds each style from its word and erases it
in one pass: style gone from its own prompts, object kept there, other styles kept in theirs. No
word of the demo model's means a color, so red is found by Concept From Mask in four scenes whose red pixels are
painted over, without contrast; against the red of held-out scenes stands how well it localizes, and how much red is
left in images of every object stands for erasure. For two things of one kind the Concept Finder's verdict is printed.
``--json docs/figures/unknown.json`` writes the styles there, and the color beside it in ``unknown_color.json``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..demo_model.vocabulary import OBJECTS, STYLES, caption
from ..dev.demo_model import scenes
from ..dev.demo_model.activations import BAND_CENTRES, from_scenes
from ..dev.demo_model.sampling import CFG, SAMPLER, SCHEDULER, STEPS, empty_latents
from ..erasure.attach import attach
from ..erasure.detection import Detector
from ..erasure.replacement import Replacement
from ..finding.fitting import WAYS, Finding
from ..finding.search import MaskedImages, MaskSearch, Search, find_by_prompts, find_in_mask
from ..nodes import ConceptFromMask
from ..nodes.files import SHIPPED
from ..sae_models.concepts import Concept
from ..sae_models.loaded import LoadedSAE
from ..sae_models.shipped import file_name
from ..unet.loading import load_sae
from ..unet.sampling import Sampling, encode
from .finding import BATCH, PAINTED, SCENES, default, from_word
from .framework.localization import cells, features_of, quality
from .framework.prompts import SPLITS, Prompt
from .framework.tables import Table, add_json, average, share
from .framework.world import World

PAINTINGS, LEAST_RED, MOST_RED = 4, 0.05, 0.5
FIRST_SEED = 800_000  # of a split; what lies before belongs to other benchmarks
SIXTEEN = OBJECTS[:16]


def is_red(images: Tensor) -> Tensor:
    """Tell which pixels are red, [..., 3] in 0..1 -> bool [...]."""
    red, green, blue = images.unbind(-1)
    return (red > 0.4) & (red - torch.maximum(green, blue) > 0.2)


def styles_of(world: World, sae: LoadedSAE, style: str, concept: Concept, seeds: range, batch: int) -> list[list[bool]]:
    """Erase a style; return whether it is gone, whether the object is kept, and whether other styles are kept."""
    model, _ = attach(world.model, Detector(sae, concept), Replacement())
    start = seeds.start + FIRST_SEED + STYLES.index(style) * 1_000
    rest = [name for name in STYLES if name != style]
    own = [Prompt((name,), style, start + i) for i, name in enumerate(OBJECTS)]
    others = [Prompt((name,), rest[i % len(rest)], start + 100 + i) for i, name in enumerate(OBJECTS)]
    prompts = own + others
    images = world.images(model, [p.text for p in prompts], [p.seed for p in prompts], batch)
    objects, styles = world.judge.classify(images)
    said = [STYLES[i] for i in styles.argmax(1).tolist()]
    kept = (objects > world.judge.threshold)[range(len(own)), range(len(own))].tolist()
    return [
        [name != style for name in said[: len(own)]],
        kept,
        [name == p.style for name, p in zip(said[len(own) :], others, strict=True)],
    ]


def red_from_masks(world: World, sae: LoadedSAE, seeds: range) -> Finding:
    """Find red in the first scenes that show some, their red pixels painted over."""
    shown: list[Tensor] = []
    for seed in seeds[PAINTED:]:
        image = torch.from_numpy(scenes.render(seed).image).float() / 255
        if LEAST_RED < is_red(image).float().mean() < MOST_RED:
            shown.append(image)
        if len(shown) == PAINTINGS:
            break
    images = torch.stack(shown)
    painting = MaskedImages("red", images, world.vae.encode(images), is_red(images).float(), encode(world.clip, ""))
    bands, looks, seed = (default(ConceptFromMask, name) for name in ("timestep_bands", "noise_samples", "seed"))
    return find_in_mask(world.model, world.vae, sae, MaskSearch(painting, bands, looks, seed))[0]


def localized(world: World, sae: LoadedSAE, concept: Concept, seeds: Sequence[int]) -> list[tuple[float, float]]:
    """Return (AUC, IoU) of red in scenes for each noise level."""
    hookpoint = sae.config.hookpoint
    noised = from_scenes(*world.unedited, [hookpoint], seeds)[hookpoint]
    images = torch.from_numpy(np.stack([scenes.render(seed).image for seed in seeds])).float() / 255
    cover = adaptive_avg_pool2d(is_red(images).float()[:, None], noised.grid)[:, 0].flatten(1)
    found = []
    for band, centre in enumerate(BAND_CENTRES):
        found.append(quality(concept, features_of(sae.module, noised, band), cover, centre))
    return found


def color_table(world: World, sae: LoadedSAE, split: str, batch: int) -> Table:
    """Find red, and print how well it localizes and what is left of it when it is erased."""
    finding = red_from_masks(world, sae, SCENES[split])
    print(f"\n{finding.summary()}")
    found = localized(world, sae, finding.concept, SCENES[split][:200])
    table = Table("red", ("AUC / IoU, least noise first", "red pixels %", "object kept"))
    start = SPLITS[split].start + FIRST_SEED + 50_000
    prompts = [
        Prompt((name,), style, start + i) for i, (name, style) in enumerate(zip(OBJECTS * 2, STYLES * 5, strict=True))
    ]
    texts, seeds = [p.text for p in prompts], [p.seed for p in prompts]
    edited, _ = attach(world.model, Detector(sae, finding.concept), Replacement())
    for label, model, said in (("unedited", world.model, None), ("erased", edited, ", ".join(cells(found)))):
        images = world.images(model, texts, seeds, batch)
        objects, _ = world.judge.classify(images)
        kept = [bool(objects[i, OBJECTS.index(p.objects[0])] > world.judge.threshold) for i, p in enumerate(prompts)]
        red = 100 * is_red(images).float().mean((1, 2))
        table.add(label, said, average(red.tolist(), 1), share(kept))
    return table


def style_table(world: World, sae: LoadedSAE, split: str, batch: int, styles: Sequence[str]) -> Table:
    """Find styles, erase each, and print what became of it."""
    table = Table("style", ("AUC, least noise first", "gone", "object kept", "other styles kept"))
    pooled: list[list[bool]] = [[], [], []]
    for style in styles:
        finding = from_word(world.unedited, sae, style, "style")
        outcome = styles_of(world, sae, style, finding.concept, SPLITS[split], batch)
        aucs = ", ".join(f"{found.auc:.2f}" for found in finding.found)
        table.add(style, aucs, *map(share, outcome))
        for all_of_them, one in zip(pooled, outcome, strict=True):
            all_of_them += one
    table.add("all", None, *map(share, pooled))
    return table


def two_of_a_kind(world: World, sae: LoadedSAE) -> Finding:
    """Search for two things of one kind, against one of them."""
    targets = [f"A {name} and a {name} image in {style} style" for name, style in zip(SIXTEEN, STYLES * 2, strict=True)]
    contrasts = [caption((name,), style) for name, style in zip(SIXTEEN, STYLES * 2, strict=True)]
    search = Search("two of a kind", targets, contrasts, 32, 5, WAYS[0], 99.99)
    sampling = Sampling(STEPS, CFG, SAMPLER, SCHEDULER, 0)
    return find_by_prompts(*world.unedited, sae, search, empty_latents(BATCH), sampling)[0]


@torch.no_grad()
def main() -> None:
    """Find and print; erase styles and a color."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sae", nargs="?", type=Path, default=SHIPPED / file_name(), help="the shipped one if left out")
    parser.add_argument("--split", choices=list(SPLITS), default="tuning")
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=STYLES, metavar="STYLE", help="all if left out")
    parser.add_argument("--batch", type=int, default=40)
    add_json(parser)
    given = parser.parse_args()
    world = World()
    sae = load_sae(str(given.sae), given.sae.name)
    colors = color_table(world, sae, given.split, given.batch)
    said = two_of_a_kind(world, sae).summary()
    print(said, flush=True)
    styles = style_table(world, sae, given.split, given.batch, given.styles)
    pace = "In percent, with one pass (rest: may change)."
    styles.write(given.json, pace, split=given.split, two_of_a_kind=said)
    if given.json:
        colors.write(given.json.with_name(f"{given.json.stem}_color.json"), pace, split=given.split)
