"""Concepts and the concept dictionary: which features stand for a concept, and when they count as firing.

A concept is described separately for each *timestep band*, because a feature that means "cat" late in sampling
may mean nothing in the noise of the first steps.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .identity import SAEIdentity

COMBINATIONS = ("sum", "any")


@dataclass(frozen=True)
class ConceptBand:
    """A concept within one band of timesteps.

    Attributes:
        features: indices of its features, best first.
        thresholds: one positive number a feature; zero means "as soon as it fires at all".
        scores: how well each feature separates the concept, empty if unknown.
        means: mean activation of each feature over all patches of the concept's prompts, empty if unknown; only
            steering needs it.
        against: features that speak against the concept: their sum of feature / threshold is taken from the rest.
        against_thresholds: one number a feature of these.
    """

    features: tuple[int, ...]
    thresholds: tuple[float, ...]
    scores: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    against: tuple[int, ...] = ()
    against_thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for found, bounds in ((self.features, self.thresholds), (self.against, self.against_thresholds)):
            if len(found) != len(bounds):
                raise ValueError(f"{len(found)} features but {len(bounds)} thresholds")
        for name, values in (("scores", self.scores), ("means", self.means)):
            if values and len(values) != len(self.features):
                raise ValueError(f"{len(self.features)} features but {len(values)} {name}")
        if any(not isinstance(i, int) or i < 0 for i in self.features + self.against):
            raise ValueError("a feature is no whole number from 0 on")
        if any(not t >= 0 for t in self.thresholds + self.against_thresholds):
            raise ValueError("a threshold is negative or not a number")


@dataclass(frozen=True)
class Concept:
    """A concept of one SAE.

    Attributes:
        name: what people call it.
        band_edges: rising timesteps, one more than there are bands; band i holds band_edges[i] <= t <
            band_edges[i + 1]. Timesteps outside belong to the first or last band.
        bands: one ConceptBand each.
        combine: ``any``: a patch is detected where any feature exceeds its threshold (the rule of SAeUron,
            arXiv 2501.18052); ``sum``: where the sum of feature / threshold exceeds one.
        sae: the SAE whose features these are, None if nobody said.
        feature_names: what people call some of its features, (index, name) pairs.
    """

    name: str
    band_edges: tuple[float, ...]
    bands: tuple[ConceptBand, ...]
    combine: str = "sum"
    # Whose it is and what its parts are called does not change what it finds.
    sae: SAEIdentity | None = field(default=None, compare=False)
    feature_names: tuple[tuple[int, str], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if len(self.band_edges) != len(self.bands) + 1:
            raise ValueError(f"concept {self.name}: {len(self.bands)} bands, {len(self.band_edges)} edges")
        check_edges(self.band_edges)
        if self.combine not in COMBINATIONS:
            raise ValueError(f"concept {self.name}: combine = {self.combine!r} is not known")

    def band_index(self, timestep: float) -> int:
        """Return the index of the band that holds a timestep (0..999)."""
        return band_index(self.band_edges, timestep)

    def features(self) -> list[int]:
        """Return every feature that it uses in some band, rising."""
        return sorted({i for band in self.bands for i in band.features + band.against})

    def max_feature(self) -> int:
        """Return the largest feature index in use, -1 if there is none."""
        return max(self.features(), default=-1)


def band_index(edges: Sequence[float], timestep: float) -> int:
    """Return which band of rising edges holds a timestep; what lies outside belongs to the first or last."""
    return bisect_right(edges, timestep, 1, len(edges) - 1) - 1


def check_edges(edges: tuple[float, ...]) -> None:
    """Check that timestep bands have edges that rise.

    Raises:
        ValueError: they do not, or there is no band.
    """
    if len(edges) < 2 or not all(low < high for low, high in pairwise(edges)):
        raise ValueError("band edges do not rise")


@dataclass(frozen=True)
class ConceptDictionary:
    """The concepts known for one SAE, by name.

    Attributes:
        concepts: name -> Concept.
        band_edges: see Concept; shared by all concepts of the dictionary.
        latent_means: mean activation of every feature in each band, averaged over concepts, [bands, L]; the
            threshold tau_i(t) that SAeUron uses for a feature. None if unknown.
    """

    concepts: Mapping[str, Concept]
    band_edges: tuple[float, ...] = (0.0, 1000.0)
    feature_means: Tensor | None = None

    def __post_init__(self) -> None:
        check_edges(self.band_edges)
        means = self.feature_means
        if means is not None and (means.ndim != 2 or len(means) != len(self.band_edges) - 1):
            raise ValueError(f"latent_means has shape {tuple(means.shape)} for {len(self.band_edges) - 1} bands")

    def names(self) -> list[str]:
        """Return the names of all concepts, sorted."""
        return sorted(self.concepts)

    def from_features(self, features: Iterable[int]) -> Concept:
        """Make a concept out of feature indices alone.

        Each feature gets its mean activation as threshold where the dictionary knows it, else zero.
        """
        indices = tuple(features)
        bands = []
        for band in range(len(self.band_edges) - 1):
            if self.feature_means is None:
                thresholds = (0.0,) * len(indices)
            else:
                thresholds = tuple(float(self.feature_means[band, i]) for i in indices)
            bands.append(ConceptBand(indices, thresholds))
        name = "features " + ", ".join(str(i) for i in indices)
        return Concept(name, self.band_edges, tuple(bands), combine="any")

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON-able facts that ``from_tensors`` turns back into this dictionary."""
        tensors: dict[str, Tensor] = {}
        if self.feature_means is not None:
            tensors["dictionary.latent_means"] = self.feature_means.contiguous()
        for name, concept in self.concepts.items():
            for i, band in enumerate(concept.bands):
                key = f"dictionary.{name}.{i}"
                tensors[f"{key}.latents"] = torch.tensor(band.features, dtype=torch.int32)
                tensors[f"{key}.thresholds"] = torch.tensor(band.thresholds, dtype=torch.float32)
                tensors[f"{key}.scores"] = torch.tensor(band.scores, dtype=torch.float32)
                if band.means:
                    tensors[f"{key}.means"] = torch.tensor(band.means, dtype=torch.float32)
                if band.against:
                    tensors[f"{key}.against"] = torch.tensor(band.against, dtype=torch.int32)
                    tensors[f"{key}.against_thresholds"] = torch.tensor(band.against_thresholds, dtype=torch.float32)
        facts = {
            "band_edges": list(self.band_edges),
            "concepts": {name: concept.combine for name, concept in self.concepts.items()},
        }
        return tensors, facts

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "ConceptDictionary":
        """Rebuild a dictionary.

        Raises:
            ValueError, KeyError, TypeError: the parts do not fit together.
        """
        if not isinstance(facts["band_edges"], list):
            raise TypeError("band_edges is no list")
        edges = tuple(float(e) for e in facts["band_edges"])
        concepts = {}
        for name, combine in facts["concepts"].items():
            bands = []
            for i in range(len(edges) - 1):
                key = f"dictionary.{name}.{i}"
                features, thresholds, scores = (
                    tuple(tensors[f"{key}.{part}"].tolist()) for part in ("latents", "thresholds", "scores")
                )
                means, against, against_thresholds = (
                    tuple(tensors[f"{key}.{part}"].tolist()) if f"{key}.{part}" in tensors else ()
                    for part in ("means", "against", "against_thresholds")
                )
                bands.append(ConceptBand(features, thresholds, scores, means, against, against_thresholds))
            concepts[name] = Concept(name, edges, tuple(bands), combine)
        return cls(concepts, edges, tensors.get("dictionary.latent_means"))
