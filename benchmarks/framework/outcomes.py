"""What the judges say of images, and the columns that are made of it.

UA: target erased. Nothing: no object at all in its place. IRA: other objects kept. CRA: style right. Pair: of the
prompts for the target and another object that showed both unedited, those with the target erased and the other kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...demo_model.vocabulary import OBJECTS, STYLES
from .changes import CHANGES
from .prompts import Prompt

SWAPPED = "new there"
COLUMNS = ("UA", "nothing", "IRA", "CRA", "pair")


@dataclass
class Outcome:
    """What the judges say of the images of one target; a list entry an image.

    Attributes:
        gone: target prompts: target not found.
        nothing: target prompts: no object found at all.
        others: other objects' prompts: that object found.
        style: single-object prompts that name a style: style right.
        both: pair prompts: both objects found.
        pair: pair prompts: target not found, other found.
        artifacts: single-object prompts: whether each measure of artifacts finds some, if asked for.
        changes: by the name of each column of changes.py, an entry an image that it is about; if asked for.
        swapped: target prompts: the object that a fill asks for is found; none without such a fill.
        images: how many were made.
        commit: of the program that made them; "" if it is not known.
    """

    gone: list[bool] = field(default_factory=list)
    nothing: list[bool] = field(default_factory=list)
    others: list[bool] = field(default_factory=list)
    style: list[bool] = field(default_factory=list)
    both: list[bool] = field(default_factory=list)
    pair: list[bool] = field(default_factory=list)
    artifacts: dict[str, list[bool]] = field(default_factory=dict)
    changes: dict[str, list[float]] = field(default_factory=dict)
    swapped: list[bool] = field(default_factory=list)
    images: int = 0
    commit: str = ""

    def note(self, target: str, prompt: Prompt, found: Sequence[bool], style: int) -> None:
        """Add one image.

        Args:
            target: the object to erase.
            prompt: what was asked for.
            found: whether each of OBJECTS is in the image.
            style: that the image has, an index in STYLES.
        """
        has = dict(zip(OBJECTS, found, strict=True))
        if len(prompt.objects) == 2:
            other = next(name for name in prompt.objects if name != target)
            self.both.append(has[target] and has[other])
            self.pair.append(has[other] and not has[target])
            return
        if prompt.objects == (target,):
            self.gone.append(not has[target])
            self.nothing.append(not any(found))
        else:
            self.others.append(has[prompt.objects[0]])
        if prompt.style is not None:
            self.style.append(STYLES[style] == prompt.style)


def outcome_of(target: str, prompts: Sequence[Prompt], found: Tensor, styles: Tensor) -> Outcome:
    """Sort what the judges say by what was asked for.

    Args:
        target: the object to erase.
        prompts: what was asked for.
        found: which objects each image shows, bool [N, 20].
        styles: index of each image's style, [N].
    """
    outcome = Outcome(images=len(prompts))
    for prompt, objects, style in zip(prompts, found.tolist(), styles.tolist(), strict=True):
        outcome.note(target, prompt, objects, style)
    return outcome


Outcomes = Mapping[tuple[str, int], Outcome]  # by target and round


@dataclass(frozen=True, eq=False)
class Row:
    """All outcomes of one setting, and those without an edit, which say what a pair showed before."""

    outcomes: Outcomes
    unedited: Outcomes

    def values(self, column: str, targets: Sequence[str] | None = None) -> list[Any]:
        """Return one column's entries, pooled; every target has as many, so their mean is the mean over targets.

        Args:
            column: one of COLUMNS, of changes.CHANGES, or a measure of artifacts.
            targets: of these; one may be named more than once. All of them if left out.
        """
        chosen: dict[str, list[Any]] = {}
        for (target, turn), outcome in self.outcomes.items():
            before = self.unedited[target, turn]
            chosen.setdefault(target, []).extend(entries(column, outcome, before))
        return [value for target in (chosen if targets is None else targets) for value in chosen.get(target, [])]


def entries(column: str, outcome: Outcome, before: Outcome) -> list[Any]:
    """Return one column's entries of one outcome."""
    if column in CHANGES:
        return list(outcome.changes.get(column, []))
    if column == SWAPPED:
        return outcome.swapped
    if column == "pair":
        return [ok for ok, both in zip(outcome.pair, before.both, strict=True) if both]
    lists = {"UA": outcome.gone, "nothing": outcome.nothing, "IRA": outcome.others, "CRA": outcome.style}
    return lists[column] if column in lists else outcome.artifacts[column]
