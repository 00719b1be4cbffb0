"""The training loss of an SAE and its gradients.

They are written out instead of left to autograd, because they touch only the features that fire. For a batch x of B
embeddings of width D over all processes, c = decoder_bias, W = decoder_weight:

    loss = |x - z W - c|^2 / (B D)                                          reconstruction
         + aux_weight |r - z' W|^2 / (B D u)                                dead features z' explain what is left over
         + guide_weight BCE(pre-activations of the first C features, labels) / (B C)

r is the residual of the reconstruction, taken as given, and u the unexplained share of the last step. The first two
are Gao et al. 2024 (arXiv 2406.04093), the third is after G-SAE (Haerle et al. 2025, arXiv 2506.19382). It is taken
before the activation, so that features that did not fire learn from it too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .settings import TrainingSettings
from .sparse import Firing, batch_topk_firing, topk_firing
from .store import UNKNOWN
from .team import Team


@dataclass(eq=False)
class Parameters:
    """What is trained, or its gradients: encoder [L, D], encoder_bias [L], decoder bias [D], decoder [L, D]."""

    encoder: Tensor
    encoder_bias: Tensor
    bias: Tensor
    decoder: Tensor

    def tensors(self) -> list[Tensor]:
        return [self.encoder, self.encoder_bias, self.bias, self.decoder]


@dataclass(frozen=True, eq=False)
class Step:
    """What one process found out about its share of a batch.

    Attributes:
        gradients: its part of the gradients; they add up over processes.
        fired: [L] float, how many of its embeddings each feature fired in; likewise.
        energies: [D + 3]: sum of its embeddings, sum of squares, of squared residuals, and their number; likewise.
        threshold: least pre-activation that fired, of ``batchtopk``; else 0.
    """

    gradients: Parameters
    fired: Tensor
    energies: Tensor
    threshold: float


def step(
    p: Parameters,
    x: Tensor,
    labels: Tensor | None,
    k: int,
    dead: Tensor,
    unexplained: float,
    floor: float,
    settings: TrainingSettings,
    team: Team,
) -> Step:
    """Compute the gradients for one process's share of a batch.

    Args:
        p: parameters.
        x: [B / processes, D] float32.
        labels: [B / processes, C] uint8, or None.
        k: features that fire in an embedding.
        dead: [n] indices of dead features.
        unexplained: u above.
        floor: see ``batch_topk_firing``.
    """
    centered = x - p.bias
    pre = _pre_activations(p, centered, settings.bfloat16 and settings.rule == "topk")
    threshold = 0.0
    if settings.rule == "topk":
        firing = topk_firing(pre, k)
    else:
        firing, threshold = batch_topk_firing(pre, k, floor, team)
    scale = 2 / (x.numel() * team.size)
    values = (firing.dots(centered, p.encoder) + p.encoder_bias[firing.features]).relu_()
    residual = firing.times(values, p.decoder).add_(p.bias).sub_(x)
    gradients = _backward(p, firing, values, residual * scale, centered)
    gradients.bias += residual.sum(0) * scale
    if settings.aux_k and len(dead):
        aux, wanted = _dead_firing(pre, dead, min(settings.aux_k, len(dead)))
        aux_values = (aux.dots(centered, p.encoder) + p.encoder_bias[wanted]).relu_()
        error = aux.times(aux_values, p.decoder).add_(residual)
        weight = settings.aux_weight * scale / max(unexplained, 1e-6)
        _add(gradients, _backward(p, aux, aux_values, error * weight, centered))
    if settings.guide_weight and labels is not None:
        _guide(p, gradients, centered, labels, settings.guide_weight / (labels.numel() * team.size))
    # The encoder reads x minus the bias.
    gradients.bias -= gradients.encoder_bias @ p.encoder
    fired = firing.column_sums((values > 0).float())
    sums = torch.stack([x.square().sum(), residual.square().sum(), x.new_tensor(len(x))])
    return Step(gradients, fired, torch.cat([x.sum(0), sums]), threshold)


def _pre_activations(p: Parameters, centered: Tensor, bfloat16: bool) -> Tensor:
    if bfloat16:
        half = torch.bfloat16
        return torch.addmm(p.encoder_bias.to(half), centered.to(half), p.encoder.to(half).T)
    return torch.addmm(p.encoder_bias, centered, p.encoder.T)


def _dead_firing(pre: Tensor, dead: Tensor, k: int) -> tuple[Firing, Tensor]:
    found = topk_firing(pre[:, dead], k)
    features = dead[found.features]
    return Firing(features, found.starts, pre.shape[1]), features


def _backward(p: Parameters, firing: Firing, values: Tensor, error: Tensor, centered: Tensor) -> Parameters:
    """Return the gradients through features that fire, given that of their reconstruction; none for ``bias``."""
    inner = firing.dots(error, p.decoder).mul_(values > 0)
    return Parameters(
        firing.transposed_times(inner, centered),
        firing.column_sums(inner),
        torch.zeros_like(p.bias),
        firing.transposed_times(values, error),
    )


def _guide(p: Parameters, gradients: Parameters, centered: Tensor, labels: Tensor, weight: float) -> None:
    count = labels.shape[1]
    logits = F.linear(centered, p.encoder[:count], p.encoder_bias[:count])
    inner = (logits.sigmoid() - labels).mul_(labels != UNKNOWN).mul_(weight)
    gradients.encoder[:count] += inner.T @ centered
    gradients.encoder_bias[:count] += inner.sum(0)


def _add(gradients: Parameters, more: Parameters) -> None:
    for total, part in zip(gradients.tensors(), more.tensors(), strict=True):
        total += part
