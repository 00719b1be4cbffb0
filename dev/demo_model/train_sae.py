"""Train the SAEs of the demo model, score their latents, set thresholds, and write the shipped files.

``python dev/host dev.demo_model.train_sae`` collects activations once (kept in ``dev/work/``), trains one SAE for each
hookpoint, and writes ``sae_models/weights/canvas_<hookpoint>.safetensors``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS
from ...sae_models import shipped
from ...sae_models.concepts import Concept, ConceptBand, ConceptDictionary
from ...sae_models.formats import native
from ...sae_models.sae import SAEConfig, SparseAutoencoder
from ...sae_models.scoring import calibrated_band, fitted_weights, score_features
from ...training import Quality, TrainingSettings, measure, progress_printer, train
from . import scenes
from .activations import BAND_EDGES, Generated, Noised, from_generations, from_scenes
from .sampling import SAE_SEEDS

WORK = Path(__file__).parents[1] / "work"
WEIGHTS = Path(__file__).parents[2] / "sae_models" / "weights"
WIDTH_FACTOR, K = 12, 16
FAMILY = "canvas"
CANDIDATES = 64
# Divides the thresholds: at 1 the quantile alone decides. Chosen on the tuning split of the former model.
EAGERNESS = 1.35


def collect(sites: Sequence[str], generations: int, scene_count: int) -> tuple[dict[str, Generated], dict[str, Noised]]:
    """Collect, or read back, activations of generations and of validation scenes."""
    path = WORK / "activations.pt"
    if path.exists():
        stored = torch.load(path, weights_only=True, mmap=True)
        generated = {s: Generated(*stored["generated"][s]) for s in sites}
        return generated, {s: Noised(*stored["noised"][s]) for s in sites}
    model, clip, vae = checkpoint.load()
    generated = from_generations(model, clip, sites, generations, SAE_SEEDS[:generations])
    noised = from_scenes(model, clip, vae, sites, scenes.VALIDATION[:scene_count])
    WORK.mkdir(exist_ok=True)
    content = {
        "generated": {s: (g.embeddings, g.targets) for s, g in generated.items()},
        "noised": {s: (n.embeddings, n.grid, n.masks, n.styles) for s, n in noised.items()},
    }
    torch.save(content, path)
    return generated, noised


def train_site(site: str, generated: Generated, settings: TrainingSettings) -> tuple[SparseAutoencoder, Quality]:
    """Train the SAE of one hookpoint on nine tenths of the generations and measure it on the rest."""
    # The first tenth holds every object, since they take turns.
    held = len(generated.targets) // 10
    width = generated.embeddings[0].shape[-1]
    fit = torch.cat([band[held:].reshape(-1, width) for band in generated.embeddings])
    rest = torch.cat([band[:held].reshape(-1, width) for band in generated.embeddings])
    config = SAEConfig(width, WIDTH_FACTOR * width, K, site, model_family=FAMILY)
    sae = train(fit, config, settings, progress_printer(settings.steps))
    return sae, measure(sae, rest)


@torch.no_grad()
def feature_means(sae: SparseAutoencoder, generated: Generated) -> Tensor:
    """Return the mean activation of every latent on each object's single-object prompts, [objects, bands, L]."""
    means = torch.zeros(len(OBJECTS), len(generated.embeddings), sae.config.num_latents)
    for row, name in enumerate(OBJECTS):
        images = [i for i, targets in enumerate(generated.targets) if targets == (name,)]
        for band, embeddings in enumerate(generated.embeddings):
            x = embeddings[images].reshape(-1, sae.config.d_in).float()
            means[row, band] = sae.encode_dense(x).mean(0)
    return means


