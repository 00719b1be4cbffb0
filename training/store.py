"""A store of patch embeddings on disk: what an SAE is trained on.

A store is a folder of safetensors shards. Each shard is complete in itself and says what it holds, so shards that
several workers wrote, on several machines, are one store once they lie in one folder, and a killed worker loses only
what it had not written. Tensors of a shard of n embeddings: ``embeddings [n, D]`` float16, ``timesteps [n]`` float32
(0..999), and with labels ``labels [n, C]`` uint8: 1 where the embedding belongs to a concept, 0 where not, 255 where
nobody knows.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..sae_models.formats.files import is_finite, write_safetensors
from ..sae_models.sae import MAX_WIDTH, READS

FORMAT = "sae-concept-erasure/activations-1"
UNKNOWN = 255
SHARD_ROWS = 16_384
# safetensors may map the file it writes, and a full disk then ends the process instead of raising an error.
SPARE_BYTES = 64_000_000
HEADER_BYTES = 4096  # more than a shard has beside its tensors
WORKER = re.compile(r"[A-Za-z0-9_.]{1,40}")


class StoreError(RuntimeError):
    """The store cannot be written or read; the message says why. Complete shards stay usable."""


class StoreFull(StoreError):
    """The store's size limit is reached."""


@dataclass(frozen=True)
class Contents:
    """What all shards of a store have in common.

    Attributes:
        hookpoint, reads, model_family: as in SAEConfig.
        d_in: width D of the embeddings.
        labels: names of the concepts that ``labels`` has a column for.

    Raises:
        ValueError: a value is outside its range.
    """

    hookpoint: str
    d_in: int
    reads: str = "output"
    model_family: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = (self.hookpoint, self.model_family, *self.labels)
        if not all(isinstance(text, str) for text in texts) or not self.hookpoint or self.reads not in READS:
            raise ValueError("hookpoint, reads, model_family or labels are not what they should be")
        if not isinstance(self.d_in, int) or not 1 <= self.d_in <= MAX_WIDTH:
            raise ValueError(f"d_in = {self.d_in!r} is not a whole number from 1 to {MAX_WIDTH}")


@dataclass(frozen=True)
class Shard:
    """One complete file of a store.

    Attributes:
        path: the file.
        rows: embeddings in it.
        size: bytes.
        contents: what it holds.
        progress: how far its worker was when it was written, in the worker's own units.
    """

    path: Path
    rows: int
    size: int
    contents: Contents
    progress: int

    def read(self) -> tuple[Tensor, Tensor | None]:
        """Return embeddings [n, D] float16 and labels [n, C] uint8, or None if it has none.

        Raises:
            StoreError: it cannot be read, or holds NaN or infinity.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                embeddings = file.get_tensor("embeddings")
                labels = file.get_tensor("labels") if self.contents.labels else None
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self.path}: cannot be read ({error}). Remove this file") from error
        if not is_finite(embeddings):
            raise StoreError(f"{self.path}: holds NaN or infinity. Remove this file")
        return embeddings, labels


def require_space(folder: Path, size: int) -> None:
    """Check that a disk has room for so many bytes, and some to spare.

    Raises:
        StoreError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        raise StoreError(f"the disk of {folder} is full: {free / 1e6:.0f} MB are left. Free some space there")


