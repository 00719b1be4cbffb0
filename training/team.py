"""Processes that train one SAE together; alone, a team of one, which needs no torch.distributed."""

import gc
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


class Team:
    """What the trainer needs of the other processes: their sums. This one is a team of one.

    Attributes:
        rank, size: which process this is, of how many.
        device: where its tensors live.
    """

    rank, size = 0, 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def sum(self, x: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, in place, and return it."""
        return x

    def gather(self, text: str) -> list[str]:
        """Return the texts of all processes in the order of their ranks."""
        return [text]

    def leave(self) -> None:
        """Say goodbye."""


class Distributed(Team):
    """A team of the processes that ``torchrun`` started: NCCL between GPUs, gloo between processors."""

    def __init__(self) -> None:
        cuda = torch.cuda.is_available()
        super().__init__(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu")
        if cuda:
            torch.cuda.set_device(self.device)
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=10))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    def gather(self, text: str) -> list[str]:
        # As bytes: the collective for objects would pickle them.
        sent = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        lengths = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        lengths[self.rank] = len(sent)
        self.sum(lengths)
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8, device=self.device)
        padded[: len(sent)] = sent
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [bytes(part[:n].tolist()).decode() for part, n in zip(parts, lengths.tolist(), strict=True)]

    def leave(self) -> None:
        dist.destroy_process_group()
        # A thread of gloo that outlives Python's own end would abort the process.
        gc.collect()


def assemble() -> Team:
    """Return the team that ``torchrun`` called for, or a team of one on the best device."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Distributed()
    return Team("cuda" if torch.cuda.is_available() else "cpu")
