"""From a model to SAEs: collecting activations and training on them take turns.

They share one device, so taking turns costs nothing, keeps the result reproducible, and shows how training goes while
activations still come in. Nothing here imports ComfyUI; ``collection.py`` samples.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .. import TrainingSettings, store
from ..session import Session
from ..store import StoreError
from ..team import Team

STATE = "run.training"
# Steps that may be taken while activations come in: those that come last are not to be seen last only.
EARLY_SHARE = 0.5
FIRST_BATCHES = 4  # training begins when there is data for so many
COLLECTING_SHARE = 0.6  # of the progress bar
SMALL = 256  # channels; blocks of so many or fewer are of small models
FLOATS_TO_TRAIN = 6  # a weight, its gradient and the optimiser's, and what a step needs


@dataclass(frozen=True)
class Size:
    """What kind of SAE to train; zeros are chosen by the width of the block.

    Attributes:
        features, k: of the SAE.
    """

    features: int = 0
    k: int = 0

    def for_width(self, width: int) -> tuple[int, int]:
        """Return features and k for a block of some width."""
        small = width <= SMALL
        return self.features or width * (12 if small else 16), self.k or (16 if small else 32)

    def bytes_to_train(self, width: int) -> int:
        """Return about how much memory training takes."""
        return self.for_width(width)[0] * width * 2 * FLOATS_TO_TRAIN * 4


class Source(Protocol):
    """Where activations come from: a Collector."""

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""

    @property
    def share(self) -> float:
        """How much has come, 0..1."""

    def store(self, hookpoint: str) -> Path:
        """The folder that a hookpoint's activations are in."""

    def collect(self, tick: Callable[[float], None]) -> None:
        """Get some more."""

    def flush(self) -> None:
        """Put on disk what has come."""


class SAETraining:
    """Trains an SAE for each of several hookpoints.

    Args:
        source: of the activations.
        widths: of the hookpoints, by name.
        size: of the SAEs.
        settings: how to train.
        team: the device to train on.

    Attributes:
        sessions: the training of each hookpoint that has begun.
        share: how much of everything is done, 0..1.
    """

    def __init__(
        self, source: Source, widths: Mapping[str, int], size: Size, settings: TrainingSettings, team: Team
    ) -> None:
        self.source, self.widths, self.size, self.settings, self.team = source, widths, size, settings, team
        self.sessions: dict[str, Session] = {}
        self.share = 0.0

    def run(self, tick: Callable[[], None]) -> None:
        """Collect and train to the end.

        Args:
            tick: called very often; what it raises ends the run, which a later one takes up again.

        Raises:
            StoreError: the disk is full, or the activations are unusable.
            NotFinite: the loss is no number any more.
        """
        try:
            while not self.source.finished:
                self.source.collect(lambda _: self._tick(tick))
                self._train(EARLY_SHARE * self.source.share, tick)
            self.source.flush()
            self._train(1.0, tick)
        finally:
            self._keep()

    def _train(self, share: float, tick: Callable[[], None]) -> None:
        """Bring every hookpoint's training to a share of its steps."""
        for hookpoint in self.widths:
            session = self._session(hookpoint)
            if session is not None:
                session.advance(int(share * self.settings.steps), lambda _: self._tick(tick))

    def _tick(self, tick: Callable[[], None]) -> None:
        steps = sum(session.step for session in self.sessions.values()) / (len(self.widths) * self.settings.steps)
        self.share = COLLECTING_SHARE * self.source.share + (1 - COLLECTING_SHARE) * steps
        tick()

    def _session(self, hookpoint: str) -> Session | None:
        """Return the training of a hookpoint, begun once it has activations enough; None if it has not."""
        if hookpoint not in self.sessions:
            folder = self.source.store(hookpoint)
            rows = sum(shard.rows for shard in store.shards(folder))
            if rows < FIRST_BATCHES * self.settings.batch and not self.source.finished:
                return None
            features, k = self.size.for_width(self.widths[hookpoint])
            self.sessions[hookpoint] = Session(folder, folder / STATE, features, k, self.settings, self.team)
        return self.sessions[hookpoint]

    def _keep(self) -> None:
        """Save what there is, however the run ended. Of a full disk the run itself tells, or who saves the SAE."""
        with suppress(StoreError):
            self.source.flush()
        for session in self.sessions.values():
            session.close()
            with suppress(StoreError):
                session.save()
