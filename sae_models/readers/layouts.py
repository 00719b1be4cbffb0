"""How the public libraries lay an SAE out: which tensor is what, and what their configuration means.

One function a format. Each looks at what the file holds (names, shapes, configuration), never at what it is called,
and returns None for a file of another format. The formulas are in docs/sae-formats.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


class Unsupported(ValueError):
    """The format is known, but this file uses something of it that cannot be run here; the message says what."""


@dataclass(frozen=True)
class Layout:
    """Where the parts of an SAE are in a file.

    Attributes:
        format: name of the format, for people.
        encoder, encoder_bias, decoder, decoder_bias: names of tensors; the decoder may be "" if there is none.
        encoder_transposed, decoder_transposed: whether they are stored [D, L] and [D, L] instead of [L, D].
        activation, k, center, normalize, reads: as in SAEConfig.
        threshold: tensor of jumprelu's thresholds, [L] or a single one; "" if there is none.
        threshold_is_log: whether exp() must be taken of it.
        gate_bias, gate_log_scale: tensors of a gated SAE.
        by_decoder_norm: whether a latent counts in units of its decoder direction's length.
    """

    format: str
    encoder: str
    encoder_bias: str
    decoder: str
    decoder_bias: str
    encoder_transposed: bool = False
    decoder_transposed: bool = False
    activation: str = "topk"
    k: int = 0
    center: bool = True
    normalize: str = "none"
    reads: str = "output"
    threshold: str = ""
    threshold_is_log: bool = False
    gate_bias: str = ""
    gate_log_scale: str = ""
    by_decoder_norm: bool = False
    notes: tuple[str, ...] = field(default=())


def whole_number(config: Mapping[str, Any], *keys: str) -> int:
    """Return the first of some keys that a configuration holds, as a number.

    Raises:
        Unsupported: none is there, or it is no whole number.
    """
    for key in keys:
        if key in config:
            value = config[key]
            if isinstance(value, bool) or not isinstance(value, int):
                raise Unsupported(f"its configuration says {key} = {value!r}, which is no whole number")
            return value
    raise Unsupported(f"its configuration does not say {keys[0]}")


def sparsify(shapes: Shapes, config: Mapping[str, Any]) -> Layout | None:
    """EleutherAI sparsify, and what was made with its fork: SAeUron, SAEmnesia, universal-diffsae."""
    if not {"encoder.weight", "encoder.bias", "b_dec"} <= set(shapes) or "W_dec" not in shapes:
        return None
    activation = config.get("activation", "topk")
    if activation not in ("topk", "groupmax"):
        raise Unsupported(f"its activation is {activation!r}; known are topk and groupmax")
    skips = bool(config.get("skip_connection")) or "W_skip" in shapes
    return Layout(
        "sparsify (SAeUron, SAEmnesia, universal-diffsae, EleutherAI)",
        "encoder.weight",
        "encoder.bias",
        # Detection does not need the skip connection, but the reconstruction would be wrong without.
        "" if skips else "W_dec",
        "b_dec",
        activation=activation,
        k=whole_number(config, "k"),
        center=not config.get("transcode", False),
        notes=("has a skip connection, so only detection and replacement work with it",) if skips else (),
    )


def pre_bias(shapes: Shapes, config: Mapping[str, Any]) -> Layout | None:
    """sdxl-unbox and G-SAE: a bias before the encoder and one on the latents."""
    found = [key.removesuffix("pre_bias") for key in shapes if key.endswith("pre_bias")]
    prefix = found[0] if len(found) == 1 else None
    if prefix is None or not {prefix + "encoder.weight", prefix + "latent_bias"} <= set(shapes):
        return None
    decoder = next((prefix + key for key in ("decoder.weight", "decoder.linear.weight") if prefix + key in shapes), "")
    common = (prefix + "encoder.weight", prefix + "latent_bias", decoder, prefix + "pre_bias")
    if prefix + "stats_last_nonzero" in shapes and "n_inputs" not in config:
        return Layout(
            "sdxl-unbox",
            *common,
            decoder_transposed=True,
            k=whole_number(config, "k"),
            reads="output_minus_input",
        )
    activation = str(config.get("activation", "TopK"))
    normalize = "layer_norm" if config.get("normalize") else "none"
    if prefix + "threshold" in shapes or activation.lower() == "jumprelu":
        return Layout(
            "G-SAE",
            *common,
            decoder_transposed=True,
            activation="jumprelu",
            normalize=normalize,
            threshold=prefix + "threshold",
            threshold_is_log=True,
        )
    return Layout(
        "G-SAE",
        *common,
        decoder_transposed=True,
        activation="topk_sigmoid",
        k=whole_number(config, "k"),
        normalize=normalize,
    )


def saelens(shapes: Shapes, config: Mapping[str, Any]) -> Layout | None:
    """SAELens, and dictionary_learning's JumpReLU, which has the same tensors."""
    if not {"W_enc", "W_dec", "b_dec"} <= set(shapes):
        return None
    gated = {"b_gate", "b_mag", "r_mag"} <= set(shapes)
    architecture = str(config.get("architecture", "gated" if gated else "jumprelu" if "threshold" in shapes else ""))
    activations = {
        "standard": "relu",
        "topk": "topk",
        "jumprelu": "jumprelu",
        "gated": "gated",
        "batchtopk": "jumprelu",
    }
    if architecture not in activations:
        raise Unsupported(f"its architecture is {architecture!r}; known are {', '.join(activations)}")
    treatments = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
    treatment = str(config.get("normalize_activations") or "none")
    if treatment not in treatments:
        raise Unsupported(f"it normalises inputs by {treatment!r}; known are {', '.join(treatments)}")
    activation = activations[architecture]
    return Layout(
        "SAELens",
        "W_enc",
        "b_mag" if gated else "b_enc",
        "W_dec",
        "b_dec",
        encoder_transposed=True,
        activation=activation,
        k=whole_number(config, "k") if activation == "topk" else 0,
        center=bool(config.get("apply_b_dec_to_input", True)),
        normalize=treatments[treatment],
        threshold="threshold" if activation == "jumprelu" else "",
        gate_bias="b_gate" if gated else "",
        gate_log_scale="r_mag" if gated else "",
        by_decoder_norm=bool(config.get("rescale_acts_by_decoder_norm", False)),
    )


