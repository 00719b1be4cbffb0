"""The protocol's figures: UA, IRA, CRA, Avg, AR and GA of a target, and their mean over targets."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..framework.tables import Table
from .protocol import PHOTO, ProtocolImage

FIGURES = ("UA", "IRA", "CRA", "Avg", "AR", "GA")


@dataclass(frozen=True)
class Answer:
    """What is said of an image.

    Attributes:
        object, style: what the classifiers see.
        artifacts: whether it shows some; None if nobody was asked.
    """

    object: str
    style: str
    artifacts: bool | None = None


def mean_of_groups(groups: Mapping[str, list[bool]]) -> float | None:
    """Return the mean over groups of each group's share of True, in percent; None without groups."""
    return 100 * statistics.fmean(statistics.fmean(hits) for hits in groups.values()) if groups else None


def mean_known(values: Iterable[float | None]) -> float | None:
    """Return the mean; None if one is not known, or if there are none."""
    known = list(values)
    return None if not known or None in known else statistics.fmean(value for value in known if value is not None)


def figures_of(target: str, answers: Mapping[ProtocolImage, Answer]) -> dict[str, float | None]:
    """Return a target's figures in percent; None for what the images do not tell.

    UA: the target's images that are not taken for it. IRA: accuracy on each other object, mean over them. CRA:
    accuracy on each named style, mean over them, the target's images included; a prompt without a style asks for
    none, so its image is left out. AR: images with artifacts, of all. GA: mean of UA, IRA, CRA and 100 - AR.
    """
    gone: dict[str, list[bool]] = defaultdict(list)
    kept: dict[str, list[bool]] = defaultdict(list)
    styled: dict[str, list[bool]] = defaultdict(list)
    for image, answer in answers.items():
        if image.object == target:
            gone[target].append(answer.object != target)
        else:
            kept[image.object].append(answer.object == image.object)
        if image.style != PHOTO:
            styled[image.style].append(answer.style == image.style)
    ua, ira, cra = map(mean_of_groups, (gone, kept, styled))
    damage = mean_known(None if answer.artifacts is None else 100.0 * answer.artifacts for answer in answers.values())
    whole = None if damage is None else 100 - damage
    figures = (ua, ira, cra, mean_known((ua, ira, cra)), damage, mean_known((ua, ira, cra, whole)))
    return dict(zip(FIGURES, figures, strict=True))


def row_of(targets: Mapping[str, Mapping[ProtocolImage, Answer]]) -> list[str]:
    """Return the cells of a row: each figure's mean and standard deviation over targets, and their counts.

    A figure that not every target has is left out.
    """
    found = [figures_of(target, answers) for target, answers in targets.items()]
    cells = []
    for name in FIGURES:
        values = [figures[name] for figures in found]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or not known:
            cells.append("-")
        else:
            cells.append(f"{statistics.fmean(known):.2f} ± {statistics.stdev(known) if len(known) > 1 else 0:.2f}")
    return [*cells, str(len(targets)), str(sum(map(len, targets.values())))]


def table() -> Table:
    """Return the table of all runs, which prints each as it is added."""
    return Table("run", (*FIGURES, "targets", "images"))


def add_row(table: Table, run: str, targets: Mapping[str, Mapping[ProtocolImage, Answer]]) -> None:
    """Add a run; the file also gets the figures of each target."""
    each = {target: figures_of(target, answers) for target, answers in targets.items()}
    table.add(run, *row_of(targets), figures=each)
