"""Concepts out of SAeUron's pickled activations, without unpickling them.

SAeUron (Cywinski & Deja 2025, arXiv 2501.18052; SAEmnesia too) publishes what its SAE's features do for each concept:
``cls_latents_dict_<hookpoint>.pkl``, a pickle of concept -> array [prompts, steps, L], mean activations over the
patches of a picture, gigabytes in all. ``inert_pickles`` says where in the file the arrays lie; they are read in
blocks, and what is kept of them are means over prompts in bands of timesteps.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..concepts import Concept, ConceptBand, ConceptDictionary
from ..sae import MAX_LATENTS
from ..scoring import score_features
from .inert_pickles import Call, Name, Persistent, PickleRefused, Span, read_pickle
from .native import SAEFileError

BLOCK_BYTES = 4 * 2**20
MAX_CONCEPTS = 1000
MAX_NAME = 100
TIMESTEPS = 1000
NUMPY = ("numpy.core", "numpy._core")  # before and since version 2
NAMES = {
    "collections.OrderedDict",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"{module}.multiarray._reconstruct" for module in NUMPY),
    *(f"{module}.numeric._frombuffer" for module in NUMPY),
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
}
STORAGES = {"torch.HalfStorage": torch.float16, "torch.FloatStorage": torch.float32}
KINDS = {"f2": torch.float16, "f4": torch.float32}


@dataclass(frozen=True)
class StoredArray:
    """An array [prompts, steps, L] in a file, its last index running fastest.

    Attributes:
        shape: see above.
        dtype: of its numbers.
        start: where in the file its first number is.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype
    start: int

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_dictionary(path: str | Path, bands: int = 10, features: int = 2) -> ConceptDictionary:
    """Make a concept dictionary out of a published one.

    In each band a concept gets the features of the best positive scores, as SAeUron scores them; each counts as firing
    above its mean activation over all concepts, and one of them is enough.

    Args:
        path: the pickle.
        bands: of timesteps, of equal width.
        features: how many a concept gets in a band; SAeUron's percentiles 99.99 to 99.999 of 20480 features keep 2
        to 1.

    Raises:
        SAEFileError: the file is damaged, does more than hold arrays, or does not hold activations of features.
    """
    path = Path(path)
    if bands < 1 or features < 1:
        raise ValueError("bands and features must be 1 or more")
    try:
        with path.open("rb") as file:
            arrays = stored_arrays(file, path.stat().st_size)
            means = torch.stack([band_means(file, array, bands) for array in arrays.values()])
    except (OSError, PickleRefused) as error:
        raise SAEFileError(f"{path.name}: {error}") from error
    edges = tuple(TIMESTEPS * i / bands for i in range(bands + 1))
    typical = means.mean(0)
    concepts = {}
    for i, name in enumerate(arrays):
        scores, best = score_features(means, i).topk(min(features, means.shape[-1]), dim=-1)
        parts = [_band(best[b][scores[b] > 0], scores[b][scores[b] > 0], means[i, b], typical[b]) for b in range(bands)]
        concepts[name] = Concept(name, edges, tuple(parts), combine="any")
    return ConceptDictionary(concepts, edges, typical)


def _band(features: Tensor, scores: Tensor, means: Tensor, typical: Tensor) -> ConceptBand:
    values = (features, typical[features], scores, means[features])
    return ConceptBand(*(tuple(value.tolist()) for value in values))


def stored_arrays(file: BinaryIO, end: int) -> dict[str, StoredArray]:
    """Find the arrays of a pickled dictionary; none of their numbers is read.

    Args:
        file: opened for reading bytes.
        end: its size.

    Raises:
        PickleRefused: it is no dictionary of arrays of one and the same kind.
    """
    held = read_pickle(file, end, NAMES)
    entries = held.items if isinstance(held, Call) else held
    if not isinstance(entries, dict) or not 2 <= len(entries) <= MAX_CONCEPTS:
        raise PickleRefused(f"holds no dictionary of 2 to {MAX_CONCEPTS} concepts")
    arrays = {}
    for name, value in entries.items():
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.strip()) <= MAX_NAME:
            raise PickleRefused(f"has a concept without a proper name ({str(name)[:MAX_NAME]!r})")
        arrays[name] = _array(file, value, name)
    if len({array.shape[1:] for array in arrays.values()}) > 1:
        raise PickleRefused("its arrays have different numbers of steps or features")
    return arrays


def _array(file: BinaryIO, value: Any, name: str) -> StoredArray:
    if not isinstance(value, Call):
        raise PickleRefused(f"holds no array for {name}")
    try:
        shape, dtype, span = LAYOUTS[value.name.rpartition(".")[2]](file, value)
        prompts, steps, features = _whole(shape)
        array = StoredArray((prompts, steps, features), dtype, span.start)
        if min(shape) < 1 or features > MAX_LATENTS or span.length < array.size:
            raise PickleRefused(f"the array of {name} has no sensible shape {shape}, or lacks numbers")
        return array
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, PickleRefused):
            raise
        raise PickleRefused(f"holds no array [prompts, steps, features] of half or single floats for {name}") from error


