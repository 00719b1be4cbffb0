"""Decide where in an image a concept is, from what was seen in a whole run. On the CPU; no ComfyUI in here.

Patches are coarse, and an object seldom ends where they do. So their late answers are taken for a belief of each cell
of the latent image, and a random walker with such beliefs (Grady, 2005) carries it along: far between neighboring cells
that are alike, and hardly across an edge. The region then ends where the object does.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse import linalg
from torch import Tensor
from torch.nn import functional as F

from .evidence import Seen
from .refinement import NEIGHBORS


@dataclass(frozen=True)
class RegionSettings:
    """How regions are decided; ``benchmarks.region`` compares them.

    Attributes:
        latest: timesteps (0..999) up to this count, and the last one in any case.
        there: an image holds the concept if some patch was detected in at least this share of the late steps.
        least: patches detected in less than this share belong to no object.
        partial: how much the score of a patch that was not detected counts, from 0 for nothing to 1 for as much as a
            detected one's when it is just below the threshold.
        belief: how strongly a cell holds to what its patch says, against its neighbors.
        sharpness: how much a difference between neighboring latents weakens their bond.
        grow: cells of the latent by which the region is grown at the end.
    """

    latest: float = 600.0
    there: float = 0.5
    least: float = 0.25
    partial: float = 0.0
    belief: float = 0.05
    sharpness: float = 4.0
    grow: int = 1


DEFAULT = RegionSettings()


def find_regions(seen: Seen, latents: Tensor, settings: RegionSettings = DEFAULT) -> Tensor:
    """Decide where the concept is in each image.

    Args:
        seen: all answers of a run.
        latents: of the finished images, float [B, C, H, W].

    Returns:
        bool [B, H, W]; all False where it is not there.
    """
    size = int(latents.shape[-2]), int(latents.shape[-1])
    heat = late_heat(seen, settings)
    nearly = torch.where(seen.mask, 1.0, settings.partial * seen.score.clamp(max=1.0))
    belief = _late_mean(seen, nearly, settings)
    belief = torch.where(belief < settings.least, 0.0, belief)
    regions = torch.zeros(len(latents), *size, dtype=torch.bool)
    for image in range(len(latents)):
        if float(heat[image].max()) >= settings.there:
            regions[image] = _region(belief[image], latents[image], settings)
    return regions


def late_heat(seen: Seen, settings: RegionSettings = DEFAULT) -> Tensor:
    """Return the share of late steps in which each patch was detected, float [B, h, w]; 0 where none was late."""
    return _late_mean(seen, seen.mask.float(), settings)


def remains(seen: Seen, region: Tensor | None = None, settings: RegionSettings = DEFAULT) -> Tensor:
    """Tell in which images the concept is still found, bool [B].

    Args:
        seen: all answers of the edited run.
        region: where it counts, bool [B, H, W]; None for everywhere.
    """
    heat = late_heat(seen, settings)
    if region is None:
        return (heat >= settings.there).flatten(1).any(1)
    inside = F.adaptive_max_pool2d(region[:, None].float(), heat.shape[-2:])[:, 0] > 0
    return ((heat >= settings.there) & inside).flatten(1).any(1)


def _late_mean(seen: Seen, values: Tensor, settings: RegionSettings) -> Tensor:
    # A run of one step, or the first part of a longer one, has no late steps; its last one tells most.
    latest = seen.timesteps.min().clamp(min=settings.latest)
    late = seen.known & (seen.timesteps <= latest)[:, None]
    weight = late[..., None, None].float()
    return (values * weight).sum(0) / weight.sum(0).clamp(min=1)


def _region(belief: Tensor, latent: Tensor, settings: RegionSettings) -> Tensor:
    """Return the region of one image, bool [H, W].

    Args:
        belief: how surely each patch holds the concept, 0..1, float [h, w].
        latent: float [C, H, W].
    """
    spread = F.interpolate(belief[None, None], tuple(latent.shape[-2:]), mode="nearest-exact")[0, 0].numpy()
    found = _walk(spread, latent.float().numpy(), settings) > 0.5
    groups, count = ndimage.label(found, NEIGHBORS)
    # What no patch speaks for is not the concept, however alike it looks.
    sure = ndimage.maximum(spread, groups, np.arange(1, count + 1)) if count else []
    found = np.isin(groups, 1 + np.flatnonzero(np.asarray(sure) >= settings.there))
    if not found.any():
        found = spread >= settings.there
    found = ndimage.binary_fill_holes(found)
    return torch.from_numpy(ndimage.binary_dilation(found, NEIGHBORS, settings.grow) if settings.grow else found)


def _walk(belief: np.ndarray, latent: np.ndarray, settings: RegionSettings) -> np.ndarray:
    """Return how likely each cell belongs to the concept once its neighbors have had their say, float [H, W].

    Args:
        belief: 0..1, float [H, W].
        latent: float [C, H, W].
    """
    height, width = belief.shape
    channels = latent - latent.mean((1, 2), keepdims=True)
    channels = (channels / (channels.std((1, 2), keepdims=True) + 1e-6)).reshape(len(latent), -1).T
    number = np.arange(height * width).reshape(height, width)
    across, down = np.stack([number[:, :-1], number[:, 1:]]), np.stack([number[:-1], number[1:]])
    ends = np.concatenate([across.reshape(2, -1), down.reshape(2, -1)], 1)
    apart = ((channels[ends[0]] - channels[ends[1]]) ** 2).sum(1)
    bond = np.exp(-settings.sharpness * apart / (apart.mean() + 1e-9)) + 1e-4
    both = np.concatenate([ends, ends[::-1]], 1)
    graph = sparse.coo_matrix((np.tile(bond, 2), (both[0], both[1])), (number.size, number.size)).tocsr()
    held = np.asarray(graph.sum(1)).ravel() + settings.belief
    system = (sparse.diags(held) - graph).tocsc()
    found: np.ndarray = linalg.spsolve(system, settings.belief * belief.ravel()).reshape(height, width)
    return found
