"""How well do the shipped SAEs localise? ROC-AUC and IoU against the true masks of held-out scenes.

``python dev/host benchmarks.detection`` prints, for each SAE and timestep band, the mean over the objects, and with
``--per-concept`` every object. Patches covered by at least half count as holding the object, patches covered by
less than a fiftieth as free of it; those between are left out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..demo_model import checkpoint
from ..demo_model.vocabulary import OBJECTS
from ..dev.demo_model import scenes
from ..dev.demo_model.activations import BAND_CENTRES, Noised, from_scenes
from ..erasure.detection import concept_score, detect_patches
from ..nodes.files import SHIPPED
from ..sae_models.formats.native import SAEFile
from ..sae_models.sae import SparseAutoencoder
from ..sae_models.scoring import roc_auc


def quality(sae: SparseAutoencoder, file: SAEFile, noised: Noised, band: int) -> dict[str, tuple[float, float]]:
    """Return (AUC, IoU) of every object in one timestep band."""
    dictionary = file.dictionary()
    x = noised.embeddings[band].reshape(-1, sae.config.d_in).float()
    dense = torch.cat([sae.encode_dense(part) for part in x.split(20_000)])
    result = {}
    for row, name in enumerate(OBJECTS):
        concept = dictionary.concepts[name]
        inside, outside = masks_of(noised.masks[row])
        chosen = concept.bands[band]
        score = concept_score(dense[:, list(chosen.latents)], torch.tensor(chosen.thresholds), concept.combine)
        found = detect_patches(sae, chosen, concept.combine, 1.0, x).detected
        overlap = (found & inside).sum() / ((found & outside) | inside).sum()
        result[name] = (roc_auc(score[inside], score[outside]), float(overlap))
    return result


def masks_of(cover: Tensor) -> tuple[Tensor, Tensor]:
    """Return which patches hold an object and which are free of it, both bool and flat."""
    return cover.flatten() >= 0.5, cover.flatten() < 0.02


def print_table(name: str, file: SAEFile, rows: Sequence[dict[str, tuple[float, float]]], per_concept: bool) -> None:
    """Print Markdown: mean and spread over objects, then, if wanted, each object."""
    facts = file.facts
    print(f"\n{name}: explained variance {facts['explained_variance']}, dead latents {facts['dead_share']:.1%}\n")
    heads = [f"t={centre:.0f}" for centre in BAND_CENTRES]
    print("| object | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
    values = np.array([[row[o] for o in OBJECTS] for row in rows])
    for label, part in (("mean", values.mean(1)), ("lowest", values.min(1)), ("highest", values.max(1))):
        print(f"| {label} | " + " | ".join(f"{auc:.3f} / {iou:.2f}" for auc, iou in part) + " |")
    if per_concept:
        for i, label in enumerate(OBJECTS):
            print(f"| {label} | " + " | ".join(f"{auc:.3f} / {iou:.2f}" for auc, iou in values[:, i]) + " |")


@torch.no_grad()
def main() -> None:
    """Measure all shipped SAEs, or the files given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="SAE files; the shipped ones if left out")
    parser.add_argument("--scenes", type=int, default=800)
    parser.add_argument("--per-concept", action="store_true")
    arguments = parser.parse_args()
    model, clip, vae = checkpoint.load()
    files = [SAEFile(path) for path in arguments.files or sorted(SHIPPED.glob("*.safetensors"))]
    sites = [file.config.hookpoint for file in files]
    noised = from_scenes(model, clip, vae, sites, scenes.HELD_OUT[: arguments.scenes])
    print(f"AUC / IoU over {arguments.scenes} held-out scenes, {len(OBJECTS)} objects")
    for file in files:
        sae = file.load(dtype=torch.float32)
        rows = [quality(sae, file, noised[file.config.hookpoint], band) for band in range(len(BAND_CENTRES))]
        print_table(file.path.name, file, rows, arguments.per_concept)
