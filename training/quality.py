"""How good a trained SAE is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sae_models.sae import SparseAutoencoder

CELLS = 16_000_000  # features that are held in memory at a time


@dataclass(frozen=True)
class Quality:
    """How well an SAE describes embeddings that it was not trained on.

    Attributes:
        explained_variance: 1 - residual variance / variance, 1 is perfect.
        dead_share: share of features (0..1) that never fire on them.
        embeddings: how many embeddings that was measured on.
        firing: mean number of features that fire in one.
    """

    explained_variance: float
    dead_share: float
    embeddings: int
    firing: float = 0.0


@torch.no_grad()
def measure(sae: SparseAutoencoder, embeddings: Tensor) -> Quality:
    """Measure an SAE on embeddings [N, D] it was not trained on."""
    assert sae.decoder_weight is not None
    center = embeddings.float().mean(0)
    residual = variance = 0.0
    fired = torch.zeros(sae.config.num_latents, dtype=torch.int64)
    for part in embeddings.split(max(1, CELLS // sae.config.num_latents)):
        x = part.float()
        features = sae.encode_dense(x)
        fired += (features > 0).sum(0)
        residual += float((features @ sae.decoder_weight + sae.decoder_bias - x).square().sum())
        variance += float((x - center).square().sum())
    rows = len(embeddings)
    return Quality(
        1 - residual / max(variance, 1e-12), float((fired == 0).float().mean()), rows, float(fired.sum()) / rows
    )


def progress_printer(total: int) -> Callable[[int, float], None]:
    """Return a ``report`` that prints step, unexplained variance and seconds."""
    start = time.monotonic()

    def report(step: int, unexplained: float) -> None:
        print(
            f"  step {step}/{total}  unexplained {unexplained:.4f}  {time.monotonic() - start:.0f} s",
            flush=True,
        )

    return report
