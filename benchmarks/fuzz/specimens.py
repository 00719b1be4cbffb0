"""A file of each format and kind, unharmed, to be changed.

The SAEs of other libraries are those of the tests (``tests/support/sae_formats.py``).
"""

import pickle
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from load import ROOT
from PIL import Image

from ...demo_model import checkpoint as model
from ...sae_models.concepts import Concept, ConceptBand, ConceptDictionary
from ...sae_models.formats import concept_files, native
from ...sae_models.identity import SAEIdentity
from ...sae_models.sae import SAEConfig, SparseAutoencoder
from ...training import checkpoint as training
from ...training.store import Contents, Writer
from .reading import BLOCK

WIDTH, FEATURES, LARGE = 32, 96, (1280, 5120)
PICTURES = ("png", "jpg", "webp", "tif", "bmp")


@dataclass(frozen=True)
class Specimen:
    """A file that can be changed.

    Attributes:
        name: for the report.
        kind: how it is read, see ``reading``.
        path: what the reader is given.
        target: what is changed: ``path`` itself or, in a folder, one of its files.
        checked: whether it carries checksums.
        weight: how often it is taken, beside the others.
    """

    name: str
    kind: str
    path: Path
    target: Path
    checked: bool = False
    weight: float = 1.0


def make(folder: Path) -> list[Specimen]:
    """Write one of each into a folder."""
    found = [*_own(folder), *_published(folder), *_training(folder), *_activations(folder), *_pictures(folder)]
    shipped = folder / "model.safetensors"
    shutil.copyfile(model.DEFAULT_PATH, shipped)
    found.append(Specimen("the demo model", "model", shipped, shipped, weight=0.2))
    return found


def _own(folder: Path) -> Iterator[Specimen]:
    """SAEs and a concept in the pack's own format."""
    for activation in ("topk", "jumprelu", "gated"):
        path = folder / f"{activation}.safetensors"
        native.save(path, _sae(activation, WIDTH, FEATURES), _dictionary(), {"licence": "none"})
        yield Specimen(f"own SAE, {activation}", "sae", path, path, checked=True, weight=6)
    plain = folder / "plain.safetensors"
    native.save(plain, _sae("topk", WIDTH, FEATURES, decoder=False), dtype=torch.float32)
    yield Specimen("own SAE without decoder and concepts", "sae", plain, plain, checked=True, weight=3)
    large = folder / "large.safetensors"
    native.save(large, _sae("topk", *LARGE), dtype=torch.float32)
    yield Specimen("own SAE, large", "sae", large, large, checked=True, weight=0.2)
    concept = folder / "concept.safetensors"
    named = replace(_dictionary().concepts["cat"], sae=SAEIdentity("x", "0" * 64), feature_names=((3, "whiskers"),))
    concept_files.save(concept, named, {"made": "here"})
    yield Specimen("concept", "concept", concept, concept, checked=True, weight=6)


def _sae(activation: str, width: int, features: int, decoder: bool = True) -> SparseAutoencoder:
    k = 6 if activation == "topk" else 0
    sae = SparseAutoencoder(SAEConfig(width, features, k, BLOCK, activation=activation), decoder)
    made = torch.Generator().manual_seed(width)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=made) / 10
    return sae.requires_grad_(False)


def _dictionary() -> ConceptDictionary:
    edges = (0.0, 500.0, 1000.0)
    band = ConceptBand((3, 17, 40), (0.1, 0.2, 0.3), (0.9, 0.8, 0.7), (1.0, 1.0, 2.0))
    concepts = {name: Concept(name, edges, (band, band)) for name in ("cat", "dog")}
    return ConceptDictionary(concepts, edges, torch.rand(2, FEATURES, generator=torch.Generator().manual_seed(1)))


def _published(folder: Path) -> Iterator[Specimen]:
    """SAEs as other libraries write them, each with its configuration."""
    sys.path.append(str(ROOT / "tests"))
    from support.sae_formats import CASES, write

    for number, case in enumerate(CASES):
        path = write(folder / f"published {number}", case)
        for target in sorted(path.iterdir()):
            yield Specimen(case, "sae", path, target, weight=0.5 if target.suffix == ".json" else 1.0)


def _training(folder: Path) -> Iterator[Specimen]:
    """What the SAE Trainer keeps."""
    store = folder / "store"
    writer = Writer(store, Contents(BLOCK, WIDTH, labels=("cat", "dog")), 10**9)
    writer.add(torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(2)), 500.0, [1, 0])
    writer.flush(1)
    (shard,) = store.glob("*.safetensors")
    yield Specimen("patch embeddings", "shard", shard, shard, weight=3)
    state = folder / "training.safetensors"
    training.save(state, {"weight": torch.ones(WIDTH, WIDTH), "step": torch.tensor(3)}, {"step": 3, "loss": [1.0, 0.5]})
    yield Specimen("training state", "training state", state, state, weight=3)


def _activations(folder: Path) -> Iterator[Specimen]:
    """Pickles as SAeUron publishes them."""
    made = np.random.default_rng(0)
    arrays = {name: made.random((2, 10, FEATURES)).astype(np.float16) for name in ("cat", "dog", "tree")}
    for protocol in (4, 5):
        path = folder / f"numpy {protocol}.pkl"
        path.write_bytes(pickle.dumps(arrays, protocol))
        yield Specimen(f"activations, numpy, protocol {protocol}", "activations", path, path, weight=3)
    path = folder / "torch.pkl"
    path.write_bytes(pickle.dumps({name: torch.from_numpy(array) for name, array in arrays.items()}))
    yield Specimen("activations, torch", "activations", path, path, weight=3)


def _pictures(folder: Path) -> Iterator[Specimen]:
    """Pictures of a folder to train on."""
    pixels = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for ending in PICTURES:
        path = folder / f"picture.{ending}"
        Image.fromarray(pixels).save(path)
        yield Specimen(f"picture, {ending}", "picture", path, path)
