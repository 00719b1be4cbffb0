"""Replacement: overwrite detected patch embeddings by embeddings of undetected patches of the same feature map.

After "Look But Don't Touch with Sparse Autoencoders for Unlearning in Diffusion Models" (arXiv 2606.31699). The
paper draws donors at random; the other choices are ours. What is not detected keeps its exact bits.
"""

import hashlib
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

MODES = ("random", "nearest", "mean of k nearest", "unconditional", "none")
HALVES = ("conditional", "both")


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
    """

    mode: str = "random"
    halves: str = "conditional"
    k: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"replacement {self.mode!r}; known are {', '.join(MODES)}")
        if self.halves not in HALVES:
            raise ValueError(f"halves {self.halves!r}; known are {', '.join(HALVES)}")
        if self.k < 1:
            raise ValueError("k must be at least 1")


def donor_seed(seed: int, image_key: int, hookpoint: str, sigma: float) -> int:
    """Mix what makes a draw of donors unique into one seed in 0..2**63-1.

    The place in the batch is not part of it, so an image gets the same donors alone and in a batch.
    """
    data = struct.pack("<QQd", seed % 2**64, image_key % 2**64, sigma) + hookpoint.encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def random_donors(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a donor for every detected patch.

    Args:
        mask: bool [N], neither empty nor full.
        generator: a CPU generator.

    Returns:
        int64 [n detected, 1]: indices of undetected patches, uniform, with repetition.
    """
    free = (~mask).nonzero()[:, 0]
    picks = torch.randint(len(free), (int(mask.sum()), 1), generator=generator)
    return free[picks]


def nearest_donors(mask: Tensor, grid: tuple[int, int], k: int) -> Tensor:
    """Return the k spatially nearest undetected patches of every detected one.

    Args:
        mask: bool [N] with N = H * W, neither empty nor full.
        grid: (H, W).
        k: how many; fewer are returned if fewer are free.

    Returns:
        int64 [n detected, min(k, n free)], nearest first; ties go to the lower index.
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()], 1)
    free = (~mask).nonzero()[:, 0]
    distance = (place[mask.nonzero()[:, 0]][:, None] - place[free][None]).pow(2).sum(-1)
    order = distance.argsort(dim=1, stable=True)[:, :k]
    return free[order]


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
