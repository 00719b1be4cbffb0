"""The pack's own file format: one safetensors file that holds an SAE and, optionally, its concept dictionary.

Tensors: ``encoder.weight [L, D]``, ``encoder.bias [L]``, ``decoder_bias [D]``, ``decoder_weight [L, D]``, what the
activation needs (``threshold [L]``, ``gate_scale [L]``, ``gate_bias [L]``), and the dictionary's. Metadata:
``format``, ``config`` (SAEConfig as JSON), ``dictionary`` (JSON, may be absent), ``facts`` (JSON: licence, training
data, figures; for people), ``checksums`` (JSON, see ``checksums.py``; absent in older files).
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..concepts import ConceptDictionary
from ..sae import SAEConfig, SparseAutoencoder
from . import checksums
from .files import is_finite, require_plain, write_safetensors

FORMAT = "sae-concept-erasure/1"
ENCODER_KEYS = ("encoder.weight", "encoder.bias", "decoder_bias")
EXTRA_KEYS = {"jumprelu": ("threshold",), "gated": ("gate_scale", "gate_bias")}  # by activation
FLOATS = ("F16", "BF16", "F32", "F8_E4M3", "F8_E5M2")
TEXTS = ("format", "config", "dictionary", "facts")
DICTIONARY = "dictionary."  # what the names of a dictionary's tensors begin with
EIGHT_BITS = tuple(
    getattr(torch, f"float8_{kind}")
    for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")
    if hasattr(torch, f"float8_{kind}")
)
ANOTHER_FILE = "Choose another file, or download this one again."


class SAEFileError(ValueError):
    """A file that cannot be used as an SAE; the message names the file and the reason.

    Attributes:
        advice: what to do about it, a sentence.
    """

    def __init__(self, message: str, advice: str = ANOTHER_FILE) -> None:
        super().__init__(message)
        self.advice = advice


class SAEFile:
    """A native SAE file, of which only the header has been read.

    Args:
        path: the file.

    Attributes:
        said_block: empty: this format has blocks in ComfyUI's spelling only. See PublishedSAE.

    Raises:
        SAEFileError: it is missing, cut short, no safetensors file, not in this format, or inconsistent.
    """

    said_block = ""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            require_plain(self.path)
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                slices = {key: file.get_slice(key) for key in file.keys()}
                self._shapes = {key: (tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}
        except (OSError, SafetensorError) as error:
            raise SAEFileError(f"{self.path.name}: cannot be read as a safetensors file ({error})") from error
        if metadata.get("format") != FORMAT:
            raise SAEFileError(f"{self.path.name}: is no SAE file of this pack (its metadata lacks {FORMAT})")
        if "config" not in metadata:
            raise metadata_dropped(self.path.name)
        self._checksums = check_texts(self.path.name, metadata, TEXTS)
        if self._checksums and ("decoder" in self._checksums) != self.has_decoder:
            raise changed(self.path.name, "decoder")
        self.config = self._parse_config(metadata)
        self.facts: dict[str, Any] = self._json(metadata, "facts")
        self._dictionary_facts = self._json(metadata, "dictionary")
        self._check_shapes()

    def _json(self, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
        try:
            value = json.loads(metadata.get(key, "{}"))
        except (ValueError, RecursionError) as error:
            raise SAEFileError(f"{self.path.name}: metadata {key} is not JSON") from error
        if not isinstance(value, dict):
            raise SAEFileError(f"{self.path.name}: metadata {key} is not a JSON object")
        return value

    def _parse_config(self, metadata: Mapping[str, str]) -> SAEConfig:
        values = self._json(metadata, "config")
        known = {field.name for field in fields(SAEConfig)}
        try:
            return SAEConfig(**{key: as_whole(value) for key, value in values.items() if key in known})
        except (TypeError, ValueError) as error:
            raise SAEFileError(f"{self.path.name}: {error}") from error

    def _check_shapes(self) -> None:
        width, features = self.config.d_in, self.config.num_latents
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(self._encoder_keys(), (features,))
        expected |= {"encoder.weight": (features, width), "decoder_bias": (width,), "decoder_weight": (features, width)}
        for key, shape in expected.items():
            if key not in self._shapes:
                if key == "decoder_weight":
                    continue
                raise SAEFileError(f"{self.path.name}: tensor {key} is missing")
            found, dtype = self._shapes[key]
            if found != shape:
                raise SAEFileError(f"{self.path.name}: {key} has shape {found}, its config says {shape}")
            if dtype not in FLOATS:
                raise SAEFileError(f"{self.path.name}: {key} is {dtype}; expected one of {', '.join(FLOATS)}")

    def _encoder_keys(self) -> list[str]:
        """Return the tensors that detection needs."""
        return [*ENCODER_KEYS, *EXTRA_KEYS.get(self.config.activation, ())]

    def concept_names(self) -> list[str]:
        """Return the names of the concepts in the file, sorted, without reading any tensor."""
        concepts = self._dictionary_facts.get("concepts", {})
        return sorted(concepts) if isinstance(concepts, dict) else []

    def dictionary(self) -> ConceptDictionary:
        """Read the concept dictionary; an empty one if the file has none.

        Raises:
            SAEFileError: it is damaged, or names features that the SAE does not have.
        """
        if not self._dictionary_facts:
            return ConceptDictionary({})
        try:
            tensors = self.read([key for key in self._shapes if key.startswith(DICTIONARY)], "concepts")
            dictionary = ConceptDictionary.from_tensors(tensors, self._dictionary_facts)
        except SAEFileError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise SAEFileError(f"{self.path.name}: its concept dictionary is damaged ({error})") from error
        means = dictionary.feature_means
        if means is not None and not (means.is_floating_point() and means.shape[1] == self.config.num_latents):
            raise SAEFileError(f"{self.path.name}: dictionary.latent_means does not hold one number for each feature")
        for concept in dictionary.concepts.values():
            if concept.max_feature() >= self.config.num_latents:
                raise SAEFileError(f"{self.path.name}: concept {concept.name} uses a feature that the SAE lacks")
        return dictionary

    def read(self, keys: Collection[str], part: str) -> dict[str, Tensor]:
        """Read the tensors of one part of the file, each checked to hold numbers only.

        Args:
            keys: their names.
            part: the name of their checksum.

        Raises:
            SAEFileError: a tensor is missing, cannot be read, has NaN or infinity in it, or is not what was saved.
        """
        tensors = {}
        try:
            with safe_open(self.path, framework="pt") as file:
                for key in keys:
                    tensors[key] = file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise SAEFileError(f"{self.path.name}: {error}") from error
        if self._checksums and checksums.of_tensors(tensors) != self._checksums.get(part):
            raise changed(self.path.name, part)
        tensors = {key: widened(tensor) for key, tensor in tensors.items()}
        for key, tensor in tensors.items():
            require_finite(tensor, f"{self.path.name}: {key}")
        return tensors

    def load(self, operations: Any = torch.nn, dtype: torch.dtype | None = None) -> SparseAutoencoder:
        """Build the SAE with its encoder only.

        Args:
            operations: see SparseAutoencoder.
            dtype: dtype of the weights; None keeps the file's.
        """
        return assemble(self.config, self.read(self._encoder_keys(), "encoder"), self.path.name, operations, dtype)

    @property
    def has_decoder(self) -> bool:
        """Whether the file holds a decoder."""
        return "decoder_weight" in self._shapes

    def load_decoder(self, sae: SparseAutoencoder) -> None:
        """Read the decoder into an SAE that was loaded without it.

        Raises:
            SAEFileError: the file has no decoder.
        """
        if not self.has_decoder:
            raise SAEFileError(f"{self.path.name}: has no decoder; only detection and replacement work with it")
        weight = self.read(["decoder_weight"], "decoder")["decoder_weight"].to(sae.decoder_bias)
        sae.decoder_weight = torch.nn.Parameter(weight, requires_grad=False)


def metadata_dropped(name: str) -> SAEFileError:
    """Return what to say about a file of this pack that has lost its metadata."""
    return SAEFileError(
        f"{name}: was a file of this pack, but its metadata is gone: a program that converted, merged or saved it anew "
        "has dropped it. Without it nothing says how the SAE works and which block it reads",
        "Use the original file; to change its precision, load that one and use the node Save SAE.",
    )


def changed(name: str, part: str) -> SAEFileError:
    """Return what to say about a part of a file that does not have its checksum."""
    return SAEFileError(
        f"{name}: its bytes have changed since it was saved (the checksum of its {part} differs). It is damaged, or "
        "another program wrote into it",
        "Copy or download it again, or save it anew from the SAE or concept it was made from.",
    )


def check_texts(name: str, metadata: Mapping[str, str], texts: Collection[str]) -> dict[str, str]:
    """Check the metadata of one of the pack's own files; return the checksums that it states, possibly none.

    Raises:
        SAEFileError: it is not what was saved.
    """
    try:
        stated = checksums.stated(metadata)
    except (ValueError, RecursionError) as error:
        raise changed(name, checksums.TEXTS) from error
    if stated and checksums.of_texts(metadata, texts) != stated.get(checksums.TEXTS):
        raise changed(name, checksums.TEXTS)
    return stated


def as_whole(value: Any) -> Any:
    """Return 32 for 32.0, as some programs write whole numbers into JSON; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor of eight-bit floats as float16, which holds each of them exactly; any other as it is."""
    return tensor.to(torch.float16) if tensor.dtype in EIGHT_BITS else tensor


def require_finite(tensor: Tensor, name: str) -> None:
    """Check that a tensor holds numbers only.

    Raises:
        SAEFileError: it holds NaN or infinity.
    """
    if not is_finite(tensor):
        raise SAEFileError(f"{name} contains NaN or infinity; the file is damaged")


def assemble(
    config: SAEConfig, tensors: Mapping[str, Tensor], name: str, operations: Any, dtype: torch.dtype | None
) -> SparseAutoencoder:
    """Make an SAE out of its tensors; those of the right dtype are used as they are, mapped from the file or not.

    Args:
        config: of the SAE.
        tensors: by the names that the module has for them.
        name: of the file, for messages.
        operations: see SparseAutoencoder.
        dtype: of all weights; None keeps that of ``encoder.weight``.

    Raises:
        SAEFileError: a value is too large for the dtype, or the file is not the one that was opened.
    """
    dtype = dtype or tensors["encoder.weight"].dtype
    converted = {key: value.to(dtype).contiguous() for key, value in tensors.items()}
    for key, value in converted.items():
        if value is not tensors[key]:
            require_finite(value, f"{name}: {key}, as {dtype},")
    sae = SparseAutoencoder(config, operations=operations, device="meta", dtype=dtype)
    try:
        sae.load_state_dict(converted, assign=True)
    except RuntimeError as error:
        raise SAEFileError(f"{name}: changed on disk after it was opened") from error
    return sae.requires_grad_(False)


def save(
    path: str | Path,
    sae: SparseAutoencoder,
    dictionary: ConceptDictionary | None = None,
    facts: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float16,
) -> None:
    """Write an SAE, and its dictionary if there is one, in the native format.

    A file that is there already is replaced, but only when the new one is complete.

    Args:
        path: file to write; its folder is made.
        sae: with or without decoder.
        dictionary: concepts to store with it.
        facts: JSON-able licence and training facts.
        dtype: floating-point dtype of the weights; None keeps theirs.

    Raises:
        SAEFileError: a weight is too large for the dtype.
        OSError: the file cannot be written.
    """
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in sae.state_dict().items()}
    for key, tensor in tensors.items():
        require_finite(tensor, f"{Path(path).name}: {key}, as {tensor.dtype},")
    metadata = {"format": FORMAT, "config": json.dumps(asdict(sae.config)), "facts": json.dumps(facts or {})}
    decoder = {key: tensors[key] for key in tensors if key == "decoder_weight"}
    parts = {"encoder": {key: tensors[key] for key in tensors if key not in decoder}}
    if decoder:
        parts["decoder"] = decoder
    if dictionary is not None:
        parts["concepts"], dictionary_facts = dictionary.to_tensors()
        tensors.update(parts["concepts"])
        metadata["dictionary"] = json.dumps(dictionary_facts)
    sums = {checksums.TEXTS: checksums.of_texts(metadata, TEXTS)}
    sums |= {part: checksums.of_tensors(held) for part, held in parts.items()}
    metadata[checksums.KEY] = json.dumps(sums)
    write_safetensors(path, tensors, metadata)
