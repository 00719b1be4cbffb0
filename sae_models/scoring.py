"""From latent statistics to a concept dictionary: score, select, set thresholds.

Scores and the per-latent threshold tau follow SAeUron (Cywinski & Deja 2025, arXiv 2501.18052). Everything is
done separately for each timestep band.
"""

import torch
from torch import Tensor

from .concepts import ConceptBand

EPSILON = 1e-8


def score_latents(means: Tensor, concept: int) -> Tensor:
    """Score every latent for one concept.

    score_i = m(c)_i / sum_j m(c)_j - m(not c)_i / sum_j m(not c)_j

    Args:
        means: m, the mean activation of each latent on each concept's prompts, [concepts, bands, L].
        concept: row of ``means`` to score.

    Returns:
        [bands, L]; positive where a latent fires for this concept more than for the others.
    """
    others = torch.cat([means[:concept], means[concept + 1 :]]).mean(0)
    target = means[concept]
    return target / (target.sum(-1, keepdim=True) + EPSILON) - others / (others.sum(-1, keepdim=True) + EPSILON)


def firing_scales(activations: Tensor) -> Tensor:
    """Return how strongly each latent fires where it fires: mean of its positive activations.

    Args:
        activations: [patches, n].

    Returns:
        [n], at least EPSILON.
    """
    fired = (activations > 0).sum(0).clamp(min=1)
    return (activations.sum(0) / fired).clamp(min=EPSILON)


def patch_scores(activations: Tensor, scales: Tensor, combine: str) -> Tensor:
    """Return the score of each patch before any threshold: how loudly the concept's latents fire in it.

    Args:
        activations: latents of the concept, [..., n].
        scales: [n] as ``firing_scales`` gives them.
        combine: see Concept.

    Returns:
        [...]
    """
    relative = activations / scales
    return relative.sum(-1) if combine == "sum" else relative.amax(-1)


def calibrated_band(
    latents: Tensor, scores: Tensor, means: Tensor, scales: Tensor, background: Tensor, quantile: float
) -> ConceptBand:
    """Set thresholds so that a given share of patches without the concept stays below them.

    Args:
        latents: indices of the selected latents, [n].
        scores: their scores, [n].
        means: their mean activations on the concept's prompts, [n].
        scales: see ``firing_scales``, [n].
        background: ``patch_scores`` of patches that do not hold the concept, [patches].
        quantile: share (0..1) of the background that must not be detected.
    """
    # A threshold of zero would let any firing detect, also where the background is simply silent.
    level = max(float(torch.quantile(background.float(), quantile)), 0.05)
    return ConceptBand(
        tuple(int(i) for i in latents),
        tuple(float(s) * level for s in scales),
        tuple(float(s) for s in scores),
        tuple(float(m) for m in means),
    )


def roc_auc(positive: Tensor, negative: Tensor) -> float:
    """Return the area under the ROC curve: the chance that a positive outranks a negative, ties count half.

    Args:
        positive, negative: scores, one-dimensional, at least one each.
    """
    scores = torch.cat([positive, negative]).double()
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    last_rank = counts.cumsum(0).double()
    ranks = (last_rank - (counts.double() - 1) / 2)[inverse]
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
