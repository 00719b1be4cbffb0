"""From feature statistics to a concept dictionary: score, select, set thresholds.

Scores and the per-feature threshold tau follow SAeUron (Cywinski & Deja 2025, arXiv 2501.18052). Everything is
done separately for each timestep band.
"""

import torch
from scipy.stats import rankdata
from torch import Tensor

from .concepts import Concept, ConceptBand

EPSILON = 1e-8


def concept_score(features: Tensor, thresholds: Tensor, combine: str) -> Tensor:
    """Score patches against thresholds; a concept is found where the score exceeds one.

    Args:
        features: activations of the concept's features, [..., n], non-negative.
        thresholds: [n], or [..., n] that fits; zero means that any activation at all suffices, infinity that none does.
        combine: see Concept.

    Returns:
        [...], from 0.
    """
    if not thresholds.shape[-1]:
        return features.new_zeros(features.shape[:-1])
    relative = torch.where(features > 0, features / thresholds, 0.0)
    return relative.sum(-1) if combine == "sum" else relative.amax(-1)


def band_score(features: Tensor, band: ConceptBand, combine: str) -> Tensor:
    """Score patches for a concept within a timestep band; the concept is found where the score exceeds one.

    Args:
        features: activations of the band's features, then of those against it, [..., n + m].
        band, combine: see Concept.

    Returns:
        [...]; NaN where evidence without a threshold meets evidence against it without one.
    """
    own = len(band.features)
    limits, bounds = (
        torch.tensor(values, device=features.device, dtype=torch.float32)
        for values in (band.thresholds, band.against_thresholds)
    )
    score = concept_score(features[..., :own], limits, combine)
    return score if not len(bounds) else score - concept_score(features[..., own:], bounds, "sum")


def score_features(means: Tensor, concept: int) -> Tensor:
    """Score every feature for one concept.

    score_i = m(c)_i / sum_j m(c)_j - m(not c)_i / sum_j m(not c)_j

    Args:
        means: m, the mean activation of each feature on each concept's prompts, [concepts, bands, L].
        concept: row of ``means`` to score.

    Returns:
        [bands, L]; positive where a feature fires for this concept more than for the others.
    """
    others = torch.cat([means[:concept], means[concept + 1 :]]).mean(0)
    target = means[concept]
    return target / (target.sum(-1, keepdim=True) + EPSILON) - others / (others.sum(-1, keepdim=True) + EPSILON)


def firing_scales(activations: Tensor) -> Tensor:
    """Return how strongly each feature fires where it fires: mean of its positive activations.

    Args:
        activations: [patches, n].

    Returns:
        [n], at least EPSILON.
    """
    fired = (activations > 0).sum(0).clamp(min=1)
    return (activations.sum(0) / fired).clamp(min=EPSILON)


# A threshold near zero lets any firing detect where the background is silent. As a share of the sum where the concept
# is; see docs/decisions/0021-the-least-threshold.md.
LEAST_LEVEL = 0.12


def calibrated_band(
    features: Tensor,
    scores: Tensor,
    means: Tensor,
    weights: Tensor,
    background: Tensor,
    quantile: float,
) -> ConceptBand:
    """Set thresholds so that a given share of patches without the concept stays below them.

    Args:
        features: indices of the selected features, [n].
        scores: their scores, [n].
        means: their mean activations on the concept's prompts, [n].
        weights: of the features in the sum that decides, [n], zero or more; those with zero are left out. Scaled
            so that the sum is about 1 where the concept is.
        background: that sum in patches that do not hold the concept, [patches].
        quantile: share (0..1) of the background that must not be detected.
    """
    level = max(float(torch.quantile(background.float(), quantile)), LEAST_LEVEL)
    kept = weights > 0
    return ConceptBand(
        tuple(features[kept].tolist()),
        tuple((level / weights[kept]).tolist()),
        tuple(scores[kept].tolist()),
        tuple(means[kept].tolist()),
    )


@torch.inference_mode(False)
def fitted_weights(activations: Tensor, inside: Tensor, steps: int = 150, penalty: float = 1e-3) -> Tensor:
    """Weigh features so that their weighted sum tells patches with the concept from those without.

    Logistic regression with weights of zero or more, both kinds of patch counting alike. A feature that other
    concepts share gets little weight, two that say the same share theirs.

    Args:
        activations: features of labelled patches, [patches, n], non-negative.
        inside: which of the patches hold the concept, bool [patches]; some do and some do not.
        steps: of Adam.
        penalty: on the sum of the weights of the scaled features, so that useless ones fall to zero.

    Returns:
        [n], zero or more, at least one of them positive; the weighted sum is 1 on average where the concept is.
    """
    scales = firing_scales(activations)
    x, y = activations / scales, inside.float()
    share = torch.where(inside, 0.5 / y.mean(), 0.5 / (1 - y.mean())) / len(y)
    weights, offset = x.new_ones(x.shape[1]), x.new_zeros(1)
    optimizer = torch.optim.Adam([weights, offset], lr=0.1)
    for _ in range(steps):
        # The gradient of the cross-entropy, written down: autograd takes several times as long for so few features.
        errors = (torch.sigmoid(x @ weights + offset) - y) * share
        weights.grad, offset.grad = errors @ x + penalty, errors.sum(0, keepdim=True)
        optimizer.step()
        weights.clamp_(min=0)
    fitted = weights if bool((weights > 0).any()) else torch.ones_like(scales)
    return fitted / scales / (x[inside] @ fitted).mean().clamp(min=EPSILON)


def roc_auc(positive: Tensor, negative: Tensor) -> float:
    """Return the area under the ROC curve: the chance that a positive outranks a negative, ties count half.

    Args:
        positive, negative: scores, one-dimensional, at least one each.
    """
    n, m = len(positive), len(negative)
    # The Mann-Whitney statistic; scipy's own test also works out a p-value, which takes longer than the ranks.
    ranks = rankdata(torch.cat([positive, negative]).double().cpu().numpy())
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def strongest_features(concept: Concept, count: int) -> list[tuple[int, float]]:
    """Return the features that give most evidence on the concept's prompts, and their mean score over the bands."""
    evidence: dict[int, float] = {}
    score: dict[int, float] = {}
    for band in concept.bands:
        for i, feature in enumerate(band.features):
            evidence[feature] = evidence.get(feature, 0.0) + band.means[i] / max(band.thresholds[i], EPSILON)
            score[feature] = score.get(feature, 0.0) + band.scores[i] / len(concept.bands)
    return [(i, score[i]) for i in sorted(evidence, key=lambda i: -evidence[i])[:count]]
