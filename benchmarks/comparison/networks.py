"""Small networks that the comparison trains for itself, once."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..framework import storage

Network = TypeVar("Network", bound=nn.Module)


def fit(
    name: str,
    parameters: Iterable[nn.Parameter],
    rate: float,
    steps: int,
    batch: int,
    count: int,
    loss_of: Callable[[Tensor, int], Tensor],
) -> None:
    """Train parameters.

    Args:
        name: for the lines that are printed.
        rate: highest learning rate.
        steps, batch: how often, and on how many examples at once.
        count: of all examples.
        loss_of: of some examples, int64 [batch], at a step.
    """
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        loss = loss_of(torch.randint(count, (batch,), generator=generator), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  {name}: step {step}/{steps}  loss {loss.item():.4f}", flush=True)


def kept(path: Path, made: Callable[[], Network], trained: Callable[[], Network]) -> Network:
    """Return a trained network from a file, training it the first time.

    Args:
        path: of the file.
        made: makes one, its weights not yet known.
        trained: trains one.
    """
    if not path.exists():
        weights = {key: value.contiguous() for key, value in trained().state_dict().items()}
        with storage.whole(path) as partial:
            save_file(weights, partial)
    network = made()
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)
