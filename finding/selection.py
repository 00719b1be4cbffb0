"""Find the features of a concept: in patches of images that hold it, against patches that do not.

Nobody says where in an image the concept is. A patch of an image with the concept counts as *inside*, although most
such patches show background: the background is the same in both kinds of image, so features of it gain nothing, and
what distinguishes the kinds is the concept. Held-out patches decide how many features are used.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..sae_models.concepts import ConceptBand
from ..sae_models.scoring import EPSILON, calibrated_band, fitted_weights, roc_auc, score_features
from ..sae_models.sparse_codes import dense, mean_activations

CANDIDATES = 64
COUNTS = (1, 2, 4, 8, 16, 32, 64)
TOLERANCE = 0.005  # of AUC, that fewer features may cost
MAX_ROWS = 60_000
QUANTILE = 0.98
LEAST_AUC = 0.75
NOTHING = ConceptBand((), ())


@dataclass(frozen=True, eq=False)
class Patches:
    """The firing features of patches.

    Attributes:
        values: [N, k] float16, zero or more.
        indices: of the features, [N, k] int32.
        inside: whether the patch is of an image, or a region, with the concept, bool [N].
        image: which image it is of, [N].
        held: whether it is kept back from fitting, bool [N].
        whole: whether inside was said of whole images.
    """

    values: Tensor
    indices: Tensor
    inside: Tensor
    image: Tensor
    held: Tensor
    whole: bool = True

    def rows(self, which: Tensor) -> "Patches":
        """Return some of the patches, given their numbers or a mask."""
        values, indices = self.values[which], self.indices[which]
        return Patches(values, indices, self.inside[which], self.image[which], self.held[which], self.whole)

    def means(self, num_features: int) -> Tensor:
        """Return the mean activation of every feature, [L]; zeros for no patches."""
        return mean_activations(self.values, self.indices, num_features)

    def dense(self, features: Tensor, num_features: int) -> Tensor:
        """Return the activations of some features, [N, n]."""
        return dense(self.values, self.indices, features, num_features)


def evidence_in(band: ConceptBand, values: Tensor, indices: Tensor, num_features: int) -> Tensor:
    """Return the score of patches, as ``detection.band_score`` does, out of their firing features.

    Args:
        band: its features are summed; one without features scores nothing.
        values, indices: see Patches.
        num_features: L of the SAE.

    Returns:
        [N].
    """
    features = torch.tensor(band.features, dtype=torch.long)
    return (dense(values, indices, features, num_features) / torch.tensor(band.thresholds)).sum(1)


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one timestep band.

    Attributes:
        band: features and thresholds; none if the concept cannot be told apart.
        auc: how well it is told apart on what was held out: the chance that an image with the concept outranks one
            without it by its mean evidence; where its regions are known, the same for patches.
        needed: what the AUC must be to count.
    """

    band: ConceptBand
    auc: float
    needed: float


def find_by_detection(patches: Patches, num_features: int, least: float = LEAST_AUC) -> Found:
    """Choose, count and weigh features by how well they detect on patches that were held out.

    Candidates are the best by SAeUron's score (arXiv 2501.18052); they are weighed by ``fitted_weights``, and the
    smallest of `COUNTS` that detects patches within `TOLERANCE` of the best is taken. Patches decide, not images: the
    latter are soon all told apart, by features that find a small part of the concept. The threshold keeps `QUANTILE` of
    the held-out patches outside undetected.

    Args:
        patches: some inside and some outside, both fitted and held out.
        num_features: L of the SAE.
        least: AUC of patches that counts as finding it.
    """
    fit, held = patches.rows(~patches.held), patches.rows(patches.held)
    scores, means = scored(fit, num_features)
    candidates = scores.topk(min(CANDIDATES, num_features)).indices
    candidates = candidates[scores[candidates] > 0]
    if len(candidates) == 0:
        return Found(NOTHING, 0.5, needed_auc(held, least))
    fit = fit.rows(_thinned(len(fit.values)))
    activations, rest = fit.dense(candidates, num_features), held.dense(candidates, num_features)
    order = (fitted_weights(activations, fit.inside) * activations[fit.inside].mean(0)).argsort(descending=True)
    tried: list[tuple[float, Tensor, Tensor]] = []
    for chosen in (order[:count] for count in COUNTS if count < 2 * len(order)):
        weights = fitted_weights(activations[:, chosen], fit.inside)
        evidence = rest[:, chosen] @ weights
        tried.append((roc_auc(evidence[held.inside], evidence[~held.inside]), chosen, weights))
    best = max(auc for auc, _, _ in tried)
    _, chosen, weights = next(each for each in tried if each[0] >= best - TOLERANCE)
    evidence, features = rest[:, chosen] @ weights, candidates[chosen]
    band = calibrated_band(features, scores[features], means[features], weights, evidence[~held.inside], QUANTILE)
    return judged(band, evidence, held, least)


