"""What patch embeddings look like in numbers, and how far two sampling runs are apart in them.

"Look But Don't Touch with Sparse Autoencoders for Unlearning in Diffusion Models" (arXiv 2606.31699) shows by
histograms of activations and of log2 norms at the hooked block that steering leaves the model's distribution. Here
both are noted for every step, so that an edited run can be held against an unedited one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BINS = 96
REACH = 6.0  # of asinh(value): values up to about 200 either way; what lies beyond counts in the last bins
VALUES_A_PATCH = 16  # enough channels for the histogram; many more would cost as much as detection
SMALLEST = 1e-6


@dataclass(frozen=True, eq=False)
class Statistics:
    """The patch embeddings of one block in one call, in numbers that are worked out when somebody asks for them.

    Attributes:
        squares: square of each patch embedding's L2 norm, float [B, N].
        values: every few channels of each, [B, n, N], n about VALUES_A_PATCH.
        source: which patch each was overwritten by since these were noted, int [B, N]; None for none.
    """

    squares: Tensor
    values: Tensor
    source: Tensor | None = None

    @cached_property
    def norms(self) -> Tensor:
        """log2 of each patch embedding's L2 norm, float [B, N]."""
        return self._moved(self.squares).sqrt().clamp(min=SMALLEST).log2()

    @cached_property
    def counts(self) -> Tensor:
        """Histogram of asinh(value), int [B, BINS] over -REACH..REACH."""
        values = self._moved(self.values).flatten(1).float().asinh()
        bins = ((values + REACH) * (BINS / (2 * REACH))).long().clamp(0, BINS - 1)
        return torch.stack([image.bincount(minlength=BINS) for image in bins])

    def of(self, images: Sequence[int]) -> "Statistics":
        """Return the same of some of the images."""
        parts = (None if each is None else each[list(images)] for each in (self.squares, self.values, self.source))
        squares, values, source = parts
        assert squares is not None and values is not None
        return Statistics(squares, values, source)

    @classmethod
    def joined(cls, parts: Sequence["Statistics"], choice: Sequence[int]) -> "Statistics":
        """Take each image from one of several, all of the same images."""

        def chosen(tensors: Sequence[Tensor]) -> Tensor:
            return torch.stack([tensors[number][image] for image, number in enumerate(choice)])

        own = torch.arange(parts[0].squares.shape[1], dtype=torch.int32).expand(parts[0].squares.shape)
        sources = [own if part.source is None else part.source for part in parts]
        source = None if all(part.source is None for part in parts) else chosen(sources)
        return cls(chosen([part.squares for part in parts]), chosen([part.values for part in parts]), source)

    def _moved(self, noted: Tensor) -> Tensor:
        """Return what was noted, [B, ..., N], as it is after the replacement."""
        if self.source is None:
            return noted
        source = self.source.long()
        return noted.gather(-1, source if noted.ndim == 2 else source[:, None].expand_as(noted))


@torch.no_grad()
def statistics_of(x: Tensor) -> Statistics:
    """Note what describes a feature map [B, C, H, W], on its device; at every step, so nothing is worked out yet."""
    # Spelled out, it takes a sixth of the time of torch's own norm on a CPU.
    squares = x.float().square().sum(1).flatten(1)
    values = x[:, :: max(1, x.shape[1] // VALUES_A_PATCH)].flatten(2).clone()
    return Statistics(squares, values)


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
