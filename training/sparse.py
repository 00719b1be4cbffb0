"""Which features fire in a batch, and the products that need those only.

With k of L features firing, all matrix products of training but the encoder's own can be had for k / L of their cost.
"""

import warnings
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from .team import Team


@dataclass(frozen=True, eq=False)
class Firing:
    """The features that fire in each of B embeddings: a sparse matrix [B, L] without its values.

    Attributes:
        features: [n] int64, those of the first embedding first.
        starts: [B + 1] int64: embedding b has the entries from starts[b] to starts[b + 1].
        count: L.
    """

    features: Tensor
    starts: Tensor
    count: int

    @cached_property
    def rows(self) -> Tensor:
        """[n] int64: the embedding that each entry belongs to."""
        sizes = self.starts.diff()
        return torch.repeat_interleave(
            torch.arange(len(sizes), device=sizes.device), sizes, output_size=len(self.features)
        )

    @cached_property
    def _by_feature(self) -> tuple[Tensor, Tensor]:
        """The order that puts entries of one feature side by side, and where each feature's begin."""
        counts = torch.bincount(self.features, minlength=self.count)
        return self.features.argsort(), counts.cumsum(0) - counts

    def dots(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a[row] @ b[feature] of each entry. [B, D], [L, D] -> [n]."""
        if a.device.type in ("cpu", "cuda"):
            _expect_sparse_warning()
            zeros = torch.zeros(len(self.features), dtype=a.dtype, device=a.device)
            size = (len(a), self.count)
            pattern = torch.sparse_csr_tensor(self.starts, self.features, zeros, size, check_invariants=False)
            return torch.sparse.sampled_addmm(pattern, a, b.T, beta=0).values()
        return (a[self.rows] * b[self.features]).sum(1)

    def times(self, values: Tensor, b: Tensor) -> Tensor:
        """Return the matrix with these values [n], times b [L, D]. -> [B, D]."""
        return F.embedding_bag(self.features, b, self.starts[:-1], per_sample_weights=values, mode="sum")

    def transposed_times(self, values: Tensor, a: Tensor) -> Tensor:
        """Return the transposed matrix with these values [n], times a [B, D]. -> [L, D]."""
        order, starts = self._by_feature
        return F.embedding_bag(self.rows[order], a, starts, per_sample_weights=values[order], mode="sum")

    def column_sums(self, values: Tensor) -> Tensor:
        """Return the sums of values [n] for each feature. -> [L]."""
        return torch.zeros(self.count, dtype=values.dtype, device=values.device).index_add_(0, self.features, values)


@cache
def _expect_sparse_warning() -> None:
    """Let torch say once, unheard, that sparse tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))


def largest(x: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest entries of each row, in no order. [B, L] -> [B, k].

    They lie in the k columns whose maximum is largest, if each row is folded into columns; so most entries need only
    be compared with their neighbours in the fold.
    """
    rows, length = x.shape
    fold = next((f for f in range(min(32, int((length / k) ** 0.5)), 1, -1) if length % f == 0), 1)
    if fold == 1:
        return x.topk(k, dim=1, sorted=False).indices
    columns = length // fold
    best = x.view(rows, fold, columns).amax(1).topk(k, dim=1, sorted=False).indices
    steps = torch.arange(fold, device=x.device)[:, None] * columns
    candidates = (best[:, None] + steps).flatten(1)
    return candidates.gather(1, x.gather(1, candidates).topk(k, dim=1, sorted=False).indices)


def topk_firing(pre: Tensor, k: int) -> Firing:
    """Let the k largest pre-activations of each embedding fire. [B, L]."""
    starts = torch.arange(0, len(pre) * k + 1, k, device=pre.device)
    return Firing(largest(pre, k).flatten(), starts, pre.shape[1])


def batch_topk_firing(pre: Tensor, k: int, floor: float, team: Team) -> tuple[Firing, float]:
    """Let the largest positive pre-activations of all processes' batches together fire, k an embedding on average.

    Args:
        pre: [B, L] of this process; all have the same B.
        k: see there.
        floor: a guess below the threshold, which saves work if it holds.

    Returns:
        what fires here, and the least pre-activation that fired anywhere.
    """
    wanted = k * len(pre) * team.size
    flat = pre.flatten()
    places = (flat > max(floor, 0.0)).nonzero()[:, 0]
    candidates = flat[places]
    if floor > 0:
        found = team.sum(torch.tensor(len(candidates), device=pre.device))
        if found < wanted:
            return batch_topk_firing(pre, k, 0.0, team)
    if team.size == 1 and len(candidates) > wanted:
        threshold = float(candidates.topk(wanted, sorted=False).values.min())
    else:
        threshold = _nth_largest(candidates, wanted, team)
    places = places[candidates >= threshold]
    starts = torch.zeros(len(pre) + 1, dtype=torch.int64, device=pre.device)
    starts[1:] = torch.bincount(places // pre.shape[1], minlength=len(pre)).cumsum(0)
    return Firing(places % pre.shape[1], starts, pre.shape[1]), threshold


def _nth_largest(values: Tensor, n: int, team: Team) -> float:
    """Return the n-th largest of all processes' values [any] by narrowing it down; 0 if there are fewer."""
    ordered = values.sort().values
    top = torch.zeros(team.size, device=values.device)
    top[team.rank] = ordered[-1] if len(ordered) else 0.0
    low, high = 0.0, float(team.sum(top).max())
    for _ in range(5):
        trial = torch.linspace(low, high, 65, device=values.device, dtype=torch.float64)[1:-1]
        at_least = len(ordered) - torch.searchsorted(ordered.double(), trial)
        enough = trial[team.sum(at_least) >= n]
        low, high = (float(enough.max()), high) if len(enough) else (low, high)
        beyond = trial[trial > low]
        high = float(beyond.min()) if len(beyond) else high
    return low
