"""Where features fire, as heat maps over example images."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ..finding.examples import Example
from ..sae_models.concepts import Concept
from ..sae_models.scoring import band_score
from ..sae_models.sparse_codes import dense
from ..unet.capture import FiredFeatures
from .images import paled, resized, tinted, to_pil, words
from .style import SMALL

TILE, LABEL = 128, 170  # pixels


def activations(call: FiredFeatures, features: Sequence[int], num_features: int) -> Tensor:
    """Return the activations of some features in one call of one image, [H, W, n]."""
    wanted = torch.tensor(features, dtype=torch.long)
    return dense(call.values[0], call.indices[0], wanted, num_features).reshape(*call.grid, -1)


def feature_heat(calls: Sequence[FiredFeatures], feature: int, num_features: int) -> Tensor:
    """Return the mean activation of a feature over the calls of one image, [H, W]."""
    return torch.stack([activations(call, [feature], num_features)[..., 0] for call in calls]).mean(0)


def concept_heat(calls: Sequence[FiredFeatures], concept: Concept, num_features: int) -> Tensor:
    """Return the share of calls in which each patch of an image is detected, [H, W] in 0..1."""
    total = torch.zeros(calls[0].grid)
    for call in calls:
        band = concept.bands[concept.band_index(call.timestep)]
        if band.features:
            fired = activations(call, band.features + band.against, num_features)
            total += band_score(fired, band, concept.combine) > 1
    return total / len(calls)


def image_row(label: str, examples: Sequence[Example], heats: Sequence[Tensor] = ()) -> list[Image.Image]:
    """Return a row of a sheet: a label, then the examples' images, pale below heat maps [H, W] if there are any."""
    tiles = torch.stack([resized(example.image[None], (TILE, TILE))[0] for example in examples])
    if heats:
        tiles = torch.cat([tinted(paled(tiles[i : i + 1]), heat[None]) for i, heat in enumerate(heats)])
    return [words(label, LABEL), *map(to_pil, tiles)]


def caption_row(captions: Sequence[str]) -> list[Image.Image]:
    """Return a row of a sheet with what stands below each image."""
    return [words("", LABEL), *(words(caption, TILE, SMALL, most=3) for caption in captions)]
