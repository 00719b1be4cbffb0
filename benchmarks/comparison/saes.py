"""The SAEs of the compared pipelines, in ``dev/work/comparison/saes``; those that do not ship are trained here.

All read `SITE`. What is made:

* ``outputs``: the shipped SAE of the block's output. ``.ranked`` has each object's latents in the order of SAeUron's
  score, with mean activations, which is what steering needs; ``.one`` detects with one latent (SAEmnesia's recipe).
* ``guided``: of the output too, trained with labels of patches, so that the n-th latent stands for the n-th object
  (G-SAE, arXiv 2506.19382). Labels are the true masks of noised scenes; of generations it is known only which objects
  the prompt does not name.
* ``differences``: of output minus input (sdxl-unbox, arXiv 2410.22366), without labels.

Thresholds for detection are those of dev/demo_model/train_sae.py, at its quantile, for every SAE. A file that is
there is not made again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS
from ...dev.demo_model import scenes, train_sae
from ...dev.demo_model.activations import BAND_EDGES, Generated, Noised, from_generations, from_scenes
from ...dev.demo_model.sampling import SAE_SEEDS
from ...sae_models.concepts import Concept, ConceptBand, ConceptDictionary
from ...sae_models.formats import native
from ...sae_models.sae import SAEConfig, SparseAutoencoder
from ...sae_models.scoring import score_features
from ...training import Trainer, TrainingSettings, measure
from ...training.store import UNKNOWN
from ..framework import storage
from ..framework.settings import SITE
from .folder import WORK

FOLDER = WORK / "saes"
GENERATIONS, SCENES = 320, 800
RANKED = 32  # latents a concept and band that steering can choose from
QUANTILE, LATENTS = 0.98, 8  # as the shipped file was made
SETTINGS = TrainingSettings(steps=1500, bfloat16=True)
LIFT_ROWS = 60_000


@dataclass(frozen=True, eq=False)
class Activations:
    """What the SAEs of one kind are trained and calibrated on."""

    generated: Generated
    noised: Noised


def path_of(name: str) -> Path:
    """Return the file of an SAE, such as ``guided`` or ``outputs.ranked``; ``outputs`` is the shipped one."""
    return train_sae.file_of(SITE) if name == "outputs" else FOLDER / f"{name}.safetensors"


def activations(reads: str) -> Activations:
    """Collect activations, or read them back."""
    path = FOLDER / f"activations.{reads}.pt"
    if not path.exists():
        model, clip, vae = checkpoint.load()
        seeds = SAE_SEEDS[:GENERATIONS]
        generated = from_generations(model, clip, [SITE], GENERATIONS, seeds, reads=reads)[SITE]
        noised = from_scenes(model, clip, vae, [SITE], scenes.VALIDATION[:SCENES], reads=reads)[SITE]
        with storage.whole(path) as partial:
            torch.save({"generated": vars(generated), "noised": vars(noised)}, partial)
    stored = torch.load(path, weights_only=True, mmap=True)
    return Activations(Generated(**stored["generated"]), Noised(**stored["noised"]))


def prompt_labels(generated: Generated, band: int) -> Tensor:
    """Return the labels of a band's patches: 0 for objects that the prompt lacks, else unknown, uint8 [n, 20]."""
    images, calls, patches, _ = generated.embeddings[band].shape
    named = torch.tensor([[name in targets for name in OBJECTS] for targets in generated.targets])
    labels = named.to(torch.uint8) * UNKNOWN
    return labels[:, None, None].expand(images, calls, patches, len(OBJECTS)).reshape(-1, len(OBJECTS))


def mask_labels(noised: Noised) -> Tensor:
    """Return the labels of noised scenes' patches by what covers them, uint8 [scenes * patches, 20]."""
    cover = noised.masks.flatten(1).T
    labels = torch.full(cover.shape, UNKNOWN, dtype=torch.uint8)
    labels[cover > 0.5], labels[cover < 0.02] = 1, 0
    return labels


