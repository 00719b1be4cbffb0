"""How the public libraries lay an SAE out: which tensor is what, and what their configuration means.

One function a format. Each looks at what the file holds (names, shapes, configuration), never at what it is called,
and returns None for a file of another format. The formulas are in docs/sae-formats.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .native import as_whole

Shapes = Mapping[str, tuple[int, ...]]


class Unsupported(ValueError):
    """The format is known, but this file uses something of it that cannot be run here; the message says what.

    Args:
        message: what.
        advice: what to do about it; "" where only another file helps, or the configuration that is missing.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


@dataclass(frozen=True)
class Layout:
    """Where the parts of an SAE are in a file.

    Attributes:
        format: name of the format, for people.
        encoder, encoder_bias, decoder, decoder_bias: names of tensors; those of the decoder may be "" if there is none.
        encoder_transposed, decoder_transposed: whether they are stored [D, L] and [D, L] instead of [L, D].
        activation, k, center, normalize, reads: as in SAEConfig.
        threshold: tensor of jumprelu's thresholds, [L] or a single one; "" if there is none.
        threshold_is_log: whether exp() must be taken of it.
        threshold_value: jumprelu's threshold where no tensor holds it.
        gate_bias, gate_log_scale: tensors of a gated SAE.
        by_decoder_norm: whether a feature counts in units of its decoder direction's length.
        decoder_log_scale: tensor [] whose exp() the decoder's directions, brought to length one, are multiplied by.
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
    threshold_value: float | None = None
    gate_bias: str = ""
    gate_log_scale: str = ""
    by_decoder_norm: bool = False
    decoder_log_scale: str = ""
    notes: tuple[str, ...] = field(default=())


def whole_number(config: Mapping[str, Any], *keys: str) -> int:
    """Return the first of some keys that a configuration holds, as a number.

    Raises:
        Unsupported: none is there, or it is no whole number.
    """
    for key in keys:
        if key in config:
            value = as_whole(config[key])
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
    if config.get("signed"):
        raise Unsupported("its features may be negative (signed), which cannot be run here")
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
        normalize="layer_norm" if config.get("input_unit_norm") else "none",
        notes=("has a skip connection, so only detection and replacement work with it",) if skips else (),
    )


def pre_bias(shapes: Shapes, config: Mapping[str, Any]) -> Layout | None:
    """sdxl-unbox and G-SAE: a bias before the encoder and one on the features."""
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
    activation = str(config.get("activation", "TopK")).lower()
    if activation not in ("topk", "jumprelu"):
        raise Unsupported(f"its activation is {activation!r}; known are topk and jumprelu")
    normalize = "layer_norm" if config.get("normalize") else "none"
    if prefix + "threshold" in shapes or activation == "jumprelu":
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


ARCHITECTURES = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "jumprelu",
}
TREATMENTS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}


def saelens(shapes: Shapes, config: Mapping[str, Any]) -> Layout | None:
    """SAELens: the encoder is stored transposed; an old configuration may hide TopK behind ``standard``."""
    if not {"W_enc", "W_dec", "b_dec"} <= set(shapes) or dict_class(config):
        return None
    gated = {"b_gate", "b_mag", "r_mag"} <= set(shapes)
    guess = "gated" if gated else "standard" if "d_sae" in config and "threshold" not in shapes else ""
    architecture = str(config.get("architecture", guess))
    if (architecture == "gated") != gated:
        raise Unsupported(f"its architecture {architecture!r} does not fit its tensors")
    if architecture not in ARCHITECTURES:
        raise Unsupported(f"its architecture is {architecture!r}; known are {', '.join(ARCHITECTURES)}")
    treatment = str(config.get("normalize_activations") or "none")
    if treatment not in TREATMENTS:
        raise Unsupported(f"it normalises inputs by {treatment!r}; known are {', '.join(TREATMENTS)}")
    if config.get("finetuning_scaling_factor"):
        raise Unsupported("it has a fine-tuning factor, which cannot be run here")
    activation, settings = ARCHITECTURES[architecture], config
    function = str(config.get("activation_fn", config.get("activation_fn_str", "relu")))
    options = config.get("activation_fn_kwargs")
    if function == "topk" and isinstance(options, Mapping):
        activation, settings = "topk", options
    elif function not in ("relu", "topk"):
        raise Unsupported(f"its activation is {function!r}; known are relu and topk")
    return Layout(
        "SAELens",
        "W_enc",
        "b_mag" if gated else "b_enc",
        "W_dec",
        "b_dec",
        encoder_transposed=True,
        activation=activation,
        k=whole_number(settings, "k") if activation == "topk" else 0,
        center=bool(config.get("apply_b_dec_to_input", True)),
        normalize=TREATMENTS[treatment],
        threshold="threshold" if activation == "jumprelu" else "",
        gate_bias="b_gate" if gated else "",
        gate_log_scale="r_mag" if gated else "",
        # The library knows the setting for TopK alone.
        by_decoder_norm=activation == "topk" and bool(config.get("rescale_acts_by_decoder_norm", False)),
    )


def dict_class(config: Mapping[str, Any]) -> str:
    """Return the class of dictionary_learning that a configuration names; "" if it is another library's."""
    trainer = config.get("trainer")
    return str((trainer if isinstance(trainer, Mapping) else config).get("dict_class", ""))


