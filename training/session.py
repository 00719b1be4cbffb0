"""One training run over a store: batches in, checkpoints out, and what to show meanwhile."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..sae_models.sae import SAEConfig, SparseAutoencoder
from . import checkpoint
from .quality import Quality, measure
from .reader import BUFFER_BYTES, Stream
from .settings import TrainingSettings
from .store import Shard, StoreError, shards
from .team import Team
from .trainer import Trainer

SAVE_EVERY = 30.0  # seconds
SAMPLE_ROWS = 50_000
POINTS = 300  # of the curves
# These may differ from what a checkpoint was made with: they change no gradient.
FREE = ("steps", "bfloat16")


class Session:
    """Trains one SAE on a store, from its checkpoint if there is one.

    Args:
        folder: of the store; it may grow meanwhile.
        path: of the checkpoint.
        num_latents, k: of the SAE.
        settings: how to train. ``batch`` is that of all streams together.
        team: the processes that train together; each constructs its own Session with the same arguments.
        streams: shares that the store is read in, a multiple of the number of processes; 0 for one each. The
            result depends on it, but not on the number of processes.
        buffer: most bytes of embeddings that one process mixes at a time.

    Attributes:
        history: [step, unexplained share, dead share] now and then.

    Raises:
        StoreError: the store is empty or damaged, or the checkpoint is damaged or of another run.
        ValueError: the sizes do not divide.
        NotFinite: the embeddings hold NaN.
    """

    def __init__(
        self,
        folder: Path,
        path: Path,
        num_latents: int,
        k: int,
        settings: TrainingSettings,
        team: Team | None = None,
        streams: int = 0,
        buffer: int = BUFFER_BYTES,
    ) -> None:
        self.folder, self.path, self.settings, self.team = folder, path, settings, team or Team()
        streams = streams or self.team.size
        if streams % self.team.size or settings.batch % streams:
            raise ValueError(
                f"training: {streams} stream(s) do not divide a batch of {settings.batch}, or {self.team.size} "
                "process(es) do not divide the streams"
            )
        there = shards(folder)
        if not there:
            raise StoreError(f"{folder} holds no patch embeddings. Collect some first")
        self.contents = there[0].contents
        config = SAEConfig(
            self.contents.d_in,
            num_latents,
            k,
            self.contents.hookpoint,
            self.contents.reads,
            model_family=self.contents.model_family,
        )
        self.trainer = Trainer(config, settings, first_rows(there, SAMPLE_ROWS), self.team)
        self.history: list[tuple[float, float, float]] = []
        positions = self._restore(streams) if path.is_file() else [None] * streams
        each = streams // self.team.size
        own = range(self.team.rank * each, (self.team.rank + 1) * each)
        rows = settings.batch // streams
        try:
            self._streams = [Stream(folder, rows, settings.seed, i, streams, buffer // each, positions[i]) for i in own]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise StoreError(f"{path}: is damaged ({error}). Remove this file") from error
        self._saved = time.monotonic()
        self._pace: tuple[float, int] = (self._saved, self.step)

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.trainer.step

    @property
    def seconds_left(self) -> float:
        """How long the remaining steps will take, at the pace since ``advance`` was called; 0 if unknown."""
        start, first = self._pace
        done = self.step - first
        return (time.monotonic() - start) / done * (self.settings.steps - self.step) if done else 0.0

    def advance(self, until: int, report: Callable[["Session"], None] | None = None) -> None:
        """Train up to a step, writing a checkpoint now and then.

        Args:
            until: step to stop before; ``settings.steps`` at most.
            report: called after each step; what it raises ends training between two steps.

        Raises:
            StoreError: the store cannot be read, or the checkpoint not written.
            NotFinite: the loss is no number any more.
        """
        self._pace = (time.monotonic(), self.step)
        while self.step < min(until, self.settings.steps):
            batch = [stream.next() for stream in self._streams]
            marks = [labels for _, labels in batch if labels is not None]
            self.trainer.advance(torch.cat([rows for rows, _ in batch]), torch.cat(marks) if marks else None)
            if self.step % max(1, self.settings.steps // POINTS) == 0:
                outcome = self.trainer.outcome
                self.history.append((self.step, outcome.unexplained, outcome.dead_share))
            if self._is_due():
                self.save()
            if report is not None:
                report(self)

    def _is_due(self) -> bool:
        """Whether the first process finds it time for a checkpoint; all learn the same."""
        late = self.team.rank == 0 and time.monotonic() - self._saved > SAVE_EVERY
        if self.team.size == 1:
            return late
        # Asking costs a message, so they ask seldom.
        return self.step % 20 == 0 and bool(self.team.sum(torch.tensor(float(late), device=self.team.device)))

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            StoreError: the disk is full; the last checkpoint stays.
        """
        positions = self.team.gather(json.dumps([stream.position for stream in self._streams]))
        if self.team.rank == 0:
            tensors, numbers = self.trainer.state()
            tensors["history"] = torch.tensor(self.history, dtype=torch.float64).reshape(-1, 3)
            facts = {**self._identity(), **numbers, "positions": [p for text in positions for p in json.loads(text)]}
            checkpoint.save(self.path, tensors, facts)
        self._saved = time.monotonic()

    def close(self) -> None:
        """Stop reading."""
        for stream in self._streams:
            stream.close()

    def sae(self) -> SparseAutoencoder:
        """Return the SAE as it is now; see Trainer.sae."""
        return self.trainer.sae()

    def facts(self, quality: Quality | None) -> dict[str, Any]:
        """Return what an SAE file shall say about its training, for people."""
        said: dict[str, Any] = {
            "rule": self.settings.rule,
            "trained_k": self.trainer.config.k,
            "steps": self.step,
            "batch": self.settings.batch,
        }
        if self.contents.labels:
            said["guided"] = list(self.contents.labels)
        if quality is not None:
            said["explained_variance"] = round(quality.explained_variance, 4)
            said["dead_share"] = round(quality.dead_share, 4)
            said["measured_on_embeddings"] = quality.embeddings
        return said

    def _identity(self) -> dict[str, Any]:
        settings = {key: value for key, value in asdict(self.settings).items() if key not in FREE}
        return {"config": asdict(self.trainer.config), "settings": settings, "labels": list(self.contents.labels)}

    def _restore(self, streams: int) -> list[dict[str, Any] | None]:
        tensors, facts = checkpoint.load(self.path)
        wanted = self._identity()
        different = [key for key, value in wanted.items() if facts.get(key) != value]
        if different:
            raise StoreError(
                f"{self.path} belongs to another training run (its {', '.join(different)} differ). Remove it, or "
                "train with the settings it was made with"
            )
        try:
            self.trainer.restore(tensors, facts)
            self.history = [(row[0], row[1], row[2]) for row in tensors["history"].tolist()]
            positions = list(facts["positions"])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise StoreError(f"{self.path}: is damaged ({error}). Remove this file") from error
        if len(positions) != streams:
            raise StoreError(f"{self.path} was made with {len(positions)} stream(s), not {streams}")
        return positions


def first_rows(there: list[Shard], rows: int) -> Tensor:
    """Return about so many embeddings of the first shards, [n, D] float16."""
    parts: list[Tensor] = []
    for shard in there:
        parts.append(shard.read()[0])
        if sum(map(len, parts)) >= rows:
            break
    return torch.cat(parts)


def measure_on(folder: Path, sae: SparseAutoencoder, rows: int = 32_768) -> Quality | None:
    """Measure an SAE on the first embeddings of a store it was not trained on; None if there are none."""
    there = shards(folder)
    return measure(sae, first_rows(there, rows)[:rows]) if there else None
