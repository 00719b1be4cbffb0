"""Find the latents of a concept: in patches of pictures that hold it, against patches that do not.

Nobody says where in a picture the concept is. A patch of a picture with the concept counts as *inside*, although most
such patches show background: the background looks alike in both kinds of picture, so latents of it gain nothing, and
what distinguishes the kinds is the concept. Held-out patches decide how many latents are used.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..sae_models.concepts import ConceptBand
from ..sae_models.sae import SparseAutoencoder
from ..sae_models.scoring import EPSILON, calibrated_band, fitted_weights, roc_auc, score_latents

KEEP = 64  # firing latents that are kept of a patch where the activation sets no limit
CANDIDATES = 64
COUNTS = (1, 2, 4, 8, 16, 32, 64)
TOLERANCE = 0.005  # of AUC, that fewer latents may cost
MAX_ROWS = 60_000
QUANTILE, EAGERNESS = 0.98, 1.6
LEAST_AUC = 0.75
NOTHING = ConceptBand((), ())


@dataclass(frozen=True, eq=False)
class Patches:
    """The firing latents of patches.

    Attributes:
        values: [N, k] float16, zero or more.
        indices: of the latents, [N, k] int32.
        inside: whether the patch is of a picture, or a place, with the concept, bool [N].
        image: which picture it is of, [N].
        held: whether it is kept back from fitting, bool [N].
        whole: whether inside was said of whole pictures.
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

    def means(self, num_latents: int) -> Tensor:
        """Return the mean activation of every latent, [L]; zeros for no patches."""
        return mean_latents(self.values, self.indices, num_latents)

    def dense(self, latents: Tensor, num_latents: int) -> Tensor:
        """Return the activations of some latents, [N, n]."""
        return dense(self.values, self.indices, latents, num_latents)


def mean_latents(values: Tensor, indices: Tensor, num_latents: int) -> Tensor:
    """Return the mean activation of every latent over patches, [L]; zeros for no patches.

    Args:
        values, indices: see Patches.
        num_latents: L of the SAE.
    """
    total = torch.zeros(num_latents)
    total.index_add_(0, indices.flatten().long(), values.flatten().float())
    return total / max(len(values), 1)


def dense(values: Tensor, indices: Tensor, latents: Tensor, num_latents: int) -> Tensor:
    """Return the activations of some latents out of the firing ones.

    Args:
        values, indices: see Patches.
        latents: which ones, [n].
        num_latents: L of the SAE.

    Returns:
        [N, n], zero where a latent does not fire.
    """
    column = torch.full((num_latents,), len(latents))
    column[latents] = torch.arange(len(latents))
    out = torch.zeros(len(values), len(latents) + 1)
    out.scatter_add_(1, column[indices.long()], values.float())
    return out[:, :-1]


def evidence_in(band: ConceptBand, values: Tensor, indices: Tensor, num_latents: int) -> Tensor:
    """Return the score of patches, see ``detection.band_score``, out of their firing latents.

    Args:
        band: its latents are summed; one without latents scores nothing.
        values, indices: see Patches.
        num_latents: L of the SAE.

    Returns:
        [N].
    """
    latents = torch.tensor(band.latents, dtype=torch.long)
    return (dense(values, indices, latents, num_latents) / torch.tensor(band.thresholds)).sum(1)


