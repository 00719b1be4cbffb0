"""Measure how well concepts that were found from one word, or in one painted mask, localize.

``python dev/host benchmarks.finding`` finds every object as the Concept Finder and Concept From Mask do at their
defaults, with the shipped SAE or another (``--sae``), and prints patch ROC-AUC and IoU against the true masks of
held-out scenes, beside the dictionary of the shipped SAE, and the seconds of CPU time that finding took. What
was found is kept in
``dev/work/finding/``, so an interrupted run resumes.

An image with a mask is the first scene that shows the object beside another one, of seeds that nothing else uses.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..demo_model import checkpoint
from ..demo_model.vocabulary import OBJECTS, join_objects
from ..dev.demo_model import scenes
from ..dev.demo_model.activations import from_scenes
from ..dev.demo_model.sampling import CFG, SAMPLER, SCHEDULER, STEPS, empty_latents
from ..finding.fitting import Finding
from ..finding.prompts import around, default_prompts
from ..finding.search import Generation, MaskedImages, MaskSearch, Search, find_by_prompts, find_in_mask
from ..nodes import ConceptFinder, ConceptFromMask
from ..nodes.files import SHIPPED
from ..sae_models.concepts import Concept
from ..sae_models.formats import concept_files
from ..sae_models.loaded import LoadedSAE
from ..sae_models.shipped import file_name
from ..unet.loading import load_sae
from ..unet.sampling import Sampling, encode
from .framework import storage
from .framework.localization import HEADS, cells, qualities, summaries
from .framework.tables import Table, add_json, average

FROM_WORD, FROM_MASK = "word", "mask"
SCENES = {"tuning": scenes.VALIDATION, "reporting": scenes.HELD_OUT}
PAINTED = 5_000_000  # where, in a range of scenes, those begin that are painted over
BATCH = 16
Model = tuple[Any, Any, Any]  # model, clip, vae


def default(node: type[io.ComfyNode], name: str) -> Any:
    """Return the default of an input of a node."""
    return next(each.default for each in node.define_schema().inputs if each.id == name)


def word_search(word: str, kind: str = "object", images: int = 0) -> tuple[Search, Sampling]:
    """Return what the Concept Finder looks for at its defaults, with the model's own sampler settings.

    Args:
        word: of the concept.
        kind: of the word.
        images: with the concept; 0 for the node's default.
    """
    usual, bands, percentile, seed = (
        default(ConceptFinder, name) for name in ("images", "timestep_bands", "percentile", "seed")
    )
    select = next(each.options for each in ConceptFinder.define_schema().inputs if each.id == "select")[0]
    search = Search(word, *default_prompts(word, kind), images or usual, bands, select, percentile)
    return search, Sampling(STEPS, CFG, SAMPLER, SCHEDULER, seed)


def from_word(canvas: Model, sae: LoadedSAE, word: str, kind: str = "object") -> Finding:
    """Find a word as the Concept Finder does at its defaults."""
    search, sampling = word_search(word, kind)
    return find_by_prompts(*canvas, sae, search, empty_latents(BATCH), sampling)[0]


def painted(canvas: Model, word: str, seeds: range, images: int = 0) -> MaskSearch:
    """Return one scene, painted over where it shows a word, as Concept From Mask gets it.

    Args:
        canvas: model, clip and VAE.
        word: what is painted over.
        seeds: of scenes; see the module's text.
        images: contrast images, and as many more like the scene; 0 for the node's defaults.
    """
    _, clip, vae = canvas
    scene = scene_with(word, seeds)
    image = torch.from_numpy(scene.image)[None].float() / 255
    over = torch.from_numpy((scene.masks[word] >= 0.5).astype(np.float32))[None]
    names = ("timestep_bands", "noise_samples", "seed", "contrast_images", "extra_images")
    bands, looks, seed, contrasts, more = (default(ConceptFromMask, name) for name in names)
    sampling = Sampling(STEPS, CFG, SAMPLER, SCHEDULER, seed)
    without, similar = around(word, join_objects(scene.objects), "")
    generation = Generation(clip, without, images or contrasts, images or more, sampling, similar)
    masked = MaskedImages(word, image, vae.encode(image), over, encode(clip, scene.caption))
    return MaskSearch(masked, bands, looks, seed, generation)


def from_mask(canvas: Model, sae: LoadedSAE, word: str, seeds: range) -> Finding:
    """Find a word in one scene, painted over, as Concept From Mask does at its defaults."""
    model, _, vae = canvas
    return find_in_mask(model, vae, sae, painted(canvas, word, seeds))[0]


def scene_with(word: str, seeds: range) -> scenes.Scene:
    """Return the first scene that shows an object beside another."""
    for seed in seeds[PAINTED:]:
        scene = scenes.render(seed)
        if word in scene.objects and len(scene.objects) > 1:
            return scene
    raise LookupError(f"no scene shows {word}")


def find_all(
    canvas: Model, sae: LoadedSAE, way: str, split: str, words: Sequence[str] = OBJECTS
) -> dict[str, concept_files.StoredConcept]:
    """Return the concept of every word, with the CPU time it took, finding those that are not on disk yet."""
    folder = storage.folder("finding") / f"{way}.{split}.{storage.stamp(sae.identity.digest)}"
    folder.mkdir(parents=True, exist_ok=True)
    stored = {}
    for word in words:
        path = folder / f"{word}.safetensors"
        if not path.exists():
            start = time.process_time()
            finding = from_word(canvas, sae, word) if way == FROM_WORD else from_mask(canvas, sae, word, SCENES[split])
            facts = {"seconds": time.process_time() - start, "auc": [found.auc for found in finding.found]}
            concept_files.save(path, finding.concept, facts)
            print(f"  {way}: {finding.summary()} {facts['seconds']:.0f} s", flush=True)
        stored[word] = concept_files.load(path)
    return stored


@torch.no_grad()
def main() -> None:
    """Find words and print how well they localize."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", choices=[*OBJECTS, []], metavar="OBJECT", help="all if left out")
    parser.add_argument("--sae", type=Path, default=SHIPPED / file_name(), help="the shipped one if left out")
    parser.add_argument("--ways", nargs="+", choices=(FROM_WORD, FROM_MASK), default=[FROM_WORD, FROM_MASK])
    parser.add_argument("--split", choices=list(SCENES), default="tuning")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--per-concept", action="store_true")
    add_json(parser)
    arguments = parser.parse_args()
    canvas = checkpoint.load()
    words = arguments.words or list(OBJECTS)
    shipped, sae = (load_sae(str(path), path.name) for path in (SHIPPED / file_name(), arguments.sae))
    found = {way: find_all(canvas, sae, way, arguments.split, words) for way in arguments.ways}
    sites = list({shipped.config.hookpoint, sae.config.hookpoint})
    noised = from_scenes(*canvas, sites, SCENES[arguments.split][: arguments.scenes])
    owners: dict[str, tuple[LoadedSAE, dict[str, Concept], list[float]]] = {
        "shipped dictionary": (shipped, {word: shipped.concept(word) for word in words}, [])
    }
    for way, stored in found.items():
        concepts = {word: each.concept for word, each in stored.items()}
        owners[f"from a {way}"] = (sae, concepts, [each.facts["seconds"] for each in stored.values()])
    table = Table("concepts", (*HEADS, "seconds"))
    for label, (owner, concepts, seconds) in owners.items():
        values = qualities(owner.module, concepts, noised[owner.config.hookpoint])
        for name, entries in summaries(values).items():
            took = average(seconds, 0) if name == "AUC" else None
            table.add(f"{label}, {name}", *entries, took)
        for i, word in enumerate(concepts if arguments.per_concept else ()):
            table.add(f"{label}, {word}, AUC / IoU", *cells(values[:, i].tolist()), None)
    objects = f"Found: {', '.join(words)}. {arguments.scenes} scenes; seconds of CPU time an object."
    table.write(arguments.json, objects, split=arguments.split)
