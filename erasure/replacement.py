"""Replacement: overwrite detected patch embeddings by embeddings of undetected patches of the same feature map.

After "Look But Don't Touch with Sparse Autoencoders for Unlearning in Diffusion Models" (arXiv 2606.31699). The
paper draws donors at random; the other choices are ours. What is not detected keeps its exact bits.
"""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MODES = ("random", "nearest", "mean of k nearest", "unconditional", "none")
HALVES = ("conditional", "both")
SAE_BLOCK, MIDDLE_TOO, LISTED = WHERE = ("SAE block", "middle and SAE block", "listed blocks")


@dataclass(frozen=True)
class Replacement:
    """How detected patches are replaced.

    Attributes:
        mode: ``random``: a donor drawn uniformly from the undetected patches of the same image; ``nearest``:
            the spatially nearest undetected patch; ``mean of k nearest``: the mean of the k nearest;
            ``unconditional``: the same place in the unconditional half; ``none``: detect and record only.
        halves: which halves of classifier-free guidance are edited: ``conditional`` or ``both``.
        k: for ``mean of k nearest``.
        seed: of the random donors.
        donor_share: share (above 0, at most 1) of the undetected patches that may be donors: those least like
            the concept. Ours; 1 is the paper's. The defaults are measured: docs/decisions/0008.
        where: which blocks are edited: ``SAE block``, the one that the SAE reads, as in the paper; ``middle and SAE
            block``, the one in the UNet's middle too, which is ours; or ``listed blocks``.
        at: the UNet modules for ``listed blocks``.
    """

    mode: str = "random"
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


def donor_pool(mask: Tensor, likeness: Tensor, share: float) -> Tensor:
    """Return the patches that may be donors: the undetected ones that are least like the concept.

    Args:
        mask: bool [N], not full.
        likeness: float [N], see ``detection.Look``.
        share: of the undetected patches, above 0 and at most 1.

    Returns:
        int64 [m], rising. Patches as much like the concept as the last one taken are in it too, or their order
        in the picture would decide.
    """
    # A grid has few cells: NumPy is through with them before PyTorch has begun.
    free = np.flatnonzero(~mask.numpy())
    values = likeness.numpy()[free]
    count = max(1, round(share * len(free)))
    return torch.from_numpy(free[values <= np.partition(values, count - 1)[count - 1]])


def random_donors(free: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw a donor for each of ``count`` detected patches.

    Args:
        free: int64 [m], places of the patches to draw from, at least one.
        count: how many to draw.
        generator: a CPU generator.

    Returns:
        int64 [count, 1], uniform, with repetition.
    """
    return free[torch.randint(len(free), (count, 1), generator=generator)]


def nearest_donors(targets: Tensor, free: Tensor, width: int, k: int) -> Tensor:
    """Return the k spatially nearest donors of every detected patch.

    Args:
        targets: int64 [n], places of the detected patches on a grid.
        free: int64 [m], places of possible donors, rising.
        width: of the grid.
        k: how many; fewer are returned if fewer are free.

    Returns:
        int64 [n, min(k, m)], nearest first; ties go to the lower place.
    """
    place = torch.stack([targets // width, targets % width], 1), torch.stack([free // width, free % width], 1)
    distance = (place[0][:, None] - place[1][None]).pow(2).sum(-1)
    return free[distance.argsort(dim=1, stable=True)[:, :k]]


def replace_patches(x: Tensor, row: int, targets: Tensor, donors: Tensor, source: Tensor, source_row: int) -> None:
    """Overwrite patches of one image of a feature map in place.

    Args:
        x: feature map [R, C, H, W] that is written to.
        row: which of the R.
        targets: int64 [n], places in 0..H*W-1.
        donors: int64 [n, m], places in the source; with m > 1 their mean is taken.
        source: feature map [R, C, H, W] that is read; must not share memory with x.
        source_row: which of the R.
    """
    width = x.shape[-1]
    taken = source[source_row][:, donors // width, donors % width]
    # The mean of a single donor could differ from it in the last bit.
    taken = taken[..., 0] if donors.shape[1] == 1 else taken.float().mean(-1).to(x.dtype)
    x[row][:, targets // width, targets % width] = taken