def open_shard(path: Path) -> Shard:
    """Read the header of a shard.

    Raises:
        StoreError: it is damaged or no shard.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            slices = {key: file.get_slice(key) for key in file.keys()}
            shapes = {key: (tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its metadata lacks {FORMAT}")
        about = json.loads(metadata["contents"])
        contents = Contents(**{**about, "labels": tuple(about["labels"])})
        rows, progress = shapes["embeddings"][0][0], int(metadata["progress"])
        expected = {"embeddings": ((rows, contents.d_in), "F16"), "timesteps": ((rows,), "F32")}
        if contents.labels:
            expected["labels"] = ((rows, len(contents.labels)), "U8")
        if shapes != expected:
            raise ValueError(f"its tensors are {shapes}, expected {expected}")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise StoreError(f"{path}: is no shard of patch embeddings ({error}). Remove this file") from error
    return Shard(path, rows, path.stat().st_size, contents, progress)


def shards(folder: str | Path) -> list[Shard]:
    """Return the complete shards of a store in the order of their names; none if there is no such folder.

    Raises:
        StoreError: a file is damaged, or not all hold the same kind of embeddings.
    """
    found = [open_shard(path) for path in sorted(Path(folder).glob("*.safetensors"))]
    for shard in found[1:]:
        if shard.contents != found[0].contents:
            raise StoreError(
                f"{shard.path} and {found[0].path.name} hold different things: {shard.contents} and "
                f"{found[0].contents}. Keep one folder for each hookpoint and set of labels"
            )
    return found


class Writer:
    """Adds embeddings to a store, from where its worker left off.

    Args:
        folder: of the store; made if it is missing.
        contents: what will be added.
        limit: most bytes that the whole folder may take.
        worker: names the shards; two workers that write at a time need different ones.

    Attributes:
        progress: as given to the last ``flush`` that wrote a shard; 0 if there was none.

    Raises:
        StoreError: what is there already is damaged or of another kind.
    """

    def __init__(self, folder: str | Path, contents: Contents, limit: int, worker: str = "0") -> None:
        if not WORKER.fullmatch(worker):
            raise ValueError(f"worker {worker!r} is not 1 to 40 letters, digits, '_' and '.'")
        self.folder, self.contents, self.limit, self.worker = Path(folder), contents, limit, worker
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f"{worker}-*.part"):
            leftover.unlink(missing_ok=True)
        there = shards(folder)
        if there and there[0].contents != contents:
            raise StoreError(f"{folder} already holds something else: {there[0].contents}, not {contents}")
        named = [(re.fullmatch(rf"{re.escape(worker)}-(\d{{6,12}})", shard.path.stem), shard) for shard in there]
        own = [(int(match[1]), shard) for match, shard in named if match]
        self.progress = max((shard.progress for _, shard in own), default=0)
        self._next = max((number for number, _ in own), default=-1) + 1
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def waiting(self) -> int:
        """Embeddings that were added and are not on disk yet."""
        return sum(len(embeddings) for embeddings, _, _ in self._waiting)

    def add(self, embeddings: Tensor, timestep: float, labels: Sequence[int] | Tensor = ()) -> None:
        """Take embeddings; they are on disk after the next ``flush``.

        Args:
            embeddings: [n, D], any floating dtype.
            timestep: of all of them, 0..999.
            labels: [C] for all of them, or [n, C]; 0, 1 or UNKNOWN.

        Raises:
            ValueError: a shape does not fit.
            StoreError: the embeddings hold NaN or infinity, or are too large for float16.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.contents.d_in:
            raise ValueError(f"embeddings are {tuple(embeddings.shape)}, the store holds width {self.contents.d_in}")
        kept = embeddings.detach().to("cpu", torch.float16, copy=True).contiguous()
        if not is_finite(kept):
            raise StoreError(
                f"the embeddings of {self.contents.hookpoint} at timestep {timestep:.0f} hold NaN, or numbers too "
                "large for half precision"
            )
        marks = torch.as_tensor(labels, dtype=torch.uint8).expand(len(kept), len(self.contents.labels)).clone()
        self._waiting.append((kept, torch.full((len(kept),), float(timestep)), marks))

    def flush(self, progress: int) -> None:
        """Write what is waiting as one shard.

        Args:
            progress: what a resumed worker finds in ``progress``: everything up to it is on disk.

        Raises:
            StoreFull: the limit is reached; what still fitted is written, the rest is dropped.
            StoreError: the disk is full or cannot be written; what was waiting is dropped.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        embeddings, timesteps, labels = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        tensors = {"embeddings": embeddings, "timesteps": timesteps}
        if self.contents.labels:
            tensors["labels"] = labels
        a_row = sum(tensor[0].numel() * tensor.element_size() for tensor in tensors.values())
        fitting = min(len(embeddings), self._room() // a_row)
        if fitting > 0:
            self._write({key: tensor[:fitting].clone() for key, tensor in tensors.items()}, progress)
        if fitting < len(embeddings):
            raise StoreFull(f"{self.folder} has reached its limit of {self.limit / 1e9:.2f} GB")

    def _write(self, tensors: dict[str, Tensor], progress: int) -> None:
        require_space(self.folder, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
        about = {"format": FORMAT, "contents": json.dumps(asdict(self.contents)), "progress": str(progress)}
        path = self.folder / f"{self.worker}-{self._next:06d}.safetensors"
        try:
            write_safetensors(path, tensors, about)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{path} cannot be written ({error}). Free some space there") from error
        self._next += 1
        self.progress = progress

    def _room(self) -> int:
        """Return how many bytes of tensors may still be added."""
        used = sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))
        return self.limit - used - HEADER_BYTES
