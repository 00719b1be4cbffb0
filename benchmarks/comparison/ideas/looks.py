"""Other ways to say what is detected: ``smooth`` and ``twice``."""

from collections import defaultdict, deque
from typing import Any

import torch
from torch import Tensor

from ....erasure.detection import Detect, Look
from ....erasure.eraser import Eraser, _Call

LOOKS = 3


class Remembering(Eraser):
    """See ``smooth`` and ``twice``.

    Args:
        vote: whether looks are counted instead of averaged.
    """

    def __init__(self, *args: Any, vote: bool) -> None:
        super().__init__(*args)
        self.vote = vote

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.looks: dict[int, deque[Look]] = defaultdict(lambda: deque(maxlen=LOOKS))

    def _look(self, leaf: Detect, read: Tensor, call: _Call) -> Look:
        look = super()._look(leaf, read, call)
        looks = self.looks[id(leaf)]
        looks.append(look)
        if self.vote:
            votes = torch.stack([each.detected for each in looks]).sum(0)
            return Look(votes >= min(2, len(looks)), look.likeness)
        scores = [torch.where(each.detected, each.likeness, each.likeness.clamp(max=1.0)) for each in looks]
        return Look(torch.stack(scores).mean(0) > 1, look.likeness)
