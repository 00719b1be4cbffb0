"""An SAE in a format of another library, read as if it were one of ours."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..concepts import ConceptDictionary
from ..hookpoints import find, inside, said
from ..sae import SAEConfig, SparseAutoencoder
from .files import is_safetensors
from .layouts import RECOGNISERS, Layout, Unsupported, check_sizes
from .native import DICTIONARY, ENCODER_KEYS, SAEFileError, assemble, metadata_dropped, require_finite
from .tensors import TensorFile

CONFIG_FILES = ("cfg.json", "config.json")
WEIGHT_FILES = ("sae.safetensors", "sae_weights.safetensors", "state_dict.pth", "ae.pt")
MAX_CONFIG = 2**20  # bytes
BLOCK_KEYS = ("hookpoint", "hook_name", "hook_point", "submodule_name")
CHOOSE_BLOCK = "Choose the block at 'hookpoint'; the page you downloaded the SAE from names it."


class PublishedSAE:
    """An SAE file, or folder of configuration and weights, of another library; only headers have been read.

    Args:
        path: the file or the folder.
        hookpoint: the block it reads, if the artist chose one; else it must be named in the configuration, the
            metadata or the path.
        inside: the folder that the path is listed in; only what lies below it may name the block.

    Attributes:
        said_block: the block as the file calls it, where that is in diffusers' spelling; else "".

    Raises:
        SAEFileError: it is damaged, of no known format, or does not say which block it reads.
    """

    def __init__(self, path: Path, hookpoint: str = "", inside: Path | None = None) -> None:
        self.path = path
        weights, configuration = parts_of(path)
        self._tensors = TensorFile(weights)
        settings = self._settings(configuration)
        self.layout = self._recognise(settings, configuration)
        self.facts: dict[str, Any] = {"format": self.layout.format, "notes": list(self.layout.notes)}
        below = path.relative_to(inside) if inside and path.is_relative_to(inside) else Path(path.name)
        self._require_whole_block(hookpoint, settings, below)
        naming = hookpoint or block_text(settings) or below.as_posix()
        self.said_block = said(naming)
        self.config = self._config(settings, hookpoint or find(naming))

    def _settings(self, configuration: Path | None) -> dict[str, Any]:
        """Return the configuration: of its own file, else of the weights' metadata."""
        if configuration is None:
            nested = {key.rpartition(".")[2]: value for key, value in self._tensors.metadata.items()}
            return {key: value for key, value in nested.items() if isinstance(value, (str, int, float, bool))}
        try:
            if configuration.stat().st_size > MAX_CONFIG:
                raise SAEFileError(f"{configuration.name}: is larger than any configuration")
            # Of bytes, it finds out the encoding by itself: UTF-8 or UTF-16, with a byte-order mark or without.
            value = json.loads(configuration.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise SAEFileError(f"{configuration.name}: cannot be read as JSON ({error})") from error
        if not isinstance(value, dict):
            raise SAEFileError(f"{configuration.name}: is not a JSON object")
        inner = value.get("sae")
        return {**value, **inner} if isinstance(inner, dict) else value

    def _require_whole_block(self, hookpoint: str, settings: Mapping[str, Any], below: Path) -> None:
        """Refuse an SAE of a module inside a block, whatever the artist chose: the block's output is something else."""
        module = inside(hookpoint) or inside(block_text(settings)) or inside(below.as_posix(), path=True)
        if module:
            raise SAEFileError(
                f"{self.path.name}: reads {module}, which is no whole transformer block. Only blocks such as "
                "up_blocks.1.attentions.1 can be read, and what lies inside one gives other numbers",
                "Use an SAE that was trained on the output of a block. If only its file is called so, rename that.",
            )

    def _recognise(self, settings: Mapping[str, Any], configuration: Path | None) -> Layout:
        shapes = self._tensors.shapes
        if set(ENCODER_KEYS) <= set(shapes):
            raise metadata_dropped(self.path.name)
        if shapes and all(key.startswith(DICTIONARY) for key in shapes):
            raise SAEFileError(
                f"{self.path.name}: is a concept and no SAE",
                "Move it into models/sae/concepts; the Concept Detector lists it then.",
            )
        try:
            for recogniser in RECOGNISERS:
                layout = recogniser(shapes, settings)
                if layout is not None:
                    return layout
        except Unsupported as error:
            if error.advice:
                raise SAEFileError(f"{self.path.name}: {error}", error.advice) from error
            if configuration is None:
                weights = self._tensors.path
                missing = CONFIG_FILES[0] if is_safetensors(weights) else CONFIG_FILES[1]
                raise SAEFileError(
                    f"{self.path.name}: {missing} is missing beside it, which says how this SAE works",
                    f"Download {missing} from where {weights.name} came from, and put it into the same folder.",
                ) from error
            raise SAEFileError(f"{self.path.name}: {error}") from error
        held = ", ".join(sorted(shapes)[:12]) or "none"
        raise SAEFileError(f"{self.path.name}: is an SAE of no known format (its tensors: {held})")

    def _config(self, settings: Mapping[str, Any], hookpoint: str) -> SAEConfig:
        """Check shapes against each other and the configuration, and return ours."""
        layout, shapes = self.layout, self._tensors.shapes
        bias = shapes.get(layout.encoder_bias, ())
        # What has no bias of its decoder says by the encoder how wide it is.
        center = shapes.get(layout.decoder_bias, ()) if layout.decoder_bias else shapes.get(layout.encoder, ())[-1:]
        if len(bias) != 1 or len(center) != 1:
            raise SAEFileError(
                f"{self.path.name}: {layout.encoder_bias} or {layout.decoder_bias} is missing or has a wrong shape"
            )
        features, width = bias[0], center[0]
        self._expect(layout.encoder, (features, width), layout.encoder_transposed)
        if layout.decoder:
            self._expect(layout.decoder, (features, width), layout.decoder_transposed)
        for key in (layout.gate_bias, layout.gate_log_scale):
            if key:
                self._expect(key, (features,), False)
        if layout.threshold and shapes.get(layout.threshold, (0,)) not in ((), (1,), (features,)):
            raise SAEFileError(f"{self.path.name}: {layout.threshold} is neither one number nor one for each feature")
        if not hookpoint:
            raise SAEFileError(
                f"{self.path.name}: does not say which block of the model it reads (one with {width} channels)",
                CHOOSE_BLOCK,
            )
        try:
            check_sizes(settings, width, features)
            return SAEConfig(
                width,
                features,
                layout.k,
                hookpoint,
                layout.reads,
                layout.activation,
                center=layout.center,
                normalize=layout.normalize,
            )
        except ValueError as error:
            raise SAEFileError(f"{self.path.name}: {error}") from error

    def _expect(self, key: str, shape: tuple[int, ...], transposed: bool) -> None:
        stored = shape[::-1] if transposed else shape
        found = self._tensors.shapes.get(key)
        if found != stored:
            raise SAEFileError(f"{self.path.name}: {key} has shape {found}; its biases say {stored}")

    def concept_names(self) -> list[str]:
        """Return nothing: these formats hold no concepts."""
        return []

    def dictionary(self) -> ConceptDictionary:
        """Return an empty dictionary."""
        return ConceptDictionary({})

    def load(self, operations: Any = torch.nn, dtype: torch.dtype | None = None) -> SparseAutoencoder:
        """Build the SAE with its encoder only.

        Args:
            operations: see SparseAutoencoder.
            dtype: dtype of the weights; None keeps the file's.

        Raises:
            SAEFileError: a tensor cannot be read or holds NaN.
        """
        layout, read = self.layout, self._tensors.read
        weight, bias = self._matrix(layout.encoder, layout.encoder_transposed), read(layout.encoder_bias)
        dtype = dtype or (weight.dtype if weight.dtype != torch.float64 else torch.float32)
        center = read(layout.decoder_bias) if layout.decoder_bias else bias.new_zeros(self.config.d_in)
        tensors = {"encoder.weight": weight, "encoder.bias": bias, "decoder_bias": center}
        if layout.by_decoder_norm:
            norms = self._decoder().norm(dim=1)
            tensors |= {"encoder.weight": weight.mul_(norms[:, None]), "encoder.bias": bias * norms}
        if layout.threshold:
            raw = read(layout.threshold)
            tensors["threshold"] = (raw.exp() if layout.threshold_is_log else raw).expand(self.config.num_latents)
        if layout.threshold_value is not None:
            limit = torch.full((self.config.num_latents,), layout.threshold_value)
            # Ours must be exceeded, theirs only be reached.
            tensors["threshold"] = torch.nextafter(limit, torch.zeros(()))
        if layout.gate_bias:
            tensors["gate_bias"] = read(layout.gate_bias)
            tensors["gate_scale"] = read(layout.gate_log_scale).exp()
        # Rows of a feature lie together then, whatever the file does: detection picks rows.
        return assemble(self.config, tensors, self.path.name, operations, dtype)

    @property
    def has_decoder(self) -> bool:
        """Whether the file holds a decoder that can be used."""
        return bool(self.layout.decoder)

    def load_decoder(self, sae: SparseAutoencoder) -> None:
        """Read the decoder into an SAE that was loaded without it.

        Raises:
            SAEFileError: the file has none that can be used.
        """
        if not self.has_decoder:
            reason = "; ".join(self.layout.notes) or "has no decoder; only detection and replacement work with it"
            raise SAEFileError(f"{self.path.name}: {reason}")
        weight = self._decoder()
        if self.layout.by_decoder_norm:
            weight = weight.div_(weight.norm(dim=1, keepdim=True))
        weight = weight.to(sae.decoder_bias).contiguous()
        require_finite(weight, f"{self.path.name}: its decoder, as {weight.dtype},")
        sae.decoder_weight = torch.nn.Parameter(weight, requires_grad=False)

    def _decoder(self) -> Tensor:
        weight = self._matrix(self.layout.decoder, self.layout.decoder_transposed)
        if self.layout.decoder_log_scale:
            weight = weight / weight.norm(dim=1, keepdim=True) * self._tensors.read(self.layout.decoder_log_scale).exp()
        return weight

    def _matrix(self, key: str, transposed: bool) -> Tensor:
        """Read a matrix, mapped from the file unless it is stored otherwise or will be scaled in its place."""
        if transposed or self.layout.by_decoder_norm:
            return self._tensors.read_copy(key, transposed)
        return self._tensors.read(key)


def block_text(settings: Mapping[str, Any]) -> str:
    """Return the setting in which a configuration names a module of the UNet; "" if it names none."""
    places = [settings, settings.get("metadata"), settings.get("trainer")]
    texts = [place.get(key) for place in places if isinstance(place, Mapping) for key in BLOCK_KEYS]
    return next((text for text in texts if isinstance(text, str) and (find(text) or inside(text))), "")


def parts_of(path: Path) -> tuple[Path, Path | None]:
    """Return the weights and the configuration of an SAE, given its folder or its weights.

    Names count in capitals too.

    Raises:
        SAEFileError: a folder holds no weights under a known name, or cannot be read.
    """
    try:
        folder = path if path.is_dir() else path.parent
        configuration = _first(folder, CONFIG_FILES)
        weights = path if path.is_file() else _first(path, WEIGHT_FILES)
    except OSError as error:
        raise SAEFileError(f"{path.name}: cannot be read ({error})") from error
    if weights is None:
        raise SAEFileError(f"{path.name}: holds none of {', '.join(WEIGHT_FILES)}")
    return weights, configuration


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some files that a folder has, in capitals if not as they are; None if it has none."""
    exact = next((folder / name for name in names if (folder / name).is_file()), None)
    if exact is not None:
        return exact
    with suppress(OSError):  # a folder that may be entered need not be one that may be listed
        found = {entry.name.lower(): entry for entry in folder.iterdir() if entry.name.lower() in names}
        return next((found[name] for name in names if name in found and found[name].is_file()), None)
    return None
