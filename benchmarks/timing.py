"""What benchmarks of time have alike."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from scipy.stats import binom
from torch import Tensor

from ..unet.calls import Call, Run
from ..unet.hooks import Observer

Clock = Callable[[], float]
Result = TypeVar("Result")
# Fewer turns than this have no quartiles.
FEWEST = 3


class Clocked(Observer):
    """An observer that adds up the time another one takes, at its blocks and around the run.

    That share of a step is far less noisy than the difference of two steps.
    """

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self.spent = 0.0

    @property
    def hookpoints(self) -> Sequence[str]:
        """The other's blocks."""
        return self._observer.hookpoints

    def begin(self, run: Run) -> None:
        """Pass it on, and time it."""
        self._timed(lambda: self._observer.begin(run))

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, call: Call) -> Tensor:
        """Pass it on, and time it."""
        return self._timed(lambda: self._observer.on_block(hookpoint, x, output, call))

    def end_call(self, call: Call) -> None:
        """Pass it on, and time it."""
        self._timed(lambda: self._observer.end_call(call))

    def end(self, run: Run, samples: Tensor | None) -> None:
        """Pass it on, and time it."""
        self._timed(lambda: self._observer.end(run, samples))

    def _timed(self, action: Callable[[], Result]) -> Result:
        started = self._clock()
        try:
            return action()
        finally:
            self.spent += self._clock() - started


def alternate(
    actions: Mapping[str, Callable[[], object]], rounds: int, clock: Clock, seconds: float = float("inf")
) -> dict[str, list[float]]:
    """Time actions in turn, after one round that does not count.

    Args:
        actions: what to do, by name.
        rounds: how often.
        clock: what tells the seconds.
        seconds: once these are over no further round begins, but ``FEWEST`` are made.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    begun = clock()
    for turn in range(rounds + 1):
        if turn > FEWEST and clock() - begun > seconds:
            break
        for name, action in actions.items():
            started = clock()
            action()
            if turn:
                times[name].append(clock() - started)
    return times


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Divide times by those of the same turns."""
    return [a / b for a, b in zip(values, others, strict=True)]


def quartiles(values: Sequence[float], places: int = 4) -> str:
    """Return median and quartiles as text."""
    return "{1:.{3}f} ({0:.{3}f} to {2:.{3}f})".format(*statistics.quantiles(values, n=4), places)


def median_interval(values: Sequence[float]) -> list[float]:
    """Return two of the values, between which the median lies with 95 % confidence; of fewer than six, the ends."""
    ordered, below = sorted(values), int(binom.ppf(0.025, len(values), 0.5))
    place = max(below, 1) - 1
    return [ordered[place], ordered[-1 - place]]
