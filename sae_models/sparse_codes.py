"""Sparse codes: of each patch embedding only the features that fire, and what can be had from those alone.

A code of N patches is values [N, k] float16, zero or more, and the indices [N, k] int32 of their features.
"""

import torch
from torch import Tensor

from .sae import SparseAutoencoder

KEEP = 64  # firing features that are kept of a patch where the activation sets no limit


@torch.no_grad()
def encode_sparsely(sae: SparseAutoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the firing features of patch embeddings, strongest first, on the CPU.

    Returns:
        values [..., k] float16 and indices [..., k] int32; the `KEEP` strongest at most.
    """
    values, indices = sae.encode(x)
    return values[..., :KEEP].to("cpu", torch.float16), indices[..., :KEEP].to("cpu", torch.int32)


def dense(values: Tensor, indices: Tensor, features: Tensor, num_features: int) -> Tensor:
    """Return the activations of some features.

    Args:
        values, indices: a code of N patches.
        features: which ones, [n].
        num_features: of the SAE.

    Returns:
        [N, n], zero where a feature does not fire.
    """
    column = torch.full((num_features,), len(features))
    column[features] = torch.arange(len(features))
    out = torch.zeros(len(values), len(features) + 1)
    out.scatter_add_(1, column[indices.long()], values.float())
    return out[:, :-1]


def mean_activations(values: Tensor, indices: Tensor, num_features: int) -> Tensor:
    """Return the mean activation of every feature over the patches of a code, [L]; zeros for no patches."""
    total = torch.zeros(num_features)
    total.index_add_(0, indices.flatten().long(), values.flatten().float())
    return total / max(len(values), 1)
