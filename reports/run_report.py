"""The Erasure Report: one picture that shows what was erased and whether the run stayed in the model's distribution."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..erasure.record import RunRecord
from ..erasure.statistics import REACH, Distance, Statistics, distance, pooled_counts
from .plots import BACKGROUND, EDITED, INK, TITLE, UNEDITED, Series, font, line_chart
from .preview import heat_overlay, step_tiles, to_pil

PANEL, GAP, CHART = 320, 10, 190
# Unedited runs of a prompt that differ in their seed mostly stay below this; see docs/results.md.
USUAL = 0.10
NORM_BINS = 48

Pairs = list[tuple[Statistics, Statistics]]  # of the edited and the unedited run, see RunRecord.shared_statistics


@dataclass(frozen=True)
class Verdict:
    """Whether a run's patch embeddings look like an unedited run's.

    Attributes:
        distance: the figures.
        replaced: share (0..1) of cells replaced, mean over the steps.
        versus: what it was compared with, for the sentence.
    """

    distance: Distance
    replaced: float
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
            f"reach at the same step (up to {USUAL:.0%} is usual). {self.replaced:.1%} of the cells were edited a step."
        )


def _judge(run: RunRecord, pairs: Pairs, image: int, versus: str) -> Verdict:
    """Compare one image of a run with the unedited one."""
    figures = distance([(edited.norms[image], unedited.norms[image]) for edited, unedited in pairs])
    shares = run.replaced_shares(image)
    return Verdict(figures, sum(shares) / max(1, len(shares)), versus)


def draw_report(
    run: RunRecord, image: Tensor, reference: RunRecord | None, before: Tensor | None, tiles: int
) -> tuple[Tensor, list[Verdict]]:
    """Draw a report for each image of a run.

    Args:
        run: the edited run.
        image: its pictures, [B, H, W, 3] in 0..1.
        reference: an unedited run of as many images at the same steps; None compares with what the edited blocks gave
            before they were edited.
        before: the unedited run's pictures of any size, [B, h, w, 3], or None.
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
    heat, masks = heat_overlay(run, image), step_tiles(run, image, tiles)
    sheets = []
    for i, verdict in enumerate(verdicts):
        shown = [("edited", image[i]), ("where it was found", heat[i])]
        if before is not None:
            shown.insert(0, ("before", before[i]))
        rows = [
            _beside([_titled(title, picture) for title, picture in shown]),
            _fitted(to_pil(masks[i]), (PANEL + GAP) * 3 - GAP),
            _beside(_charts(run, pairs, i)),
        ]
        sheets.append(torch.from_numpy(np.asarray(_sheet(rows, verdict), dtype=np.float32) / 255))
    return torch.stack(sheets), verdicts


def _charts(run: RunRecord, pairs: Pairs, image: int) -> list[Image.Image]:
    size = (PANEL, CHART)
    shares = Series([100 * share for share in run.replaced_shares(image)], EDITED)
    top = f"cells edited a step (most {max(shares.values):.0f} %)"
    edited, unedited = (torch.cat([pair[side].norms[image] for pair in pairs]) for side in (0, 1))
    low, high = float(torch.minimum(edited.min(), unedited.min())), float(torch.maximum(edited.max(), unedited.max()))
    norms = [_histogram(values, low, high) for values in (edited, unedited)]
    counts = [pooled_counts(pair[side].counts[image] for pair in pairs) for side in (0, 1)]
    # Rare large activations are what matters, and only a logarithm shows them beside the many small ones.
    logs = [(1 + share * 1e5).log10().tolist() for share in counts]
    reach = float(np.sinh(REACH))
    return [
        line_chart(size, top, [shares], ("first step", "last")),
        line_chart(size, "log2 norm of patch embeddings", _pair(norms), (f"{low:.1f}", f"{high:.1f}")),
        line_chart(size, "activations (asinh axis), log share", _pair(logs), (f"-{reach:.0f}", f"{reach:.0f}")),
    ]


def _pair(values: list[list[float]]) -> list[Series]:
    return [Series(values[1], UNEDITED, "unedited"), Series(values[0], EDITED, "edited")]


def _histogram(values: Tensor, low: float, high: float) -> list[float]:
    counts = torch.histc(values, NORM_BINS, low, high if high > low else low + 1)
    return (counts / counts.sum()).tolist()


def _fitted(picture: Image.Image, width: int) -> Image.Image:
    """Scale a picture to a width; the cells of a mask stay squares."""
    height = max(1, round(picture.height * width / max(1, picture.width)))
    return picture.resize((width, height), Image.Resampling.NEAREST)


def _titled(title: str, picture: Tensor) -> Image.Image:
    small = to_pil(picture)
    height = round(small.height * PANEL / small.width)
    panel = Image.new("RGB", (PANEL, height + 26), BACKGROUND)
    panel.paste(small.resize((PANEL, height), Image.Resampling.LANCZOS), (0, 26))
    ImageDraw.Draw(panel).text((2, 4), title, fill=INK, font=font(TITLE))
    return panel


def _beside(parts: list[Image.Image]) -> Image.Image:
    row = Image.new("RGB", ((PANEL + GAP) * 3 - GAP, max(part.height for part in parts)), BACKGROUND)
    for i, part in enumerate(parts):
        row.paste(part, (i * (PANEL + GAP), 0))
    return row


def _sheet(rows: list[Image.Image], verdict: Verdict) -> Image.Image:
    """Put rows and the verdict below each other."""
    words, lines = verdict.sentence().split(), [""]
    width = rows[0].width + 2 * GAP
    sheet = Image.new("RGB", (width, sum(row.height + GAP for row in rows) + GAP + 50), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font(TITLE)) > rows[0].width:
            lines.append(word)
        else:
            lines[-1] = longer
    y = GAP
    for row in rows:
        sheet.paste(row, (GAP, y))
        y += row.height + GAP
    for i, line in enumerate(lines):
        draw.text((GAP, y + 20 * i), line, fill=INK if verdict.is_usual else EDITED, font=font(TITLE))
    return sheet
