"""What patch embeddings look like in numbers, and how far two sampling runs are apart in them.

"Look But Don't Touch with Sparse Autoencoders for Unlearning in Diffusion Models" (arXiv 2606.31699) shows by
histograms of activations and of log2 norms at the hooked block that steering leaves the model's distribution. Here
both are noted for every step, so that an edited run can be held against an unedited one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 96
REACH = 6.0  # of asinh(value): values up to about 200 either way; what lies beyond counts in the last bins
VALUES_A_PATCH = 16  # enough channels for the histogram; many more would cost as much as detection
SMALLEST = 1e-6


@dataclass(frozen=True, eq=False)
class Statistics:
    """The patch embeddings of one block in one call, in numbers.

    Attributes:
        norms: log2 of each patch embedding's L2 norm, float [B, N] on the CPU.
        counts: histogram of asinh(value), int [B, BINS] over -REACH..REACH, of every few channels.
    """

    norms: Tensor
    counts: Tensor


@torch.no_grad()
def statistics_of(x: Tensor) -> Statistics:
    """Describe a feature map [B, C, H, W]."""
    flat = x.flatten(2)
    # Spelled out, it takes a sixth of the time of torch's own norm on a processor.
    norms = flat.float().square().sum(1).sqrt().clamp(min=SMALLEST).log2().cpu()
    sample = flat[:, :: max(1, x.shape[1] // VALUES_A_PATCH)].flatten(1).float().asinh()
    bins = ((sample + REACH) * (BINS / (2 * REACH))).long().clamp(0, BINS - 1)
    # One count for all images: the image's number moves its bins past those of the images before it.
    moved = bins + BINS * torch.arange(len(bins), device=bins.device)[:, None]
    counts = torch.bincount(moved.flatten(), minlength=BINS * len(bins)).reshape(len(bins), BINS)
    return Statistics(norms, counts.cpu())


@dataclass(frozen=True)
class Distance:
    """How far an edited run is from an unedited one at a block, over all steps.

    Attributes:
        norm_shift: Wasserstein-1 distance of the log2 norms, in octaves, mean over steps.
        outside: share (0..1) of patch embeddings whose norm lies outside the unedited run's range at the step.
    """

    norm_shift: float
    outside: float


def distance(pairs: Iterable[tuple[Tensor, Tensor]]) -> Distance:
    """Compare norms step by step.

    Args:
        pairs: for each step the log2 norms of the edited and of the unedited run, one-dimensional, as many in both;
            at least one pair.
    """
    shifts, outside = [], []
    for edited, unedited in pairs:
        shifts.append((edited.sort().values - unedited.sort().values).abs().mean())
        outside.append(((edited < unedited.min()) | (edited > unedited.max())).float().mean())
    return Distance(float(torch.stack(shifts).mean()), float(torch.stack(outside).mean()))


def pooled_counts(parts: Iterable[Tensor]) -> Tensor:
    """Add histograms up and return shares, float [BINS] that sum to 1."""
    total = torch.stack(list(parts)).sum(0).float()
    return total / total.sum().clamp(min=1)
