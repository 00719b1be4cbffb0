"""Replacement: overwrite detected patch embeddings by embeddings of undetected patches of the same feature map.

After "Look But Don't Touch with Sparse Autoencoders for Unlearning in Diffusion Models" (arXiv 2606.31699). The
paper draws donors at random; the other choices are ours. What is not detected keeps its exact bits.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MODES = ("alike", "random", "nearest", "mean of k nearest", "unconditional", "none")
HALVES = ("conditional", "both")
SAE_BLOCK, MIDDLE_TOO, LISTED = WHERE = ("SAE block", "middle and SAE block", "listed blocks")


@dataclass(frozen=True)
class Replacement:
    """How detected patches are replaced.

    Attributes:
        mode: ``alike``: the undetected patch of the same image that is most like the detected one but for what makes it
            the concept, which is ours; ``random``: one drawn uniformly, as in the paper; ``nearest``: the spatially
            nearest; ``mean of k nearest``: the mean of the k nearest; ``unconditional``: the same place in the
            unconditional half; ``none``: detect and record only.
        halves: which halves of classifier-free guidance are edited: ``conditional`` or ``both``.
        k: for ``mean of k nearest``.
        seed: of ``random`` donors, which ``unconditional`` falls back on.
        donor_share: share (above 0, at most 1) of the undetected patches that may be donors: those least like
            the concept. Ours; 1 is the paper's. The defaults are measured: docs/decisions/0008 and 0011.
        where: which blocks are edited: ``SAE block``, the one that the SAE reads, as in the paper; ``middle and SAE
            block``, the one in the UNet's middle too, which is ours; or ``listed blocks``.
        at: the UNet modules for ``listed blocks``.
    """

    mode: str = "alike"
    halves: str = "conditional"
    k: int = 4
    seed: int = 0
    donor_share: float = 0.25
    where: str = MIDDLE_TOO
    at: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"replacement {self.mode!r}; known are {', '.join(MODES)}")
        if self.halves not in HALVES:
            raise ValueError(f"halves {self.halves!r}; known are {', '.join(HALVES)}")
        if self.where not in WHERE:
            raise ValueError(f"where {self.where!r}; known are {', '.join(WHERE)}")
        if (self.where == LISTED) != bool(self.at):
            raise ValueError("blocks are listed where 'listed blocks' is chosen, and only there")
        if self.k < 1:
            raise ValueError("k must be at least 1")
        if not 0 < self.donor_share <= 1:
            raise ValueError("donor_share must be above 0 and at most 1")


def donor_seed(seed: int, image_key: int, hookpoint: str, sigma: float) -> int:
    """Mix what makes a draw of donors unique into one seed in 0..2**63-1.

    The place in the batch is not part of it, so an image gets the same donors alone and in a batch.
    """
    data = struct.pack("<QQd", seed % 2**64, image_key % 2**64, sigma) + hookpoint.encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def donor_pool(mask: np.ndarray, likeness: np.ndarray, share: float) -> np.ndarray:
    """Return the places of the patches that may be donors: the undetected ones that are least like the concept.

    Args:
        mask: bool [N].
        likeness: float [N], see ``detection.Look``.
        share: of the undetected patches, above 0 and at most 1.

    Returns:
        int [m], rising, empty only if all is detected. Patches as much like the concept as the last one taken are in
        it too, or their order in the picture would decide.
    """
    # A grid has few cells: NumPy is through with them before PyTorch has begun.
    ranked = np.where(mask, np.inf, likeness)
    free = len(mask) - int(np.count_nonzero(mask))
    limit = np.sort(ranked)[max(1, round(share * free)) - 1]
    # A limit of infinity would let detected patches in.
    return ((ranked <= limit) & ~mask).nonzero()[0]


def random_donors(free: np.ndarray, count: int, generator: torch.Generator) -> np.ndarray:
    """Draw a donor for each of ``count`` detected patches.

    Args:
        free: int [m], places of the patches to draw from, at least one.
        count: how many to draw.
        generator: a CPU generator.

    Returns:
        int [count, 1], uniform, with repetition.
    """
    return free[torch.randint(len(free), (count, 1), generator=generator).numpy()]


def nearest_donors(targets: np.ndarray, free: np.ndarray, width: int, k: int) -> np.ndarray:
    """Return the k spatially nearest donors of every detected patch.

    Args:
        targets: int [n], places of the detected patches on a grid.
        free: int [m], places of possible donors, rising.
        width: of the grid.
        k: how many; fewer are returned if fewer are free.

    Returns:
        int [n, min(k, m)], nearest first; ties go to the lower place.
    """
    place = np.stack([targets // width, targets % width], 1), np.stack([free // width, free % width], 1)
    distance = ((place[0][:, None] - place[1][None]) ** 2).sum(-1)
    return free[distance.argsort(axis=1, kind="stable")[:, :k]]


def direction_between(one: Tensor, other: Tensor) -> Tensor:
    """Return the unit vector [C] from the mean of patches [n, C] to that of others [m, C]; zero if they are equal."""
    return torch.nn.functional.normalize(other.mean(0) - one.mean(0), dim=0)


def without(direction: Tensor, patches: Tensor) -> Tensor:
    """Take a unit vector's direction [C] out of patches [n, C]."""
    return patches - (patches @ direction)[:, None] * direction


