"""Steering: edit an SAE's features and write the change back. The baseline that replacement is compared with.

Three published ways. ``SAeUron`` multiplies a feature where it fires above its mean (Cywinski & Deja 2025, arXiv
2501.18052; SAEmnesia is the same with one feature); ``G-SAE`` and ``additive`` (sdxl-unbox) add decoder
directions to every patch, whether the concept is there or not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..erasure.replacement import APPLY_TO
from ..sae_models.concepts import ConceptBand
from ..sae_models.sae import SparseAutoencoder

METHODS = ("SAeUron", "G-SAE", "additive")
ERRORS = ("exact", "reference")


@dataclass(frozen=True)
class Steering:
    """How features are steered.

    Attributes:
        method: see the module.
        strength: SAeUron's multiplier gamma (published: -1 to -30); G-SAE's alpha, as a share of each patch's
            length; sdxl-unbox's strength (published: -40 to 40). Negative removes, positive adds; 0 switches
            SAeUron's features off and leaves the others' patches alone.
        error: what SAeUron adds back for what the SAE does not reconstruct. ``exact``: x - decode(z), so that
            patches without the concept are unchanged; ``reference``: decode(z) - x, as the published code has it.
        apply_to: which prompts' calls are edited: the ``positive`` ones, or ``both``.
    """

    method: str = "SAeUron"
    strength: float = -5.0
    error: str = "exact"
    apply_to: str = "both"

    def __post_init__(self) -> None:
        for value, known in ((self.method, METHODS), (self.error, ERRORS), (self.apply_to, APPLY_TO)):
            if value not in known:
                raise ValueError(f"steering {value!r}; known are {', '.join(known)}")


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """What steering must know of a concept's features in one timestep band.

    Attributes:
        features: their indices, int64 [n].
        means: m(c, t), mean activation on the concept's prompts, over all patches, [n].
        thresholds: tau(t), mean activation over the prompts of all concepts, [n].
        scores: relative weights, positive, [n].
    """

    features: Tensor
    means: Tensor
    thresholds: Tensor
    scores: Tensor

    @classmethod
    def of(cls, band: ConceptBand, feature_means: Tensor | None) -> "FeatureStatistics":
        """Collect the statistics of a band.

        Args:
            band: the concept.
            latent_means: tau of every feature in this band, [L]; see ConceptDictionary.

        Raises:
            ValueError: the dictionary holds no mean activations.
        """
        if feature_means is None:
            raise ValueError("its file holds no mean activations of features")
        features = torch.tensor(band.features, dtype=torch.int64)
        thresholds = feature_means[features].float()
        means = torch.tensor(band.means) if band.means else thresholds
        scores = torch.tensor(band.scores).clamp(min=0) if band.scores else torch.zeros(len(features))
        return cls(features, means, thresholds, scores if bool((scores > 0).any()) else torch.ones(len(features)))


@torch.no_grad()
def steer_patches(
    sae: SparseAutoencoder, statistics: FeatureStatistics, steering: Steering, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return steered patch embeddings, and which of them changed.

    Args:
        sae: with its decoder.
        statistics: the concept's features in the timestep band at hand.
        steering: method and strength.
        x: patch embeddings [N, D].

    Returns:
        [N, D] in x's dtype, and bool [N].

    Raises:
        RuntimeError: the decoder was not loaded.
    """
    if sae.decoder_weight is None:
        raise RuntimeError("This SAE was loaded without its decoder; load it with load_decoder()")
    if not len(statistics.features):
        return x, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    directions = sae.decoder_weight[statistics.features.to(sae.decoder_weight.device)].to(x.device, torch.float32)
    if steering.method == "SAeUron":
        change = (_multiplied(sae, statistics, steering, x) @ directions) * sae.scale(x.float())
        if steering.error == "reference":
            change = change + 2 * (sae(x).float() - x.float())
    elif steering.method == "G-SAE":
        weights = (statistics.scores / statistics.scores.sum()).to(x.device)
        unit = directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-8)
        change = steering.strength * x.float().norm(dim=1, keepdim=True) * (weights @ unit)
    else:
        added = steering.strength * (statistics.means.to(x.device) @ directions)
        change = added * sae.scale(x.float())
    return (x.float() + change).to(x.dtype), change.ne(0).any(dim=1)


def _multiplied(sae: SparseAutoencoder, statistics: FeatureStatistics, steering: Steering, x: Tensor) -> Tensor:
    """Return the change of the concept's features, [N, n]: z becomes z * gamma * m(c, t) where it exceeds tau."""
    z = sae.encode_dense(x)[:, statistics.features.to(x.device)].float()
    means, thresholds = statistics.means.to(x.device), statistics.thresholds.to(x.device)
    # A feature that is silent over all prompts has tau = 0; it must still fire to be steered.
    fires = (z > thresholds) & (z > 0)
    return torch.where(fires, z * (steering.strength * means - 1), 0.0)
