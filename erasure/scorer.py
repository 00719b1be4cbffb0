"""Score patches for one concept: the arithmetic of a detector, on the device of the feature map.

The result is that of a full encode. Competition among features (TopK) can only silence a feature, and features against
the concept only take away, so a patch whose own features would not suffice without both needs no look at the others.
"""

import torch
from torch import Tensor

from ..sae_models.concepts import Concept
from ..sae_models.sae import COMPETING, SparseAutoencoder
from ..sae_models.scoring import concept_score
from .detection import Detection

# Pre-activations of all features that are held at once: 64 MiB in half precision.
MOST_AT_ONCE = 2**25


class ConceptScorer:
    """Tells which patches hold a concept. What does not change from call to call is gathered once.

    Args:
        sae: the SAE; its encoder must not change as long as the scorer is used.
        concept: features and thresholds for each timestep band.
        sensitivity: see Detector.
        device: where the patches will be.
    """

    @torch.no_grad()
    def __init__(self, sae: SparseAutoencoder, concept: Concept, sensitivity: float, device: torch.device) -> None:
        self.sae = sae
        self.sensitivity = sensitivity
        self._combine = concept.combine
        bands = concept.bands
        self._own = max(len(band.features) for band in bands)
        against = max(len(band.against) for band in bands)
        # Bands differ in their number of features; a feature with an infinite threshold counts nothing.
        features = [_padded(b.features, self._own, 0) + _padded(b.against, against, 0) for b in bands]
        infinity = float("inf")
        limits = [
            _padded(b.thresholds, self._own, infinity) + _padded(b.against_thresholds, against, infinity) for b in bands
        ]
        weight, bias = sae.encoder.weight, sae.encoder.bias
        # A float32 SAE would be cast to the model's half precision as a whole at every call; the patches are far fewer.
        self._float32 = weight.dtype == torch.float32
        index = torch.tensor(features, dtype=torch.long)
        self._features = _to(index, device)
        self._thresholds = _to(torch.tensor(limits, dtype=torch.float32), device)
        self._edges = _to(torch.tensor(concept.band_edges[1:-1], dtype=torch.float32), device)
        picked = _to(index.flatten(), weight.device)
        self._rows = _to(weight.index_select(0, picked).unflatten(0, index.shape), device)
        self._bias = _to(bias.index_select(0, picked).unflatten(0, index.shape), device)

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: Tensor) -> tuple[Detection, Tensor]:
        """Look at patch embeddings.

        Args:
            x: [N, D].
            timestep: 0..999, [].

        Returns:
            of each patch, [N]; and whether the embeddings are finite, bool [].
        """
        band = torch.bucketize(timestep.float(), self._edges, right=True).reshape(1)
        features, thresholds = (each.index_select(0, band)[0] for each in (self._features, self._thresholds))
        sae, wanted = self.sae, features
        centered = sae.center(x.float() if self._float32 else x)
        pre = self._pre_activations(centered, band)
        finite = torch.isfinite(pre).all()
        alone = sae.config.activation not in COMPETING
        found = (sae.activate_alone(pre, wanted) if alone else sae.loudness(pre)).float()
        raw = self._for(found, thresholds)
        if alone:
            return Detection(self._score(found, thresholds) > 1, raw), finite
        return Detection(self._compete(raw > 1, centered, wanted, thresholds), raw), finite

    def _pre_activations(self, centered: Tensor, band: Tensor) -> Tensor:
        """Return the wanted features before competition, [N, D] -> [N, n]."""
        rows, bias = (each.index_select(0, band)[0].to(centered) for each in (self._rows, self._bias))
        if centered.is_contiguous():
            return torch.addmm(bias, centered, rows.T)
        # The patches of a single image lie across; multiplied the other way round, they take a fiftieth of the time.
        return torch.addmm(bias[:, None], rows, centered.T).T

    def _for(self, found: Tensor, thresholds: Tensor) -> Tensor:
        """Return what speaks for the concept, [N, n] -> [N]."""
        return concept_score(found[:, : self._own], thresholds[: self._own], self._combine) * self.sensitivity

    def _score(self, found: Tensor, thresholds: Tensor) -> Tensor:
        """Return what speaks for the concept, less what speaks against it; above 1 the concept is there."""
        score = self._for(found, thresholds)
        if found.shape[1] == self._own:
            return score
        return score - concept_score(found[:, self._own :], thresholds[self._own :], "sum") * self.sensitivity

    def _compete(self, likely: Tensor, centered: Tensor, wanted: Tensor, thresholds: Tensor) -> Tensor:
        """Let all features compete in the patches that may hold the concept; return which do, bool [N]."""
        if likely.device.type != "cpu":
            # To know which patches they are would mean to wait for the device, which is quicker with all of them.
            part = max(1, MOST_AT_ONCE // self.sae.config.num_latents)
            parts = [self._score(competing(self.sae, rows, wanted), thresholds) for rows in centered.split(part)]
            return likely & (torch.cat(parts) > 1)
        places = likely.nonzero().squeeze(1)
        detected = likely.clone()
        if len(places):
            detected[places] = self._score(competing(self.sae, centered[places], wanted), thresholds) > 1
        return detected


def competing(sae: SparseAutoencoder, centered: Tensor, wanted: Tensor) -> Tensor:
    """Return some features of patches after the competition with all others.

    Args:
        sae: with an activation of `COMPETING`.
        centered: input of the encoder, [N, D].
        wanted: indices of the features, [n].

    Returns:
        float [N, n].
    """
    every = sae.encoder(centered)
    if sae.config.activation == "groupmax":
        return sae.activate(every).index_select(1, wanted).float()
    weakest_kept = every.topk(sae.config.k, dim=-1).values[:, -1:]
    ours = every.index_select(1, wanted)
    return torch.where(ours >= weakest_kept, sae.loudness(ours), 0.0).float()


def _padded(values: tuple, length: int, fill: float) -> list:
    return [*values, *[fill] * (length - len(values))]


def _to(values: Tensor, device: torch.device) -> Tensor:
    """Bring values to a device without waiting for it."""
    return values.to(device, non_blocking=True)
