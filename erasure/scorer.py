"""Score patches for concepts: the arithmetic of a detector, on the device of the feature map.

The result is that of a full encode. Competition among features (TopK) can only silence a feature, and features against
the concept only take away, so a patch whose own features would not suffice without both needs no look at the others.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..sae_models.concepts import Concept
from ..sae_models.sae import COMPETING, SparseAutoencoder
from ..sae_models.scoring import concept_score
from .detection import Detection

# Pre-activations of all features that are held at once: 64 MiB in half precision.
MOST_AT_ONCE = 2**25


class ConceptScorer:
    """Tells which patches hold a concept, or any of several. What does not change from call to call is gathered once.

    However many concepts there are, the patches are encoded once.

    Args:
        sae: the SAE; its encoder must not change as long as the scorer is used.
        concept: features and thresholds for each timestep band.
        sensitivity: see Detector.
        device: where the patches will be.
        also: further concepts of the same SAE.
    """

    @torch.no_grad()
    def __init__(
        self,
        sae: SparseAutoencoder,
        concept: Concept,
        sensitivity: float,
        device: torch.device,
        also: Sequence[Concept] = (),
    ) -> None:
        self.sae = sae
        self.sensitivity = sensitivity
        concepts = [concept, *also]
        every = [band for each in concepts for band in each.bands]
        self._own = max(len(band.features) for band in every)
        self._against = max(len(band.against) for band in every)
        # They differ in their number of bands and features; a feature with an infinite threshold counts nothing.
        bands = max(len(each.bands) for each in concepts)
        rows = [_padded(each.bands, bands, each.bands[-1]) for each in concepts]
        features = [[self._row(b.features, b.against, 0) for b in row] for row in rows]
        infinity = float("inf")
        limits = [[self._row(b.thresholds, b.against_thresholds, infinity) for b in row] for row in rows]
        edges = [_padded(each.band_edges[1:-1], bands - 1, infinity) for each in concepts]
        kinds = {each.combine for each in concepts}
        self._combine = kinds.pop() if len(kinds) == 1 else ""
        self._by_any = _to(torch.tensor([each.combine == "any" for each in concepts]), device)
        self._places = _to(torch.arange(len(concepts)), device)
        weight, bias = sae.encoder.weight, sae.encoder.bias
        # A float32 SAE would be cast to the model's half precision as a whole at every call; the patches are far fewer.
        self._float32 = weight.dtype == torch.float32
        index = torch.tensor(features, dtype=torch.long)  # [concepts, bands, n]
        self._features = _to(index, device)
        self._thresholds = _to(torch.tensor(limits, dtype=torch.float32), device)
        self._edges = _to(torch.tensor(edges, dtype=torch.float32).reshape(len(concepts), bands - 1), device)
        picked = _to(index.flatten(), weight.device)
        self._rows = _to(weight.index_select(0, picked).unflatten(0, index.shape), device)
        self._bias = _to(bias.index_select(0, picked).unflatten(0, index.shape), device)

    def _row(self, own: tuple, against: tuple, fill: float) -> list:
        return _padded(own, self._own, fill) + _padded(against, self._against, fill)

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: Tensor) -> tuple[Detection, Tensor]:
        """Look at patch embeddings.

        Args:
            x: [N, D].
            timestep: 0..999, [].

        Returns:
            of each patch, [N], and of each concept, [concepts, N]; and whether the embeddings are finite, bool [].
        """
        band = (self._edges <= timestep.float()).sum(1)
        features, thresholds = (each[self._places, band] for each in (self._features, self._thresholds))
        sae, wanted = self.sae, features.flatten()
        centered = sae.center(x.float() if self._float32 else x)
        pre = self._pre_activations(centered, band)
        finite = torch.isfinite(pre).all()
        alone = sae.config.activation not in COMPETING
        found = (sae.activate_alone(pre, wanted) if alone else sae.loudness(pre)).float()
        raw = self._for(found, thresholds)
        each = self._score(found, thresholds) > 1 if alone else self._compete(raw > 1, centered, wanted, thresholds)
        if len(each) == 1:
            return Detection(each[0], raw[0], each=each), finite
        return Detection(each.any(0), raw.amax(0), each=each), finite

    def _pre_activations(self, centered: Tensor, band: Tensor) -> Tensor:
        """Return the wanted features before competition, [N, D] -> [N, concepts * n]."""
        rows, bias = (each[self._places, band].flatten(0, 1).to(centered) for each in (self._rows, self._bias))
        if centered.is_contiguous():
            return torch.addmm(bias, centered, rows.T)
        # The patches of a single image lie across; multiplied the other way round, they take a fiftieth of the time.
        return torch.addmm(bias[:, None], rows, centered.T).T

    def _for(self, found: Tensor, thresholds: Tensor) -> Tensor:
        """Return what speaks for each concept, [N, concepts * n] -> [concepts, N]."""
        own, limits = self._of_each(found)[..., : self._own], thresholds[:, : self._own]
        if self._combine:
            return concept_score(own, limits, self._combine).T * self.sensitivity
        one, all_of_them = (concept_score(own, limits, kind) for kind in ("any", "sum"))
        return torch.where(self._by_any, one, all_of_them).T * self.sensitivity

    def _of_each(self, found: Tensor) -> Tensor:
        return found.unflatten(1, (len(self._places), self._own + self._against))

    def _score(self, found: Tensor, thresholds: Tensor) -> Tensor:
        """Return what speaks for each concept, less what speaks against it; above 1 the concept is there."""
        score = self._for(found, thresholds)
        if not self._against:
            return score
        against, limits = self._of_each(found)[..., self._own :], thresholds[:, self._own :]
        return score - concept_score(against, limits, "sum").T * self.sensitivity

    def _compete(self, likely: Tensor, centered: Tensor, wanted: Tensor, thresholds: Tensor) -> Tensor:
        """Let all features compete in the patches that may hold a concept; return which do, bool [concepts, N]."""
        if likely.device.type != "cpu":
            # To know which patches they are would mean to wait for the device, which is quicker with all of them.
            part = max(1, MOST_AT_ONCE // self.sae.config.num_latents)
            parts = [self._score(competing(self.sae, rows, wanted), thresholds) for rows in centered.split(part)]
            return likely & (torch.cat(parts, 1) > 1)
        places = likely.any(0).nonzero().squeeze(1)
        detected = likely.clone()
        if len(places):
            detected[:, places] &= self._score(competing(self.sae, centered[places], wanted), thresholds) > 1
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


def _padded(values: tuple, length: int, fill: Any) -> list:
    return [*values, *[fill] * (length - len(values))]


def _to(values: Tensor, device: torch.device) -> Tensor:
    """Bring values to a device without waiting for it."""
    return values.to(device, non_blocking=True)
