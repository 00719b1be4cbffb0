"""Measure how well a concept that was found from one word localises, beside the shipped dictionary's.

``python host benchmarks.finding cat tower`` runs the Concept Finder as its node does, on the shipped model, and prints
patch ROC-AUC and IoU against the true masks of held-out scenes, and the seconds that finding took.
"""

import argparse
import time

import torch
from torch import Tensor

from ..canvas import checkpoint, scenes
from ..canvas.activations import BAND_CENTRES, Noised, from_scenes
from ..canvas.sampling import CFG, SAMPLER, SCHEDULER, STEPS, TUNING_SEEDS
from ..canvas.vocabulary import OBJECTS
from ..erasure.collecting import Sampling
from ..erasure.detection import band_score
from ..erasure.finder import Search, find_by_drawing
from ..erasure.model_patcher import load_sae
from ..erasure.prompts import default_prompts
from ..nodes.files import BEST, SHIPPED
from ..sae_models.concepts import Concept
from ..sae_models.observing import WAYS
from ..sae_models.scoring import roc_auc
from .detection import masks_of


def quality(concept: Concept, dense: Tensor, cover: Tensor, timestep: float) -> tuple[float, float]:
    """Return (AUC, IoU) of a concept at one timestep, given all latents of patches and what an object covers."""
    band = concept.bands[concept.band_index(timestep)]
    inside, outside = masks_of(cover)
    if not band.latents:
        return 0.5, 0.0
    score = band_score(dense[:, list(band.latents + band.against)], band, concept.combine)
    overlap = ((score > 1) & inside).sum() / (((score > 1) & outside) | inside).sum()
    return roc_auc(score[inside], score[outside]), float(overlap)


@torch.no_grad()
def main() -> None:
    """Find the words given and print one line for each way of knowing them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="+", choices=OBJECTS)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--way", choices=WAYS, default=WAYS[0])
    parser.add_argument("--percentile", type=float, default=99.99)
    arguments = parser.parse_args()
    model, clip, vae = checkpoint.load()
    sae = load_sae(str(SHIPPED / BEST), BEST)
    site = sae.config.hookpoint
    noised: Noised = from_scenes(model, clip, vae, [site], scenes.HELD_OUT[: arguments.scenes])[site]
    heads = " | ".join(f"t={centre:.0f}" for centre in BAND_CENTRES)
    print(f"| concept | {heads} | seconds |\n|---|{'---|' * (len(BAND_CENTRES) + 1)}", flush=True)
    sampling = Sampling(STEPS, CFG, SAMPLER, SCHEDULER, TUNING_SEEDS[500_000])
    for word in arguments.words:
        search = Search(
            word, *default_prompts(word, "object"), arguments.pictures, 5, arguments.way, arguments.percentile
        )
        start = time.perf_counter()
        finding, _ = find_by_drawing(model, clip, vae, sae, search, torch.zeros(16, 4, 16, 16), sampling)
        seconds = f"{time.perf_counter() - start:.0f}"
        for name, concept, took in (("found", finding.concept, seconds), ("shipped", sae.concept(word), "-")):
            cells = []
            for band, centre in enumerate(BAND_CENTRES):
                x = noised.embeddings[band].reshape(-1, sae.config.d_in).float()
                dense = torch.cat([sae.module.encode_dense(part) for part in x.split(20_000)])
                auc, iou = quality(concept, dense, noised.masks[OBJECTS.index(word)], centre)
                cells.append(f"{auc:.3f} / {iou:.2f}")
            print(f"| {word}, {name} | {' | '.join(cells)} | {took} |", flush=True)