def training_data(found: Activations, guided: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return embeddings [N, D], labels [N, 20] or None, and embeddings of other images to measure on.

    The first tenth of the generations, which holds every object, is for measuring. Of the scenes every other one is
    trained on where labels are wanted; thresholds are set on the rest (see ``train_sae.weighed``).
    """
    generated, noised = found.generated, found.noised
    held, width = len(generated.targets) // 10, generated.embeddings[0].shape[-1]
    fit = [band[held:].reshape(-1, width) for band in generated.embeddings]
    rest = torch.cat([band[:held].reshape(-1, width) for band in generated.embeddings])
    if not guided:
        return torch.cat(fit), None, rest
    labels = [prompt_labels(generated, band)[-len(rows) :] for band, rows in enumerate(fit)]
    half = Noised(noised.embeddings[:, ::2], noised.grid, noised.masks[:, ::2], noised.styles[::2])
    fit += [band.reshape(-1, width) for band in half.embeddings]
    labels += [mask_labels(half)] * len(half.embeddings)
    return torch.cat(fit), torch.cat(labels), rest


def trained(reads: str, found: Activations, guided: bool) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """Train an SAE and return it with what is to be said of it."""
    fit, labels, rest = training_data(found, guided)
    width = fit.shape[1]
    config = SAEConfig(width, train_sae.WIDTH_FACTOR * width, train_sae.K, SITE, reads, model_family=train_sae.FAMILY)
    trainer = Trainer(
        config, SETTINGS, fit[torch.randperm(len(fit), generator=torch.Generator().manual_seed(0))[:50_000]]
    )
    generator = torch.Generator().manual_seed(1)
    for step in range(SETTINGS.steps):
        rows = torch.randint(len(fit), (SETTINGS.batch,), generator=generator)
        trainer.advance(fit[rows], None if labels is None else labels[rows])
        if step % 250 == 0:
            print(f"  step {step}/{SETTINGS.steps}  unexplained {trainer.outcome.unexplained:.4f}", flush=True)
    sae = trainer.sae()
    if labels is not None:
        # The scenes, which come last, are the ones whose patches are known to show an object.
        seen = int((labels == 1).any(1).nonzero()[0])
        rows = torch.randint(seen, len(fit), (LIFT_ROWS,), generator=generator)
        lift(sae, trainer.scale, fit[rows], labels[rows])
    quality = measure(sae, rest)
    facts = {
        "licence": "Apache-2.0",
        "trained_on": f"{GENERATIONS} generations" + (f" and {SCENES // 2} noised scenes with masks" if guided else ""),
        "steps": SETTINGS.steps,
        "batch": SETTINGS.batch,
        "explained_variance": round(quality.explained_variance, 4),
        "dead_share": round(quality.dead_share, 4),
        "measured_on_embeddings": quality.embeddings,
    }
    return sae, facts


@torch.no_grad()
def lift(sae: SparseAutoencoder, scale: float, x: Tensor, labels: Tensor) -> None:
    """Let guided latents fire where their concept is likelier than not, counting both kinds of patch alike.

    A logistic fit of a rare concept is negative nearly everywhere, so these latents lose the competition with the
    others even in patches that show their object, hardly fire, and never learn a direction. Their biases are raised by
    the log odds against the concept, and their decoder rows fitted by least squares to what the others leave over.

    Args:
        scale: what one unit of the trainer's inputs is worth.
        x: embeddings, [N, D].
        labels: [N, C], see ``training_data``.
    """
    assert sae.decoder_weight is not None
    count = labels.shape[1]
    share = (labels == 1).sum(0) / (labels != UNKNOWN).sum(0)
    sae.encoder.bias[:count] += scale * torch.log((1 - share) / share)
    latents = sae.encode_dense(x.float())
    left = x.float() - sae.decoder_bias - latents[:, count:] @ sae.decoder_weight[count:]
    sae.decoder_weight[:count] = torch.linalg.lstsq(latents[:, :count], left).solution


def ranked(means: Tensor) -> ConceptDictionary:
    """Return each object's latents in the order of SAeUron's score, with tau as threshold.

    Args:
        means: mean activation of each latent on each object's prompts, [objects, bands, L].
    """
    tau = means.mean(0)
    concepts = {}
    for row, name in enumerate(OBJECTS):
        scores = score_features(means, row)
        bands = []
        for band, best in enumerate(scores.topk(RANKED).indices):
            parts = (tau[band, best], scores[band, best], means[row, band, best])
            bands.append(ConceptBand(tuple(best.tolist()), *(tuple(part.tolist()) for part in parts)))
        concepts[name] = Concept(name, BAND_EDGES, tuple(bands), "any")
    return ConceptDictionary(concepts, BAND_EDGES, tau)


def read(path: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """Return an SAE with its decoder, and what its file says of it."""
    file = native.SAEFile(path)
    sae = file.load(dtype=torch.float32)
    file.load_decoder(sae)
    return sae, file.facts


def make(reads: str) -> None:
    """Make the files of all SAEs that read ``output``, or of the one that reads ``output_minus_input``."""
    kinds = {"outputs": False, "guided": True} if reads == "output" else {"differences": False}
    wanted = [f"{kind}{part}" for kind in kinds for part in parts_of(kind)]
    if all(path_of(name).exists() for name in wanted):
        return
    found = activations(reads)
    for kind, guided in kinds.items():
        weights = path_of(kind) if kind == "outputs" else FOLDER / f"trained.{kind}.safetensors"
        if not weights.exists():
            sae, facts = trained(reads, found, guided)
            native.save(weights, sae, facts=facts, dtype=torch.float32)
        sae, facts = read(weights)
        print(f"{kind}: explained variance {facts['explained_variance']}, dead {facts['dead_share']}", flush=True)
        for part in parts_of(kind):
            if path_of(kind + part).exists():
                continue
            if part == ".ranked":
                dictionary = ranked(train_sae.feature_means(sae, found.generated))
            else:
                count = 1 if guided or part == ".one" else LATENTS
                dictionary = train_sae.build_dictionary(sae, found.generated, found.noised, count, QUANTILE, guided)
            native.save(path_of(kind + part), sae, dictionary, facts)


def parts_of(kind: str) -> tuple[str, ...]:
    """Return which dictionaries an SAE gets."""
    return {"outputs": ("", ".one", ".ranked"), "guided": ("",), "differences": ("", ".ranked")}[kind]
