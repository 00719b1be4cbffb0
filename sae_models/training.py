"""Train a TopK SAE on stored patch embeddings.

Method: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093): TopK, decoder rows of
unit norm, and an auxiliary loss that lets dead latents explain what the living ones leave over.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .sae import SAEConfig, SparseAutoencoder


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        steps, batch: optimiser steps, and patch embeddings a step.
        learning_rate: peak of Adam's rate; the last fifth of the steps decays to zero.
        aux_k: dead latents that join the auxiliary reconstruction; 0 turns it off.
        aux_weight: weight of the auxiliary loss.
        dead_after: a latent is dead once it has not fired for this many embeddings.
        seed: of the initialisation and the order of the data.
        bfloat16: do the matrix products in bfloat16, several times faster where the processor has it.
    """

    steps: int = 1200
    batch: int = 2048
    learning_rate: float = 1e-3
    aux_k: int = 64
    aux_weight: float = 1 / 32
    dead_after: int = 200_000
    seed: int = 0
    bfloat16: bool = False


@dataclass(frozen=True)
class Quality:
    """How well an SAE describes embeddings that it was not trained on.

    Attributes:
        explained_variance: 1 - residual variance / variance, 1 is perfect.
        dead_share: share of latents (0..1) that never fire on them.
        embeddings: how many embeddings that was measured on.
    """

    explained_variance: float
    dead_share: float
    embeddings: int


def train(
    embeddings: Tensor,
    config: SAEConfig,
    settings: TrainingSettings = TrainingSettings(),
    report: Callable[[int, float], None] | None = None,
) -> SparseAutoencoder:
    """Train an SAE.

    Args:
        embeddings: [N, D] patch embeddings of one hookpoint, any floating dtype.
        config: sizes; ``d_in`` must be D.
        settings: see TrainingSettings.
        report: called every 100 steps with the step and the share of variance left unexplained.

    Returns:
        The SAE with its decoder, float32, in the scale of ``embeddings``.

    Raises:
        ValueError: the width does not fit, or the embeddings hold NaN or infinity.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != config.d_in:
        raise ValueError(f"embeddings are {tuple(embeddings.shape)}, the SAE reads width {config.d_in}")
    if not torch.isfinite(embeddings).all():
        raise ValueError("embeddings hold NaN or infinity")
    generator = torch.Generator().manual_seed(settings.seed)
    center = embeddings.float().mean(0)
    # Training happens at unit mean square, so that one learning rate suits every block of every model.
    scale = float((embeddings.float() - center).pow(2).mean().sqrt())
    sae = _initial(config, center / scale, generator)
    parameters = [sae.encoder.weight, sae.encoder.bias, sae.decoder_bias, sae.decoder_weight]
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    silent_for = torch.zeros(config.num_latents)
    for step in range(settings.steps):
        rate = min(1.0, 5 * (1 - step / settings.steps), (step + 1) / 100)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * rate
        rows = torch.randint(len(embeddings), (settings.batch,), generator=generator)
        x = embeddings[rows].float() / scale
        dead = silent_for > settings.dead_after
        with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.bfloat16):
            loss, unexplained, fired = _losses(sae, x, dead, settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        _normalise_decoder(sae)
        silent_for += settings.batch
        silent_for[fired] = 0
        if report is not None and step % 100 == 0:
            report(step, unexplained)
    return _rescale(sae, scale).requires_grad_(False)


def _initial(config: SAEConfig, center: Tensor, generator: torch.Generator) -> SparseAutoencoder:
    sae = SparseAutoencoder(config, with_decoder=True)
    assert sae.decoder_weight is not None
    with torch.no_grad():
        weight = torch.randn(config.num_latents, config.d_in, generator=generator)
        sae.decoder_weight.copy_(F.normalize(weight, dim=1))
        # Starting the encoder as the decoder's transpose leaves far fewer latents dead.
        sae.encoder.weight.copy_(sae.decoder_weight)
        sae.encoder.bias.zero_()
        sae.decoder_bias.copy_(center)
    return sae


def _losses(
    sae: SparseAutoencoder, x: Tensor, dead: Tensor, settings: TrainingSettings
) -> tuple[Tensor, float, Tensor]:
    """Return the loss, the unexplained share of variance, and the indices of the latents that fired."""
    assert sae.decoder_weight is not None
    pre = sae.pre_activations(x)
    values, indices = pre.topk(sae.config.k, dim=-1)
    values = values.relu()
    latents = torch.zeros_like(pre).scatter(-1, indices, values)
    residual = x - (latents @ sae.decoder_weight).float() - sae.decoder_bias
    variance = (x - x.mean(0)).pow(2).sum()
    unexplained = residual.pow(2).sum() / variance
    loss = unexplained
    n_dead = int(dead.sum())
    if settings.aux_k and n_dead:
        dead_pre = pre.masked_fill(~dead, -torch.inf)
        aux_values, aux_indices = dead_pre.topk(min(settings.aux_k, n_dead), dim=-1)
        aux = torch.zeros_like(pre).scatter(-1, aux_indices, aux_values.relu()) @ sae.decoder_weight
        target = residual.detach()
        loss = loss + settings.aux_weight * (aux - target).pow(2).sum() / target.pow(2).sum()
    return loss, float(unexplained.detach()), indices[values > 0].unique()


def _normalise_decoder(sae: SparseAutoencoder) -> None:
    assert sae.decoder_weight is not None
    with torch.no_grad():
        sae.decoder_weight.copy_(F.normalize(sae.decoder_weight, dim=1))


def _rescale(sae: SparseAutoencoder, scale: float) -> SparseAutoencoder:
    """Carry an SAE trained on x / scale over to x; its decoder rows keep unit norm."""
    with torch.no_grad():
        sae.encoder.bias.mul_(scale)
        sae.decoder_bias.mul_(scale)
    return sae


@torch.no_grad()
def measure(sae: SparseAutoencoder, embeddings: Tensor, batch: int = 8192) -> Quality:
    """Measure an SAE on embeddings [N, D] it was not trained on."""
    center = embeddings.float().mean(0)
    residual = variance = 0.0
    fired = torch.zeros(sae.config.num_latents, dtype=torch.bool)
    for x in embeddings.split(batch):
        x = x.float()
        values, indices = sae.encode(x)
        fired[indices[values > 0]] = True
        residual += float((x - sae.decode(values, indices)).pow(2).sum())
        variance += float((x - center).pow(2).sum())
    return Quality(1 - residual / variance, float((~fired).float().mean()), len(embeddings))


def progress_printer(total: int) -> Callable[[int, float], None]:
    """Return a ``report`` that prints step, unexplained variance and seconds."""
    start = time.monotonic()

    def report(step: int, unexplained: float) -> None:
        print(
            f"  step {step}/{total}  unexplained {unexplained:.4f}  {time.monotonic() - start:.0f} s",
            flush=True,
        )

    return report
