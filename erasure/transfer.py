"""Bring what was noted during a run to the CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor


def on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Bring many small tensors to the CPU, those of one shape in one transfer."""
    groups: dict[tuple, list[int]] = {}
    for index, each in enumerate(tensors):
        groups.setdefault((each.device, each.dtype, each.shape), []).append(index)
    moved: list[Tensor] = list(tensors)
    for (device, _, _), indices in groups.items():
        if device.type != "cpu":
            for index, each in zip(indices, torch.stack([tensors[i] for i in indices]).cpu(), strict=True):
                moved[index] = each
    return moved