def alike_donors(patches: Tensor, targets: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return the donor most like each detected patch, once what tells the two kinds apart is taken out of both.

    That is the direction from the donors' mean to the detected patches' mean.

    Args:
        patches: of one image, [N, C].
        targets: int [n], places of the detected patches.
        free: int [m], places of possible donors.

    Returns:
        int [n, 1].
    """
    found, others = (patches[torch.from_numpy(each).to(patches.device)].float() for each in (targets, free))
    direction = direction_between(others, found)
    found, others = (without(direction, each) for each in (found, others))
    return free[torch.cdist(found, others).argmin(1).cpu().numpy()][:, None]


class Edit(NamedTuple):
    """Which patches of one image are overwritten, and from where.

    Attributes:
        row: which image of the batch.
        targets: places in 0..H*W-1, int [n].
        source_row: which image of the batch the donors are in.
        donors: their places, int [n, m]; with m > 1 their mean is taken.
    """

    row: int
    targets: np.ndarray
    source_row: int
    donors: np.ndarray


def replace_patches(x: Tensor, edits: Sequence[Edit], source: Tensor) -> None:
    """Overwrite patches of feature maps in place.

    Args:
        x: feature maps [R, C, H, W] that are written to.
        edits: what to overwrite.
        source: feature maps [R, C, H, W] that are read; must not share memory with x.
    """
    # Those with equally many donors go together; all do, unless an image has fewer free patches than k.
    for count in dict.fromkeys(edit.donors.shape[1] for edit in edits):
        _replace_alike(x, [edit for edit in edits if edit.donors.shape[1] == count], source)


def _replace_alike(x: Tensor, edits: Sequence[Edit], source: Tensor) -> None:
    """See ``replace_patches``; all edits have as many donors a patch."""
    images = np.array([(edit.row, edit.source_row) for edit in edits]).repeat([len(edit.targets) for edit in edits], 0)
    cells = [np.concatenate([edit.targets[None], edit.donors.T]) for edit in edits]
    down, across = np.divmod(np.concatenate(cells, 1), x.shape[-1])
    # One transfer to the device for all of them.
    rows, source_rows, *places = torch.from_numpy(np.concatenate([images.T, down, across])).to(x.device)
    targets_and_donors = list(zip(places[: len(down)], places[len(down) :], strict=True))
    taken = [source[source_rows, :, i, j] for i, j in targets_and_donors[1:]]
    i, j = targets_and_donors[0]
    # The mean of a single donor could differ from it in the last bit.
    x[rows, :, i, j] = taken[0] if len(taken) == 1 else torch.stack(taken).float().mean(0).to(x.dtype)
