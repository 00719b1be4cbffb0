"""The Erasure Report: one image that shows what was erased and whether the run stayed in the model's distribution."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..erasure.record import RunRecord
from ..erasure.statistics import REACH, Distance, Statistics, distance, pooled_counts
from .chart import Line, line_chart
from .images import batch, resized, scaled, sheet, titled, to_pil
from .preview import heat_overlay, step_tiles
from .style import BLUE, RED, TITLE

PANEL, GAP, CHART = 320, 10, 190  # pixels
WIDTH = 3 * PANEL + 2 * GAP
EDITED, UNEDITED = RED, BLUE
# Unedited runs of a prompt that differ in their seed mostly stay below this; see benchmarks/distribution.py.
USUAL = 0.10
NORM_BINS = 48

Pairs = list[tuple[Statistics, Statistics]]  # of the edited and the unedited run, see RunRecord.shared_statistics


@dataclass(frozen=True)
class Verdict:
    """Whether a run's patch embeddings look like an unedited run's.

    Attributes:
        distance: the figures.
        edited: share (0..1) of the image that was edited, mean over the steps.
        versus: what it was compared with, for the sentence.
    """

    distance: Distance
    edited: float
    versus: str

    @property
    def is_usual(self) -> bool:
        """True if no more norms are unusual than between two unedited runs."""
        # As many digits as are shown, or 10.04 % would be told as 10.0 % and beyond 10 %.
        return round(self.distance.outside, 3) <= USUAL

    def sentence(self) -> str:
        """Return the verdict in one line."""
        said = "In distribution" if self.is_usual else "OUT OF DISTRIBUTION"
        return (
            f"{said}: {self.distance.outside:.1%} of the patch embeddings have a norm that {self.versus} does not "
            f"reach at the same step (up to {USUAL:.0%} is usual). "
            f"{self.edited:.1%} of the image was edited in each step."
        )


def _judge(run: RunRecord, pairs: Pairs, image: int, versus: str) -> Verdict:
    """Compare one image of a run with the unedited one."""
    figures = distance([(edited.norms[image], unedited.norms[image]) for edited, unedited in pairs])
    shares = run.edited_shares(image)
    return Verdict(figures, sum(shares) / max(1, len(shares)), versus)


def draw_report(
    run: RunRecord, image: Tensor, reference: RunRecord | None, before: Tensor | None, tiles: int
) -> tuple[Tensor, list[Verdict]]:
    """Draw a report for each image of a run.

    Args:
        run: the edited run.
        image: its images, [B, H, W, 3] in 0..1.
        reference: an unedited run of as many images at the same steps; None compares with what the edited blocks gave
            before they were edited.
        before: the unedited run's images of any size, [B, h, w, 3], or None.
        tiles: steps whose mask is shown, at least 1.

    Returns:
        the reports [B, H', W', 3] in 0..1, and the verdicts.

    Raises:
        ValueError: the runs have no block and step in common.
    """
    pairs = run.shared_statistics(reference)
    if not pairs:
        raise ValueError("the two records have no block and step in common")
    versus = "the block's own output before the edit" if reference is None else "the unedited run"
    verdicts = [_judge(run, pairs, i, versus) for i in range(run.images)]
    heat, masks = heat_overlay(run, image), _masks(run, image, tiles)
    sheets = []
    for i in range(run.images):
        shown = [("edited", image[i]), ("where it was found", heat[i])]
        if before is not None:
            shown.insert(0, ("before", before[i]))
        rows = [
            [titled(title, scaled(to_pil(each), PANEL), TITLE) for title, each in shown],
            [to_pil(mask[i]) for mask in masks],
            _charts(run, pairs, i),
        ]
        sheets.append(sheet(rows, GAP, margin=GAP))
    return batch(sheets), verdicts


def _masks(run: RunRecord, image: Tensor, tiles: int) -> list[Tensor]:
    """Return the masks of some steps over the images, as large as fits beside each other."""
    count = max(1, min(tiles, len(run.sigmas())))
    width = (WIDTH - GAP * (count - 1)) // count
    return step_tiles(run, resized(image, (round(image.shape[1] * width / image.shape[2]), width)), count)


def _charts(run: RunRecord, pairs: Pairs, image: int) -> list[Image.Image]:
    size = (PANEL, CHART)
    shares = [100 * share for share in run.edited_shares(image)]
    top = f"edited in each step (most {max(shares):.0f} % of the image)"
    edited, unedited = (torch.cat([pair[side].norms[image] for pair in pairs]) for side in (0, 1))
    low, high = float(torch.minimum(edited.min(), unedited.min())), float(torch.maximum(edited.max(), unedited.max()))
    norms = [_histogram(values, low, high) for values in (edited, unedited)]
    counts = [pooled_counts(pair[side].counts[image] for pair in pairs) for side in (0, 1)]
    # Rare large activations are what matters, and only a logarithm shows them beside the many small ones.
    logs = [(1 + share * 1e5).log10().tolist() for share in counts]
    reach = float(np.sinh(REACH))
    return [
        line_chart(size, top, [Line.even(shares, EDITED)], ("first step", "last")),
        line_chart(size, "log2 norm of patch embeddings", _pair(norms), (f"{low:.1f}", f"{high:.1f}")),
        line_chart(size, "activations (asinh axis), log share", _pair(logs), (f"-{reach:.0f}", f"{reach:.0f}")),
    ]


def _pair(values: list[list[float]]) -> list[Line]:
    return [Line.even(values[1], UNEDITED, "unedited"), Line.even(values[0], EDITED, "edited")]


def _histogram(values: Tensor, low: float, high: float) -> list[float]:
    counts = torch.histc(values, NORM_BINS, low, high if high > low else low + 1)
    return (counts / counts.sum()).tolist()
