"""Arithmetic on concepts of one SAE: the union of two, and one without the other.

A feature's *weight* in a concept is 1 / threshold: its activation times its weight is the evidence it gives, and a
patch is detected where the evidence sums to more than one (``combine`` "sum"), or where one feature alone gives that
much ("any"). Where two concepts have different timestep bands, the result has the bands of both.

union: the larger weight of the two. Every patch that either concept detects is detected; a patch in which both have
some evidence, and neither enough, may be detected too.

difference: the weight in the first minus that in the second. What is below zero counts against the concept, so a patch
is detected where the first concept's evidence exceeds the second's by more than one. Only patches that the first one
detects are detected, and none in which the second has as much evidence as the first.
"""

from collections.abc import Callable
from itertools import pairwise
from statistics import fmean

from .concepts import Concept, ConceptBand

OPERATIONS = ("union", "difference")


def union(first: Concept, second: Concept, name: str = "") -> Concept:
    """Return a concept that finds what either finds.

    Scores are the larger of the two; means are averaged where both know a feature.

    Args:
        first, second: of one SAE.
        name: of the result; "" for "cat or dog".

    Raises:
        ValueError: of different SAEs, or one is itself a difference.
    """
    for concept in (first, second):
        if any(band.against for band in concept.bands):
            raise ValueError(
                f"'{concept.name}' has features that count against it, which a union would forget. Make the union "
                "first and the difference last"
            )
    return _combined(first, second, name or f"{first.name} or {second.name}", _united)


def difference(first: Concept, second: Concept, name: str = "") -> Concept:
    """Return a concept that finds the first where it is not the second.

    Scores are the first's minus the second's; means are the first's.

    Args:
        first, second: of one SAE.
        name: of the result; "" for "cat but not dog".

    Raises:
        ValueError: of different SAEs, the second is itself a difference, or nothing remains.
    """
    if any(band.against for band in second.bands):
        raise ValueError(f"'{second.name}' is itself a difference, which cannot be taken away. Take away its parts")
    result = _combined(first, second, name or f"{first.name} but not {second.name}", _without)
    if not any(band.features for band in result.bands):
        raise ValueError(
            f"nothing remains of '{first.name}' without '{second.name}': every feature counts at least as much for the "
            "second"
        )
    return result


def _combined(
    first: Concept, second: Concept, name: str, combine_bands: Callable[[ConceptBand, ConceptBand], ConceptBand]
) -> Concept:
    if first.sae is None or second.sae is None or first.sae.digest != second.sae.digest:
        raise ValueError(
            f"'{first.name}' was made for {first.sae or 'an unknown SAE'}, '{second.name}' for "
            f"{second.sae or 'an unknown SAE'}. Only concepts of one SAE can be combined"
        )
    edges = tuple(sorted({*first.band_edges, *second.band_edges}))
    # An edge belongs to the band above it, so it is a timestep of every band that begins there.
    bands = [
        combine_bands(first.bands[first.band_index(low)], second.bands[second.band_index(low)])
        for low, _ in pairwise(edges)
    ]
    # A union of sums and single features must not lose what a single feature of either would find.
    combine = "any" if first.combine == second.combine == "any" else "sum"
    if combine_bands is _without:
        combine = first.combine
    names = {**dict(second.feature_names), **dict(first.feature_names)}
    result = Concept(name, edges, tuple(bands), combine, first.sae)
    kept = tuple((i, names[i]) for i in result.features() if i in names)
    return Concept(name, edges, tuple(bands), combine, first.sae, kept)


def _weights(features: tuple[int, ...], thresholds: tuple[float, ...]) -> dict[int, float]:
    return {i: 1 / t if t else float("inf") for i, t in zip(features, thresholds, strict=True)}


def _threshold(weight: float) -> float:
    return 0.0 if weight == float("inf") else 1 / weight


def _facts(band: ConceptBand, values: tuple[float, ...]) -> dict[int, float]:
    return dict(zip(band.features, values, strict=True)) if values else {}


def _united(first: ConceptBand, second: ConceptBand) -> ConceptBand:
    ours, theirs = _weights(first.features, first.thresholds), _weights(second.features, second.thresholds)
    weights = {i: max(ours.get(i, 0.0), theirs.get(i, 0.0)) for i in {**ours, **theirs}}
    scores = _merged(first, second, first.scores, second.scores, max)
    means = _merged(first, second, first.means, second.means, fmean)
    order = sorted(weights, key=lambda i: -scores.get(i, 0.0))
    return _band(order, weights, scores, means, {})


def _merged(
    first: ConceptBand,
    second: ConceptBand,
    ours: tuple[float, ...],
    theirs: tuple[float, ...],
    choose: Callable[[list[float]], float],
) -> dict[int, float]:
    """Return one fact a feature out of what both bands say, nothing if one of them is silent."""
    if len(ours) < len(first.features) or len(theirs) < len(second.features):
        return {}
    facts = (_facts(first, ours), _facts(second, theirs))
    return {i: choose([known[i] for known in facts if i in known]) for i in {**facts[0], **facts[1]}}


def _without(first: ConceptBand, second: ConceptBand) -> ConceptBand:
    ours, theirs = _weights(first.features, first.thresholds), _weights(second.features, second.thresholds)
    against = _weights(first.against, first.against_thresholds)
    for i, weight in theirs.items():
        against[i] = against.get(i, 0.0) + weight
    shared = {i: (ours[i], against[i]) for i in ours if i in against}
    for i, (mine, other) in shared.items():
        ours[i] = mine - other if mine > other else 0.0
        against[i] = other - mine if other > mine else 0.0
    their_scores = _facts(second, second.scores)
    scores = {i: value - their_scores.get(i, 0.0) for i, value in _facts(first, first.scores).items()}
    order = [i for i in first.features if ours[i] > 0]
    return _band(order, ours, scores, _facts(first, first.means), {i: w for i, w in against.items() if w > 0})


def _band(
    order: list[int],
    weights: dict[int, float],
    scores: dict[int, float],
    means: dict[int, float],
    against: dict[int, float],
) -> ConceptBand:
    return ConceptBand(
        tuple(order),
        tuple(_threshold(weights[i]) for i in order),
        tuple(scores[i] for i in order) if scores else (),
        tuple(means[i] for i in order) if means else (),
        tuple(against),
        tuple(_threshold(weight) for weight in against.values()),
    )
