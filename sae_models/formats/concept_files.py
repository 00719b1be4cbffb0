"""Concepts as files of their own: a few kilobytes that name the SAE they belong to.

A concept file is a safetensors file. Its tensors are those of a dictionary with one concept (see ``native.py``); its
metadata are ``format``, ``dictionary`` and ``checksums`` (as in an SAE file) and ``concept``, a JSON object: ``sae``
(name and digest of the SAE), ``latent_names`` (index -> what people call it) and ``facts`` (for people).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..concepts import Concept, ConceptDictionary
from ..identity import SAEIdentity
from . import checksums, native
from .files import require_plain, write_safetensors
from .native import SAEFileError, require_finite

FORMAT = "sae-concept/1"
MAX_BYTES = 16 * 2**20  # a concept that uses a hundred thousand features in ten bands
MAX_NAME = 100
TEXTS = ("format", "dictionary", "concept")


@dataclass(frozen=True)
class StoredConcept:
    """What a concept file holds.

    Attributes:
        concept: with the SAE it belongs to and the names of its features.
        facts: how it was made, for people.
    """

    concept: Concept
    facts: Mapping[str, Any] = field(default_factory=dict)


def save(path: str | Path, concept: Concept, facts: Mapping[str, Any] | None = None) -> None:
    """Write a concept file; one that is there is replaced, but only when the new one is complete.

    Raises:
        ValueError: the concept does not say which SAE it belongs to.
        OSError: the file cannot be written.
    """
    if concept.sae is None:
        raise ValueError(f"the concept '{concept.name}' does not say which SAE it belongs to")
    tensors, dictionary = ConceptDictionary({concept.name: concept}, concept.band_edges).to_tensors()
    about = {
        "sae": {"name": concept.sae.name, "digest": concept.sae.digest},
        "latent_names": {str(index): name for index, name in concept.feature_names},
        "facts": dict(facts or {}),
    }
    metadata = {"format": FORMAT, "dictionary": json.dumps(dictionary), "concept": json.dumps(about)}
    sums = {checksums.TEXTS: checksums.of_texts(metadata, TEXTS), "concepts": checksums.of_tensors(tensors)}
    metadata[checksums.KEY] = json.dumps(sums)
    write_safetensors(path, tensors, metadata)


def load(path: str | Path) -> StoredConcept:
    """Read a concept file.

    Raises:
        SAEFileError: it is missing, damaged, too large, or holds something else.
    """
    path = Path(path)
    try:
        require_plain(path)
        if path.stat().st_size > MAX_BYTES:
            raise SAEFileError(f"{path.name}: is larger than any concept file ({MAX_BYTES // 2**20} MB)")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise _not_ours(path.name, metadata, file.keys())
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise SAEFileError(f"{path.name}: cannot be read as a safetensors file ({error})") from error
    stated = native.check_texts(path.name, metadata, TEXTS)
    if stated and checksums.of_tensors(tensors) != stated.get("concepts"):
        raise native.changed(path.name, "concepts")
    for key, tensor in tensors.items():
        require_finite(tensor, f"{path.name}: {key}")
    try:
        (concept,) = ConceptDictionary.from_tensors(tensors, json.loads(metadata["dictionary"])).concepts.values()
        about = json.loads(metadata["concept"])
        owner, names = _owner(about["sae"]), _feature_names(about["latent_names"])
        return StoredConcept(replace(concept, sae=owner, feature_names=names), dict(about.get("facts", {})))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SAEFileError(f"{path.name}: the concept in it is damaged ({error})") from error


def _not_ours(name: str, metadata: Mapping[str, str], keys: Iterable[str]) -> SAEFileError:
    """Return what to say about a file that is not in this format."""
    if metadata.get("format", "").startswith(native.FORMAT.partition("/")[0]):
        return SAEFileError(f"{name}: is an SAE and no concept", "Move it into models/sae, for the SAE Loader.")
    if any(key.startswith(native.DICTIONARY) for key in keys):
        return SAEFileError(
            f"{name}: was a concept file, but its metadata is gone: a program that saved it anew has dropped it",
            "Use the original file, or save the concept again.",
        )
    return SAEFileError(f"{name}: is no concept file (its metadata lacks {FORMAT})", "Choose another file.")


def _owner(about: Mapping[str, Any]) -> SAEIdentity:
    name, digest = about["name"], about["digest"]
    if not (isinstance(name, str) and isinstance(digest, str) and len(digest) == 64):
        raise ValueError("the SAE's name or digest is no text, or too short")
    return SAEIdentity(name[:MAX_NAME], digest)


def _feature_names(about: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    if not all(isinstance(name, str) and len(name) <= MAX_NAME for name in about.values()):
        raise ValueError("a feature's name is no text, or too long")
    return tuple(sorted((int(index), name) for index, name in about.items()))


def parse_feature_names(text: str) -> tuple[tuple[int, str], ...]:
    """Read names that a person gave to features: one a line, such as ``17: whiskers``; empty lines are skipped.

    Raises:
        ValueError: a line has another form, a name is too long, or a feature is named twice.
    """
    names: dict[int, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        index, colon, name = line.partition(":")
        if not (colon and index.strip().isdecimal() and name.strip()):
            raise ValueError(f"'{line}' does not look like '17: whiskers'")
        if len(name.strip()) > MAX_NAME:
            raise ValueError(f"the name of feature {index.strip()} is longer than {MAX_NAME} letters")
        if int(index) in names:
            raise ValueError(f"feature {index.strip()} has two names")
        names[int(index)] = name.strip()
    return tuple(sorted(names.items()))


def describe(concept: Concept) -> str:
    """Return a concept in words, for the text below a node: bands, features, their names, its SAE."""
    used = concept.features()
    named = dict(concept.feature_names)
    listed = ", ".join(f"{i} ({named[i]})" if i in named else str(i) for i in used[:40])
    more = f" and {len(used) - 40} more" if len(used) > 40 else ""
    empty = sum(not band.features for band in concept.bands)
    silent = f" In {empty} of them it finds nothing." if empty else ""
    return (
        f"'{concept.name}': {len(used)} features in {len(concept.bands)} timestep bands.{silent} "
        f"Features: {listed or 'none'}{more}. Made for {concept.sae or 'an unknown SAE'}."
    )
