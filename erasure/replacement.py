"""Replacement: overwrite detected patch embeddings by embeddings of undetected patches of the same feature map.

After "Look But Don't Touch with Sparse Autoencoders for Unlearning in Diffusion Models" (arXiv 2606.31699). The paper
draws source patches at random; the other choices are ours. Which patch comes from which is one index map, ``source``
[B, N] with n itself where nothing changes. What is not detected keeps its exact bits.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MODES = ("similar", "random", "nearest", "none")
APPLY_TO = ("positive", "both")
# Distances between patches that are held at once: 64 MiB.
MOST_AT_ONCE = 2**24


@dataclass(frozen=True)
class Replacement:
    """How detected patches are replaced.

    Attributes:
        mode: ``similar``: by the source patch that is nearest in feature space, with the concept's direction removed,
            which is ours; ``random``: by one drawn uniformly, as in the paper; ``nearest``: by the spatially nearest;
            ``none``: detect and record only.
        apply_to: which prompts' calls are edited: the ``positive`` ones, or ``both``.
        seed: of ``random``.
        source_share: share (above 0, at most 1) of the undetected patches that may be source patches: those with the
            lowest raw score. Ours; 1 is the paper's. The defaults are measured: docs/decisions/0008 and 0011.
    """

    mode: str = "similar"
    apply_to: str = "positive"
    seed: int = 0
    source_share: float = 0.25

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"replacement {self.mode!r}; known are {', '.join(MODES)}")
        if self.apply_to not in APPLY_TO:
            raise ValueError(f"apply_to {self.apply_to!r}; known are {', '.join(APPLY_TO)}")
        if not 0 < self.source_share <= 1:
            raise ValueError("source_share must be above 0 and at most 1")


def own_places(mask: Tensor) -> Tensor:
    """Return the index map that changes nothing for masks [B, N], int64 [B, N]."""
    return torch.arange(mask.shape[1], device=mask.device).expand(len(mask), -1)


def replace_patches(x: Tensor, source: Tensor) -> Tensor:
    """Return feature maps in which patch n is what patch ``source[b, n]`` was.

    Args:
        x: [B, C, H, W].
        source: int64 [B, H * W].
    """
    flat = x.flatten(2)
    return flat.gather(2, source[:, None].expand(-1, flat.shape[1], -1)).view_as(x)


def as_around(x: Tensor, inside: Tensor) -> Tensor:
    """Return embeddings that are, inside a region, the mean of those outside; as they are where nothing is outside.

    Args:
        x: [B, N, C].
        inside: bool [B, N].
    """
    outside = ~inside
    usual = (x * outside[..., None]).sum(1, keepdim=True, dtype=torch.float32)
    usual = usual / outside.sum(1).clamp(min=1)[:, None, None]
    return torch.where((inside & outside.any(1, keepdim=True))[..., None], usual.to(x.dtype), x)


def source_pool(mask: Tensor, raw_score: Tensor, share: float) -> Tensor:
    """Tell which patches may be source patches: the undetected ones that speak least for the concept.

    Args:
        mask: detected patches, bool [B, N].
        raw_score: float [B, N], see Detection.
        share: of the undetected patches, above 0 and at most 1.

    Returns:
        bool [B, N], empty only where all is detected. Patches with as low a score as the last one taken are in it too,
        or their order in the image would decide.
    """
    if share >= 1:
        return ~mask
    ranked = raw_score.masked_fill(mask, torch.inf)
    wanted = (share * (~mask).sum(1, dtype=torch.float32)).round().long().clamp(min=1) - 1
    limit = ranked.sort(1).values.gather(1, wanted[:, None])
    # A limit of infinity would let detected patches in.
    return (ranked <= limit) & ~mask


def similar_sources(x: Tensor, mask: Tensor, pool: Tensor) -> Tensor:
    """Choose the source patch nearest in feature space, once what tells the two kinds apart is taken out of both.

    That is the direction from the source patches' mean to the detected patches' mean.

    Args:
        x: patch embeddings, [B, N, C].
        mask: detected patches, bool [B, N].
        pool: possible source patches, bool [B, N].

    Returns:
        int64 [B, N], see the module.
    """
    # Patches of a feature map lie across, and along the last dimension they are gathered in a fraction of the time.
    across = x.transpose(1, 2)

    def choose(images: slice, table: _Table) -> Tensor:
        found, others = (
            table.of(across[images], places).transpose(1, 2).float() for places in (table.rows, table.columns)
        )
        direction = F.normalize(_mean(found, table.is_found) - _mean(others, table.is_source), dim=1)
        found, others = without(direction, found), without(direction, others)
        parts = found.split(_rows_at_once(len(found), others.shape[1]), dim=1)
        return torch.cat([_first_nearest(torch.cdist(part, others), table.is_source) for part in parts], 1)

    return _choose(mask, pool, choose)


def without(direction: Tensor, patches: Tensor) -> Tensor:
    """Take a direction, unit vectors [B, C], out of patches [B, n, C]."""
    return patches - (patches @ direction[..., None]) * direction[:, None]


def nearest_sources(mask: Tensor, pool: Tensor, width: int) -> Tensor:
    """Choose the spatially nearest source patch; ties go to the lower place.

    Args:
        mask, pool: see ``similar_sources``.
        width: of the grid.
    """

    def choose(images: slice, table: _Table) -> Tensor:
        count, chosen = len(mask[images]), []
        for part in table.rows.split(_rows_at_once(count, len(table.columns))):
            down = (part // width)[:, None] - table.columns // width
            across = (part % width)[:, None] - table.columns % width
            distance = (down * down + across * across).float().expand(count, -1, -1)
            chosen.append(_first_nearest(distance, table.is_source))
        return torch.cat(chosen, 1)

    return _choose(mask, pool, choose)


def random_sources(mask: Tensor, pool: Tensor, draws: Tensor) -> Tensor:
    """Choose source patches uniformly, with repetition.

    Args:
        mask, pool: see ``similar_sources``.
        draws: uniform in 0..1, float [B, N], see ``draws_for``.
    """
    held = pool.sum(1, keepdim=True)
    order = pool.byte().sort(dim=1, descending=True, stable=True).indices
    pick = torch.minimum((draws * held).long(), (held - 1).clamp(min=0))
    return torch.where(mask & (held > 0), order.gather(1, pick), own_places(mask))


def draws_for(seeds: Sequence[int], patches: int) -> Tensor:
    """Return uniform numbers in 0..1, float32 [images, patches] on the CPU, of a seed an image."""
    generator = torch.Generator()
    return torch.stack([torch.rand(patches, generator=generator.manual_seed(seed)) for seed in seeds])


def draw_seed(seed: int, image_key: int, hookpoint: str, first_sigma: float, step: int) -> int:
    """Mix what makes a draw of source patches unique into one seed in 0..2**63-1.

    The place in the batch is not part of it, so an image gets the same source patches alone and in a batch.
    """
    data = struct.pack("<QQdQ", seed % 2**64, image_key % 2**64, first_sigma, step) + hookpoint.encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


class _Table(NamedTuple):
    """Which rows and columns of a table of all patches have to be looked at for some images.

    Attributes:
        rows, columns: int64 [n] and [m].
        is_found, is_source: which of them are detected patches, bool [images, n], and source patches, bool [images, m];
            None where all are.
    """

    rows: Tensor
    columns: Tensor
    is_found: Tensor | None
    is_source: Tensor | None

    def of(self, x: Tensor, places: Tensor) -> Tensor:
        """Return some places of [images, C, N]."""
        if self.is_found is not None:
            return x  # they are all of them
        return x.gather(2, places.expand(*x.shape[:2], -1))


def _choose(mask: Tensor, pool: Tensor, choose: Callable[[slice, _Table], Tensor]) -> Tensor:
    """Let ``choose`` find a source patch for each detected patch of each image.

    It is given some images and a table, and returns a column for each row, [images, rows]. On a CPU rows are the
    detected patches and columns the pool of one image. Elsewhere to know them would mean to wait for the device, and
    they are all patches of all images.
    """
    own = own_places(mask)
    if mask.device.type != "cpu":
        chosen = choose(slice(None), _Table(own[0], own[0], mask, pool))
        return torch.where(mask & pool.any(1, keepdim=True), chosen, own)
    result = own.clone()
    for image in range(len(mask)):
        rows, columns = mask[image].nonzero()[:, 0], pool[image].nonzero()[:, 0]
        if len(rows) and len(columns):
            chosen = choose(slice(image, image + 1), _Table(rows, columns, None, None))
            result[image, rows] = columns[chosen[0]]
    return result


def _mean(patches: Tensor, which: Tensor | None) -> Tensor:
    """Return the mean of some patches [B, n, C], bool [B, n] says which: [B, C]; zero if there are none."""
    if which is None:
        return patches.mean(1)
    return (patches * which[..., None]).sum(1) / which.sum(1, keepdim=True).clamp(min=1)


def _rows_at_once(images: int, columns: int) -> int:
    """Return how many rows of a table of distances to hold at once."""
    return max(1, MOST_AT_ONCE // max(1, images * columns))


def _first_nearest(distance: Tensor, is_source: Tensor | None) -> Tensor:
    """Return the column of the least distance [B, n, m] among source patches, bool [B, m]; the first of several."""
    if is_source is not None:
        distance = distance.masked_fill(~is_source[:, None], torch.inf)
    return distance.argmin(2)
