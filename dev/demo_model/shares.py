"""Shares of images with their 95 % intervals."""

from collections.abc import Sequence

from scipy.stats import binomtest


def wilson(hits: Sequence[bool]) -> tuple[float, float]:
    """Return the ends of the 95 % Wilson interval of the share of True, 0..1; there must be some."""
    low, high = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return float(low), float(high)