def dictionary_learning(shapes: Shapes, config: Mapping[str, Any]) -> Layout | None:
    """dictionary_learning: AutoEncoder, TopK, BatchTopK and gated ones."""
    if not {"encoder.weight", "decoder.weight"} <= set(shapes):
        return None
    trainer = config.get("trainer")
    settings = trainer if isinstance(trainer, Mapping) else config
    kind = str(settings.get("dict_class", ""))
    decoder_bias = next((key for key in ("b_dec", "bias", "decoder_bias") if key in shapes), "")
    if not decoder_bias:
        return None
    parts = ("encoder.weight", "encoder.bias", "decoder.weight", decoder_bias)
    if {"r_mag", "gate_bias", "mag_bias"} <= set(shapes):
        return Layout(
            "dictionary_learning",
            "encoder.weight",
            "mag_bias",
            "decoder.weight",
            decoder_bias,
            decoder_transposed=True,
            activation="gated",
            gate_bias="gate_bias",
            gate_log_scale="r_mag",
        )
    if "threshold" in shapes and "BatchTopK" in kind:
        return Layout(
            "dictionary_learning",
            *parts,
            decoder_transposed=True,
            activation="jumprelu",
            threshold="threshold",
        )
    if "k" in settings and "BatchTopK" not in kind:
        return Layout("dictionary_learning", *parts, decoder_transposed=True, k=whole_number(settings, "k"))
    if kind not in ("AutoEncoder", ""):
        raise Unsupported(f"its class is {kind!r}; known are AutoEncoder, AutoEncoderTopK, BatchTopKSAE and gated ones")
    return Layout("dictionary_learning", *parts, decoder_transposed=True, activation="relu")


RECOGNISERS: tuple[Callable[[Shapes, Mapping[str, Any]], Layout | None], ...] = (
    sparsify,
    pre_bias,
    saelens,
    dictionary_learning,
)
