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
from .refinement import NEIGHBORS, resize_mask


@dataclass(frozen=True)
class RegionSettings:
    """How regions are decided; ``benchmarks.region`` compares them.

    Attributes:
        latest: timesteps (0..999) up to this count, and the last one in any case.
        there: share of these late steps in which a patch must be detected to be sure of it.
        sure: mean raw score over the late steps that it must have besides. A score above 1 detects; an
            object reaches several times that.
        group: what a group of adjoining sure patches must reach together: the sum of their scores over the root of
            their number, as z-scores are combined (Stouffer, 1949), on a grid of ``GRID`` patches. One false patch may
            score high; groups seldom do. On a finer grid the same object has more patches, which say the same.
        belief: how strongly a cell holds to what its patch says, against its neighbors.
        sharpness: how much a difference between neighboring latents weakens their bond.
        limit: what a cell must reach, 0..1, once its neighbors had their say.
        grow: cells of the latent by which the region is grown at the end.
    """

    latest: float = 600.0
    there: float = 0.5
    sure: float = 1.9
    group: float = 14.0
    belief: float = 0.02
    sharpness: float = 4.0
    limit: float = 0.5
    grow: int = 1


DEFAULT = RegionSettings()
GRID = 16 * 16


def find_regions(seen: Seen, latents: Tensor, settings: RegionSettings = DEFAULT) -> Tensor:
    """Decide where the concept is in each image.

    Args:
        seen: all answers of a run.
        latents: of the finished images, float [B, C, H, W].

    Returns:
        bool [B, H, W]; all False where it is not there.
    """
    belief, sure = _judged(seen, settings)
    regions = torch.zeros(len(latents), *latents.shape[-2:], dtype=torch.bool)
    for image in range(len(latents)):
        if bool(sure[image].any()):
            regions[image] = _region(belief[image], sure[image], latents[image], settings)
    return grown(regions, settings.grow) if settings.grow else regions


def grown(regions: Tensor, cells: int = 1) -> Tensor:
    """Grow regions [..., H, W] by some cells of the latent in each direction; what is empty stays empty."""
    flat = regions.reshape(-1, 1, *regions.shape[-2:]).float()
    return (F.max_pool2d(flat, 2 * cells + 1, 1, cells) > 0).view_as(regions)


def remains(seen: Seen, region: Tensor | None = None, settings: RegionSettings = DEFAULT) -> Tensor:
    """Tell in which images the concept is still found, bool [B].

    Args:
        seen: all answers of the edited run.
        region: where it counts, bool [B, H, W]; None for everywhere.
    """
    sure = _judged(seen, settings)[1]
    if region is not None:
        sure = sure & resize_mask(region, (int(sure.shape[-2]), int(sure.shape[-1])))
    return sure.flatten(1).any(1)


def _judged(seen: Seen, settings: RegionSettings) -> tuple[Tensor, Tensor]:
    """Return how far each patch is believed to hold the concept, 0..1, and of which that is sure: [B, h, w] each."""
    heat, score = _late_mean(seen, seen.mask.float(), settings), _late_mean(seen, seen.score, settings)
    # The score tells more of a weakly detected part; the detection knows what speaks against the concept.
    belief = (heat + (score / settings.sure).clamp(max=1.0)) / 2
    sure = (heat >= settings.there) & (score >= settings.sure)
    return belief, torch.stack([_strong(*each, settings.group) for each in zip(sure, score, strict=True)])


def _strong(sure: Tensor, score: Tensor, least: float) -> Tensor:
    """Return the sure patches of one image whose group is strong enough, bool [h, w]."""
    groups, _ = ndimage.label(sure.numpy(), NEIGHBORS)
    sums, sizes = np.bincount(groups.ravel(), score.numpy().ravel()), np.bincount(groups.ravel())
    return torch.from_numpy(sums[groups] >= least * np.sqrt(sizes * groups.size / GRID)[groups]) & sure


def _late_mean(seen: Seen, values: Tensor, settings: RegionSettings) -> Tensor:
    # A run of one step, or the first part of a longer one, has no late steps; its last one tells most.
    latest = seen.timesteps.min().clamp(min=settings.latest)
    late = seen.known & (seen.timesteps <= latest)[:, None]
    weight = late[..., None, None].float()
    return (values * weight).sum(0) / weight.sum(0).clamp(min=1)


def _region(belief: Tensor, sure: Tensor, latent: Tensor, settings: RegionSettings) -> Tensor:
    """Return the region of one image, bool [H, W].

    Args:
        belief, sure: see ``_judged``, float and bool [h, w].
        latent: float [C, H, W].
    """
    size = tuple(latent.shape[-2:])
    spread, certain = (
        F.interpolate(each[None, None].float(), size, mode="nearest-exact")[0, 0].numpy() for each in (belief, sure)
    )
    found = _walk(spread, latent.float().numpy(), settings) > settings.limit
    groups, _ = ndimage.label(found, NEIGHBORS)
    # A part of the image in which no patch is sure is not the concept, however alike it looks.
    found = found & np.isin(groups, np.unique(groups[certain > 0]))
    return torch.from_numpy(ndimage.binary_fill_holes(found if found.any() else certain > 0))


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
    system = (sparse.diags(held) - graph).tocsr()
    # Direct solvers take ten times as long on the latents of SDXL, and the answer is only compared with a limit.
    found, _ = linalg.cg(system, settings.belief * belief.ravel(), belief.ravel(), M=sparse.diags(1 / held))
    return np.asarray(found).reshape(height, width)