def find_by_percentile(patches: Patches, num_features: int, percentile: float, others: int) -> Found:
    """Choose features as SAeUron and the paper do (arXiv 2501.18052, 2606.31699).

    Features whose score exceeds a percentile of all features' scores, at least one; each detects alone, above its
    unweighted mean over all concepts.

    Args:
        patches, num_features: see ``find_by_detection``; what is held out only tells how well it works.
        percentile: 0..100, such as 99.99.
        others: how many concepts the patches outside belong to.
    """
    fit, held = patches.rows(~patches.held), patches.rows(patches.held)
    scores, means = scored(fit, num_features)
    count = max(1, round(num_features * (1 - percentile / 100)))
    features = scores.topk(count).indices
    elsewhere = fit.rows(~fit.inside).means(num_features)
    thresholds = ((means + others * elsewhere) / (1 + others))[features].clamp(min=EPSILON)
    band = ConceptBand(
        *(tuple(values.tolist()) for values in (features, thresholds, scores[features], means[features]))
    )
    evidence = (held.dense(features, num_features) / thresholds).amax(1)
    return judged(band, evidence, held)


def scored(fit: Patches, num_features: int) -> tuple[Tensor, Tensor]:
    """Return SAeUron's score of every feature, and its mean activation inside, both [L]."""
    inside, outside = (fit.rows(which).means(num_features) for which in (fit.inside, ~fit.inside))
    return score_features(torch.stack([inside, outside])[:, None], 0)[0], inside


def judged(band: ConceptBand, evidence: Tensor, held: Patches, least: float = LEAST_AUC) -> Found:
    """Say how well evidence tells held-out patches, or images, apart; without a difference nothing is found."""
    needed = needed_auc(held, least)
    auc = image_auc(evidence, held) if held.whole else roc_auc(evidence[held.inside], evidence[~held.inside])
    return Found(band if auc >= needed else NOTHING, auc, needed)


def needed_auc(held: Patches, least: float = LEAST_AUC) -> float:
    """Return the AUC that the held-out images must be told apart with.

    That is ``least`` for patches; for images `LEAST_AUC`, or 2.5 standard errors of the AUC of two like groups
    (Mann-Whitney) where so few are more likely to differ by chance.
    """
    if not held.whole:
        return least
    inside = len(held.image[held.inside].unique())
    outside = len(held.image[~held.inside].unique())
    error = ((inside + outside + 1) / (12 * inside * outside)) ** 0.5
    return min(max(LEAST_AUC, 0.5 + 2.5 * error), 0.99)


def image_auc(evidence: Tensor, held: Patches) -> float:
    """Return how well the mean evidence of an image tells those with the concept from those without."""
    images, row = held.image.unique(return_inverse=True)
    total = torch.zeros(len(images)).index_add_(0, row, evidence)
    count = torch.zeros(len(images)).index_add_(0, row, torch.ones_like(evidence))
    inside = torch.zeros(len(images), dtype=torch.bool)
    inside[row] = held.inside
    return roc_auc((total / count)[inside], (total / count)[~inside])


def _thinned(count: int) -> Tensor:
    """Return row numbers, evenly spread, at most `MAX_ROWS` of them."""
    return torch.arange(0, count, max(1, -(-count // MAX_ROWS)))
