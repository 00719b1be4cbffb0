"""Read a store of patch embeddings in an order that is shuffled, and yet the same each time.

Shards are taken in random order, a few at a time, and the rows of those few are mixed. Which rows make up a batch
depends on the seed, the shards and the number of streams alone, so reading can go on exactly where it stopped, and any
number of processes that divides the number of streams reads the same batches together, each its own shards.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .store import Shard, StoreError, shards

BUFFER_BYTES = 1_000_000_000
Rows = tuple[Tensor, Tensor | None]


def generator(*numbers: int) -> torch.Generator:
    """Return a random generator for some whole numbers, such as seed and epoch."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class Stream:
    """An endless sequence of batches out of one share of a store's shards.

    Args:
        folder: of the store. Shards that are added later join at the next epoch.
        rows: embeddings in each batch.
        seed: of the order.
        index, count: which of how many shares.
        buffer: most bytes to mix at a time, of one shard at least; twice as much is held, as the next ones are
            read meanwhile.
        position: where to go on, from ``position``; None to begin.

    Raises:
        StoreError: the store is empty or damaged, lacks shards of ``position``, or is too small for a batch.
    """

    def __init__(
        self,
        folder: str | Path,
        rows: int,
        seed: int = 0,
        index: int = 0,
        count: int = 1,
        buffer: int = BUFFER_BYTES,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.rows, self.seed = Path(folder), rows, seed
        self.index, self.count, self.buffer = index, count, buffer
        self._pool = ThreadPoolExecutor(1, "sae store")
        self._ahead: tuple[int, Future[Rows]] | None = None
        if position is None:
            self._begin(0)
        else:
            self._begin(int(position["epoch"]), [str(name) for name in position["shards"]])
            self._block, self._row = int(position["block"]), int(position["row"])
        self._current = self._fetch(self._block)

    @property
    def position(self) -> dict[str, Any]:
        """Where the next batch begins; JSON can hold it."""
        return {"epoch": self._epoch, "shards": self._names, "block": self._block, "row": self._row}

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> Rows:
        """Return the next batch: embeddings [rows, D] float16, and labels [rows, C] uint8 or None.

        Raises:
            StoreError: a shard cannot be read.
        """
        for _ in range(2 * len(self._blocks) + 2):
            embeddings, labels = self._current
            if self._row + self.rows <= len(embeddings):
                part = slice(self._row, self._row + self.rows)
                self._row += self.rows
                return embeddings[part], None if labels is None else labels[part]
            self._advance()
        raise StoreError(
            f"{self.folder} holds too few patch embeddings for a batch of {self.rows} out of {self.count} part(s). "
            "Collect more, or make the batch smaller"
        )

    def _begin(self, epoch: int, names: list[str] | None = None) -> None:
        there = {shard.path.name: shard for shard in shards(self.folder)}
        names = list(there) if names is None else names
        missing = [name for name in names if name not in there]
        if missing:
            raise StoreError(f"{self.folder} lacks {missing[0]}, which was there before; training cannot go on")
        if len(names) < self.count:
            raise StoreError(f"{self.folder} has {len(names)} shard(s), too few for {self.count} stream(s)")
        order = torch.randperm(len(names), generator=generator(self.seed, epoch)).tolist()
        own = [there[names[i]] for i in order][self.index :: self.count]
        # Blocks of nearly equal size, so that no small remainder is mixed with itself only.
        parts = min(len(own), -(-sum(shard.size for shard in own) // self.buffer))
        self._blocks = [own[i * len(own) // parts : (i + 1) * len(own) // parts] for i in range(parts)]
        self._epoch, self._names, self._block, self._row = epoch, names, 0, 0

    def _advance(self) -> None:
        self._row = 0
        if self._block + 1 < len(self._blocks):
            self._block += 1
        else:
            self._begin(self._epoch + 1)
        self._current = self._fetch(self._block)

    def _fetch(self, block: int) -> Rows:
        """Return a block, and start reading the one after it."""
        if self._ahead is not None and self._ahead[0] == block and block:
            found = self._ahead[1].result()
        else:
            found = self._load(self._blocks[block], block)
        self._ahead = None
        if block + 1 < len(self._blocks):
            self._ahead = (block + 1, self._pool.submit(self._load, self._blocks[block + 1], block + 1))
        return found

    def _load(self, block: list[Shard], number: int) -> Rows:
        read = [shard.read() for shard in block]
        embeddings = torch.cat([rows for rows, _ in read])
        marks = [labels for _, labels in read if labels is not None]
        mixed = generator(self.seed, self._epoch, self.index, self.count, number)
        order = torch.randperm(len(embeddings), generator=mixed)
        return embeddings[order], torch.cat(marks)[order] if marks else None
