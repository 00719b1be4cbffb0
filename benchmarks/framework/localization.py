"""How well a concept localizes: patch ROC-AUC and IoU against what an object really covers.

Patches covered by at least half count as holding the object, patches covered by less than a fiftieth as free of it;
those between are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...demo_model.vocabulary import OBJECTS
from ...dev.demo_model.activations import BAND_CENTRES, Noised
from ...sae_models.concepts import Concept
from ...sae_models.sae import SparseAutoencoder
from ...sae_models.scoring import band_score, roc_auc
from .tables import average

HEADS = tuple(f"t={centre:.0f}" for centre in BAND_CENTRES)


def features_of(sae: SparseAutoencoder, noised: Noised, band: int) -> Tensor:
    """Return all features of a band's patches, [n, L]."""
    x = noised.embeddings[band].reshape(-1, sae.config.d_in).float()
    return torch.cat([sae.encode_dense(part) for part in x.split(20_000)])


def quality(concept: Concept, features: Tensor, cover: Tensor, timestep: float) -> tuple[float, float]:
    """Return (AUC, IoU) of a concept at one timestep, given all features of patches and what an object covers."""
    band = concept.bands[concept.band_index(timestep)]
    inside, outside = cover.flatten() >= 0.5, cover.flatten() < 0.02
    if not band.features:
        return 0.5, 0.0
    score = band_score(features[:, list(band.features + band.against)], band, concept.combine)
    overlap = ((score > 1) & inside).sum() / (((score > 1) & outside) | inside).sum()
    return roc_auc(score[inside], score[outside]), float(overlap)


def qualities(sae: SparseAutoencoder, concepts: Mapping[str, Concept], noised: Noised) -> np.ndarray:
    """Return AUC and IoU of every object's concept in every band, [bands, concepts, 2]."""
    rows = []
    for band, centre in enumerate(BAND_CENTRES):
        features = features_of(sae, noised, band)
        rows.append([quality(c, features, noised.masks[OBJECTS.index(o)], centre) for o, c in concepts.items()])
    return np.array(rows)


def cells(pairs: Sequence[Sequence[float]]) -> list[str]:
    """Return AUC and IoU of every band for a table."""
    return [f"{auc:.3f} / {iou:.2f}" for auc, iou in pairs]


def summaries(values: np.ndarray) -> dict[str, list[Any]]:
    """Return the mean and the lowest of concepts in every band, of AUC and of IoU, as entries of a table.

    Args:
        values: as ``qualities`` has them.
    """
    # An object that none of the scenes shows has no AUC.
    values = values[:, ~np.isnan(values[..., 0]).any(0)]
    rows: dict[str, list[Any]] = {}
    for place, (name, digits) in enumerate((("AUC", 3), ("IoU", 2))):
        part = values[..., place]
        rows[name] = [average(band.tolist(), digits) for band in part]
        rows[f"{name}, lowest"] = [round(float(band.min()), digits) if band.size else None for band in part]
    return rows