Stored = tuple[tuple[int, ...], torch.dtype, Span]


def _numpy_state(_file: BinaryIO, value: Call) -> Stored:
    """An array as numpy pickles it up to protocol 4."""
    _version, shape, kind, fortran, span = value.state
    return shape, _kind(kind, fortran), _bytes(span)


def _numpy_buffer(_file: BinaryIO, value: Call) -> Stored:
    """An array as numpy pickles it in protocol 5."""
    span, kind, shape, order = value.arguments
    return shape, _kind(kind, order != "C"), _bytes(span)


def _torch_tensor(file: BinaryIO, value: Call) -> Stored:
    """A tensor as torch pickles it: its storage is a whole file of the old torch.save, in the pickle's bytes."""
    storage, offset, shape, strides = value.arguments[:4]
    (span,) = storage.arguments
    dtype, numbers = _old_storage(file, _bytes(span))
    dense = tuple(math.prod(_whole(shape)[i + 1 :]) for i in range(len(shape)))
    if strides != dense or min(_whole((offset,))) < 0:
        raise ValueError
    skipped = offset * dtype.itemsize
    return shape, dtype, Span(numbers.start + skipped, numbers.length - skipped)


LAYOUTS: dict[str, Callable[[BinaryIO, Call], Stored]] = {
    "_reconstruct": _numpy_state,
    "_frombuffer": _numpy_buffer,
    "_rebuild_tensor_v2": _torch_tensor,
}


def _old_storage(file: BinaryIO, span: Span) -> tuple[torch.dtype, Span]:
    """Return where the numbers of a storage lie: behind five pickles and their count."""
    end = span.start + span.length
    file.seek(span.start)
    _magic, _protocol, system, storage, _keys = (read_pickle(file, end, STORAGES) for _ in range(5))
    if not isinstance(storage, Persistent) or not isinstance(storage.key[1], Name) or not system["little_endian"]:
        raise ValueError
    dtype = STORAGES[storage.key[1].text]
    count = int.from_bytes(file.read(8), "little")
    start = file.tell()
    if start + count * dtype.itemsize > end:
        raise PickleRefused("a storage ends too early")
    return dtype, Span(start, count * dtype.itemsize)


def _kind(kind: Call, transposed: Any) -> torch.dtype:
    if transposed or kind.name != "numpy.dtype" or kind.state[1] != "<":
        raise ValueError(kind.name)
    return KINDS[kind.arguments[0]]


def _whole(numbers: Any) -> tuple[int, ...]:
    """Return sizes as they are; multiplying anything else could make something huge."""
    if not isinstance(numbers, tuple) or any(type(number) is not int for number in numbers):
        raise TypeError
    return numbers


def _bytes(span: Any) -> Span:
    if not isinstance(span, Span):
        raise TypeError
    return span


def band_means(file: BinaryIO, array: StoredArray, bands: int) -> Tensor:
    """Average activations over prompts and over the steps of each band.

    Step i of S is at timestep (S - 1 - i) * 1000 / S + 1, as SAeUron samples: 991, 981, ... 1 for 100 steps.

    Args:
        file: the pickle.
        array: in it.
        bands: of equal width.

    Returns:
        [bands, L], float32.

    Raises:
        PickleRefused: a band has no step, or a number is negative, NaN or infinite.
    """
    prompts, steps, features = array.shape
    timesteps = (steps - 1 - torch.arange(steps)) * (TIMESTEPS / steps) + 1
    band_of_step = (timesteps * bands / TIMESTEPS).long().clamp(max=bands - 1)
    counts = band_of_step.bincount(minlength=bands)
    if not counts.all():
        raise PickleRefused(f"{steps} steps cannot be divided into {bands} bands; ask for fewer bands")
    sums = torch.zeros(bands, features, dtype=torch.float64)
    for first, rows in _rows(file, array):
        if not (rows >= 0).all() or torch.isinf(rows).any():
            raise PickleRefused("holds numbers that are no activations: negative, NaN or infinite")
        places = (torch.arange(len(rows)) + first) % steps
        sums.index_add_(0, band_of_step[places], rows.double())
    return (sums / (counts * prompts)[:, None]).float()


def _rows(file: BinaryIO, array: StoredArray) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of an array's rows [n, L], with the number of their first one."""
    prompts, steps, features = array.shape
    size = features * array.dtype.itemsize
    at_once = max(1, BLOCK_BYTES // size)
    file.seek(array.start)
    for first in range(0, prompts * steps, at_once):
        content = bytearray(file.read(size * min(at_once, prompts * steps - first)))
        yield first, torch.frombuffer(content, dtype=array.dtype).view(-1, features)