def build_dictionary(
    sae: SparseAutoencoder,
    generated: Generated,
    noised: Noised,
    count: int,
    quantile: float,
    tied: bool = False,
) -> ConceptDictionary:
    """Score latents on generations, weigh them and set thresholds on validation scenes.

    The best scores of a handful of prompts include latents of a style or of the picture's corners, so the latents
    are chosen among the `CANDIDATES` best by how well their weighted sum finds the object's patches.

    Args:
        count: most latents a concept and band.
        quantile: share of the patches without the object that stay undetected.
        tied: whether the n-th object is tied to the n-th latent, as guided training does it; no other is used then.
    """
    means = feature_means(sae, generated)
    bands: dict[str, list[ConceptBand]] = {name: [] for name in OBJECTS}
    for band, embeddings in enumerate(noised.embeddings):
        dense = dense_features(sae, embeddings)  # of one band at a time: they are the largest thing in memory
        for row, name in enumerate(OBJECTS):
            scores = score_features(means, row)[band]
            candidates = torch.tensor([row]) if tied else scores.topk(CANDIDATES).indices
            chosen, weights, background = weighed(dense[..., candidates].float(), noised.masks[row], count)
            latents = candidates[chosen]
            bands[name].append(
                calibrated_band(latents, scores[latents], means[row, band][latents], weights, background, quantile)
            )
    concepts = {name: Concept(name, BAND_EDGES, tuple(bands[name]), "sum") for name in OBJECTS}
    return ConceptDictionary(concepts, BAND_EDGES, means.mean(0))


@torch.no_grad()
def dense_features(sae: SparseAutoencoder, embeddings: Tensor) -> Tensor:
    """Return all latents of patch embeddings, [..., C] -> [..., L] float16."""
    parts = embeddings.reshape(-1, sae.config.d_in).split(20_000)
    return torch.cat([sae.encode_dense(part.float()).half() for part in parts]).reshape(*embeddings.shape[:-1], -1)


def weighed(activations: Tensor, cover: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose and weigh latents on every other scene, and score the background of the rest.

    Args:
        activations: candidates, [scenes, patches, n].
        cover: share of each patch that the object covers, [scenes, patches].
        count: most latents to choose.

    Returns:
        chosen [m] (columns, heaviest first), weights [m], and the weighted sum in patches without the object.
    """
    fit, inside, outside = activations[::2].flatten(0, 1), cover[::2].flatten() > 0.5, cover[::2].flatten() < 0.02
    # A tenth of the background says as much as all of it.
    rows = torch.cat([inside.nonzero()[:, 0], outside.nonzero()[::10, 0]])
    fit, inside = fit[rows], inside[rows]
    first = fitted_weights(fit, inside)
    chosen = (first * fit[inside].mean(0)).topk(count).indices
    weights = fitted_weights(fit[:, chosen], inside)
    rest, free = activations[1::2].flatten(0, 1), cover[1::2].flatten() < 0.02
    return chosen, weights, rest[free][:, chosen] @ weights


def file_of(site: str) -> Path:
    """Return where the SAE of a hookpoint is shipped."""
    return WEIGHTS / shipped.file_name(site)


def main() -> None:
    """Run all stages; what is already collected or trained is not done again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sites", nargs="+", default=shipped.HOOKPOINTS, help="hookpoints; those that ship if left out"
    )
    parser.add_argument("--generations", type=int, default=800)
    parser.add_argument("--scenes", type=int, default=1600)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--latents", type=int, default=8, help="latents for each concept and band")
    parser.add_argument("--quantile", type=float, default=0.98)
    arguments = parser.parse_args()
    sites = arguments.sites
    generated, noised = collect(sites, arguments.generations, arguments.scenes)
    settings = TrainingSettings(steps=arguments.steps, bfloat16=True)
    for site in sites:
        print(site, flush=True)
        trained = WORK / f"sae_{site}.safetensors"
        if trained.exists():
            file = native.SAEFile(trained)
            sae, facts = file.load(dtype=torch.float32), file.facts
            file.load_decoder(sae)
        else:
            sae, quality = train_site(site, generated[site], settings)
            facts = {
                "licence": "Apache-2.0",
                "trained_on": f"{arguments.generations} Canvas generations of 20 steps, conditional half",
                "steps": settings.steps,
                "batch": settings.batch,
                "explained_variance": round(quality.explained_variance, 4),
                "dead_share": round(quality.dead_share, 4),
                "measured_on_embeddings": quality.embeddings,
            }
            native.save(trained, sae, facts=facts, dtype=torch.float32)
        print(f"  explained variance {facts['explained_variance']}, dead {facts['dead_share']}", flush=True)
        dictionary = build_dictionary(sae, generated[site], noised[site], arguments.latents, arguments.quantile)
        facts["thresholds"] = f"quantile {arguments.quantile} of patches without the object, {arguments.scenes} scenes"
        native.save(file_of(site), sae, dictionary, facts)