@torch.no_grad()
def encode_sparsely(sae: SparseAutoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the firing latents of patch embeddings, strongest first, on the CPU.

    Returns:
        values [..., k] float16 and indices [..., k] int32; the `KEEP` strongest at most.
    """
    values, indices = sae.encode(x)
    return values[..., :KEEP].to("cpu", torch.float16), indices[..., :KEEP].to("cpu", torch.int32)


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one timestep band.

    Attributes:
        band: latents and thresholds; none if the concept cannot be told apart.
        auc: how well it is told apart on what was held out: the chance that a picture with the concept outranks one
            without it by its mean evidence; where places are known, the same for patches.
        needed: what the AUC must be to count.
    """

    band: ConceptBand
    auc: float
    needed: float


def find_by_detection(patches: Patches, num_latents: int, least: float = LEAST_AUC) -> Found:
    """Choose, count and weigh latents by how well they detect on patches that were held out.

    Candidates are the best by SAeUron's score (arXiv 2501.18052); they are weighed by ``fitted_weights``, and the
    smallest of `COUNTS` that detects patches within `TOLERANCE` of the best is taken. Patches decide, not pictures: the
    latter are soon all told apart, by latents that find a small part of the concept. The threshold keeps `QUANTILE` of
    the held-out patches outside undetected, divided by `EAGERNESS`.

    Args:
        patches: some inside and some outside, both fitted and held out.
        num_latents: L of the SAE.
        least: AUC of patches that counts as finding it.
    """
    fit, held = patches.rows(~patches.held), patches.rows(patches.held)
    scores, means = scored(fit, num_latents)
    candidates = scores.topk(min(CANDIDATES, num_latents)).indices
    candidates = candidates[scores[candidates] > 0]
    if len(candidates) == 0:
        return Found(NOTHING, 0.5, needed_auc(held, least))
    fit = fit.rows(_thinned(len(fit.values)))
    activations, rest = fit.dense(candidates, num_latents), held.dense(candidates, num_latents)
    order = (fitted_weights(activations, fit.inside) * activations[fit.inside].mean(0)).argsort(descending=True)
    tried: list[tuple[float, Tensor, Tensor]] = []
    for chosen in (order[:count] for count in COUNTS if count < 2 * len(order)):
        weights = fitted_weights(activations[:, chosen], fit.inside)
        evidence = rest[:, chosen] @ weights
        tried.append((roc_auc(evidence[held.inside], evidence[~held.inside]), chosen, weights))
    best = max(auc for auc, _, _ in tried)
    _, chosen, weights = next(each for each in tried if each[0] >= best - TOLERANCE)
    evidence, latents = rest[:, chosen] @ weights, candidates[chosen]
    band = calibrated_band(
        latents, scores[latents], means[latents], weights, evidence[~held.inside], QUANTILE, EAGERNESS
    )
    return judged(band, evidence, held, least)


def find_by_percentile(patches: Patches, num_latents: int, percentile: float, others: int) -> Found:
    """Choose latents as SAeUron and the paper do (arXiv 2501.18052, 2606.31699).

    Latents whose score exceeds a percentile of all latents' scores, at least one; each detects alone, above its
    unweighted mean over all concepts.

    Args:
        patches, num_latents: see ``find_by_detection``; what is held out only tells how well it works.
        percentile: 0..100, such as 99.99.
        others: how many concepts the patches outside belong to.
    """
    fit, held = patches.rows(~patches.held), patches.rows(patches.held)
    scores, means = scored(fit, num_latents)
    count = max(1, round(num_latents * (1 - percentile / 100)))
    latents = scores.topk(count).indices
    elsewhere = fit.rows(~fit.inside).means(num_latents)
    thresholds = ((means + others * elsewhere) / (1 + others))[latents].clamp(min=EPSILON)
    band = ConceptBand(*(tuple(values.tolist()) for values in (latents, thresholds, scores[latents], means[latents])))
    evidence = (held.dense(latents, num_latents) / thresholds).amax(1)
    return judged(band, evidence, held)


def scored(fit: Patches, num_latents: int) -> tuple[Tensor, Tensor]:
    """Return SAeUron's score of every latent, and its mean activation inside, both [L]."""
    inside, outside = (fit.rows(which).means(num_latents) for which in (fit.inside, ~fit.inside))
    return score_latents(torch.stack([inside, outside])[:, None], 0)[0], inside


def judged(band: ConceptBand, evidence: Tensor, held: Patches, least: float = LEAST_AUC) -> Found:
    """Say how well evidence tells held-out patches, or pictures, apart; without a difference nothing is found."""
    needed = needed_auc(held, least)
    auc = picture_auc(evidence, held) if held.whole else roc_auc(evidence[held.inside], evidence[~held.inside])
    return Found(band if auc >= needed else NOTHING, auc, needed)


def needed_auc(held: Patches, least: float = LEAST_AUC) -> float:
    """Return the AUC that the held-out pictures must be told apart with.

    That is ``least`` for patches; for pictures `LEAST_AUC`, or 2.5 standard errors of the AUC of two like groups
    (Mann-Whitney) where so few are more likely to differ by chance.
    """
    if not held.whole:
        return least
    inside = len(held.image[held.inside].unique())
    outside = len(held.image[~held.inside].unique())
    error = ((inside + outside + 1) / (12 * inside * outside)) ** 0.5
    return min(max(LEAST_AUC, 0.5 + 2.5 * error), 0.99)


def picture_auc(evidence: Tensor, held: Patches) -> float:
    """Return how well the mean evidence of a picture tells those with the concept from those without."""
    pictures, place = held.image.unique(return_inverse=True)
    total = torch.zeros(len(pictures)).index_add_(0, place, evidence)
    count = torch.zeros(len(pictures)).index_add_(0, place, torch.ones_like(evidence))
    inside = torch.zeros(len(pictures), dtype=torch.bool)
    inside[place] = held.inside
    return roc_auc((total / count)[inside], (total / count)[~inside])


def _thinned(count: int) -> Tensor:
    """Return row numbers, evenly spread, at most `MAX_ROWS` of them."""
    return torch.arange(0, count, max(1, -(-count // MAX_ROWS)))
