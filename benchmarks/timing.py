"""What benchmarks of time have alike."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

Clock = Callable[[], float]


class Clocked:
    """An observer that adds up the time another one takes at its blocks.

    That share of a step is far less noisy than the difference of two steps.
    """

    def __init__(self, observer: Any, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self.spent = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._observer, name)

    def on_block(self, *call: Any) -> torch.Tensor:
        """Pass the call on, and time it."""
        started = self._clock()
        try:
            return self._observer.on_block(*call)
        finally:
            self.spent += self._clock() - started


def alternate(actions: Mapping[str, Callable[[], object]], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Time actions in turn, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 1):
        for name, action in actions.items():
            started = clock()
            action()
            if turn:
                times[name].append(clock() - started)
    return times


def quartiles(values: list[float], places: int = 4) -> str:
    """Return median and quartiles as text."""
    return "{1:.{3}f} ({0:.{3}f} to {2:.{3}f})".format(*statistics.quantiles(values, n=4), places)
