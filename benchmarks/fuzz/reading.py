"""How each kind of file is read, as the nodes do it: to the end, and down to one digest of all that was in it."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ...demo_model import checkpoint as model
from ...sae_models.formats import checksums, concept_files, concepts_in, load_whole, open_sae, saeuron
from ...sae_models.formats.native import SAEFileError
from ...training import checkpoint as training
from ...training.from_model.folder import PictureError, upright
from ...training.store import StoreError, open_shard

BLOCK = "output_blocks.4.1"  # chosen by the artist, where a file does not say it
# What a list of concepts may raise; the list then leaves the file out.
UNLISTED = (OSError, SafetensorError, ValueError, AttributeError, RecursionError)


def sae(path: Path) -> str:
    """Read an SAE with its decoder and its concepts, and try it."""
    if path.is_file():
        with contextlib.suppress(*UNLISTED):
            concepts_in(path)
    file = open_sae(path, BLOCK, path.parent)
    read = load_whole(file)
    tensors, facts = file.dictionary().to_tensors()
    found = read.encode_dense(torch.zeros(1, file.config.d_in, dtype=read.encoder.weight.dtype))
    if found.shape != (1, file.config.num_latents):
        raise AssertionError(f"latents of shape {tuple(found.shape)}")
    return _digest(checksums.of_tensors({**read.state_dict(), **tensors}), file.config, facts)


def concept(path: Path) -> str:
    """Read a concept file."""
    return _digest(concept_files.load(path).concept)


def shard(path: Path) -> str:
    """Read patch embeddings for training."""
    opened = open_shard(path)
    embeddings, labels = opened.read()
    return _digest(checksums.of_tensors({"e": embeddings} | ({} if labels is None else {"l": labels})), opened.contents)


def training_state(path: Path) -> str:
    """Read the state of a training run."""
    tensors, facts = training.load(path)
    return _digest(checksums.of_tensors(tensors), facts)


def small_model(path: Path) -> str:
    """Read the model that ships."""
    return _digest(*(checksums.of_tensors(part) for part in model.read(path).values()))


def activations(path: Path) -> str:
    """Read SAeUron's pickled activations of concepts."""
    tensors, facts = saeuron.read_dictionary(path, bands=2).to_tensors()
    return _digest(checksums.of_tensors(tensors), facts)


def picture(path: Path) -> str:
    """Read a picture of a folder."""
    image = upright(path)
    return _digest(image.size, image.tobytes())


READERS: dict[str, tuple[Callable[[Path], str], type[Exception]]] = {
    "sae": (sae, SAEFileError),
    "concept": (concept, SAEFileError),
    "shard": (shard, StoreError),
    "training state": (training_state, StoreError),
    "model": (small_model, model.CheckpointError),
    "activations": (activations, SAEFileError),
    "picture": (picture, PictureError),
}


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode(errors="surrogatepass"))
    return found.hexdigest()