def dictionary_learning(shapes: Shapes, config: Mapping[str, Any]) -> Layout | None:
    """dictionary_learning: its class decides, since TopK and BatchTopK have the same tensors."""
    kind = dict_class(config)
    if {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"} <= set(shapes) and kind:
        if kind not in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
            raise Unsupported(f"its class {kind!r} does not fit its tensors")
        return Layout(
            "dictionary_learning",
            "W_enc",
            "b_enc",
            "W_dec",
            "b_dec",
            encoder_transposed=True,
            activation="jumprelu",
            center=kind == "MatryoshkaBatchTopKSAE",
            threshold="threshold",
        )
    if not {"encoder.weight", "decoder.weight"} <= set(shapes):
        return None
    if {"r_mag", "gate_bias", "mag_bias", "decoder_bias"} <= set(shapes):
        return Layout(
            "dictionary_learning",
            "encoder.weight",
            "mag_bias",
            "decoder.weight",
            "decoder_bias",
            decoder_transposed=True,
            activation="gated",
            gate_bias="gate_bias",
            gate_log_scale="r_mag",
        )
    if "bias" in shapes:
        # The library brings an AutoEncoder's decoder to length one as it loads it, and its features with it.
        parts = ("encoder.weight", "encoder.bias", "decoder.weight", "bias")
        return Layout("dictionary_learning", *parts, decoder_transposed=True, activation="relu", by_decoder_norm=True)
    if "b_dec" not in shapes:
        return None
    parts = ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec")
    if kind == "AutoEncoderTopK":
        trainer = config.get("trainer", config)
        return Layout("dictionary_learning", *parts, decoder_transposed=True, k=whole_number(trainer, "k"))
    if kind == "BatchTopKSAE":
        return Layout(
            "dictionary_learning", *parts, decoder_transposed=True, activation="jumprelu", threshold="threshold"
        )
    raise Unsupported(
        f"its class is {kind or 'not named'}; known are AutoEncoder, AutoEncoderTopK, BatchTopKSAE, "
        "MatryoshkaBatchTopKSAE, JumpReluAutoEncoder and GatedAutoEncoder. Its config.json must lie beside it"
    )


TOP_K, BATCH_TOP_K, PLAIN = "TopKSAE", "BatchTopKSAE", "SAE"
WRITE_IT = (
    'Write a text file config.json beside it with what its authors say, such as {"sae_class": "TopKSAE", "top_k": 32}; '
    'for BatchTopKSAE also its "running_threshold".'
)


def overcomplete(shapes: Shapes, config: Mapping[str, Any]) -> Layout | None:
    """Overcomplete: weights alone, as its modules hold them. Only JumpSAE's tell what becomes of them."""
    dictionary = "dictionary._weights"
    if dictionary not in shapes:
        return None
    encoder = ("encoder.final_block.0.weight", "encoder.final_block.0.bias")
    others = [key for key in shapes if key.startswith("encoder.") and key not in encoder]
    if others or not set(encoder) <= set(shapes) or "dictionary.multiplier" not in shapes:
        raise Unsupported("its encoder or its dictionary is of another kind than Overcomplete's usual ones")
    parts = ("overcomplete", *encoder, dictionary, "")

    def layout(activation: str, **more: Any) -> Layout:
        scale = "dictionary.multiplier"
        return Layout(*parts, activation=activation, center=False, decoder_log_scale=scale, **more)

    if "thresholds" in shapes:
        return layout("jumprelu", threshold="thresholds", threshold_is_log=True)
    kind = str(config.get("sae_class", TOP_K if "top_k" in config else ""))
    if kind == TOP_K:
        return layout("topk", k=whole_number(config, "top_k", "k"))
    if kind == PLAIN:
        return layout("relu")
    if kind == BATCH_TOP_K:
        threshold = config.get("running_threshold")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not threshold >= 0:
            raise Unsupported("a BatchTopKSAE keeps its threshold outside of its weights", WRITE_IT)
        return layout("jumprelu", threshold_value=float(threshold))
    raise Unsupported(
        f"its weights do not say which kind of SAE of Overcomplete it is ({TOP_K}, {BATCH_TOP_K} or {PLAIN})", WRITE_IT
    )


WIDTHS = ("d_in", "d_model", "n_inputs", "activation_dim")
COUNTS = ("num_latents", "n_dirs_local", "d_sae", "dict_size")


def check_sizes(config: Mapping[str, Any], width: int, features: int) -> None:
    """Check the sizes that tensors have against those that a configuration states; a size of 0 is none.

    Raises:
        Unsupported: they differ.
    """
    trainer = config.get("trainer")
    for part in (config, trainer if isinstance(trainer, Mapping) else {}):
        for keys, found in ((WIDTHS, width), (COUNTS, features)):
            for key in keys:
                if part.get(key) and part[key] != found:
                    raise Unsupported(f"its tensors say {found}, its configuration says {key} = {part[key]!r}")


RECOGNISERS: tuple[Callable[[Shapes, Mapping[str, Any]], Layout | None], ...] = (
    sparsify,
    pre_bias,
    saelens,
    dictionary_learning,
    overcomplete,
)
