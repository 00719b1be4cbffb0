"""What arrives at a node, checked against the node's own inputs before it runs.

ComfyUI holds what is typed into a widget against its limits. What comes by a link it passes on as it is.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..erasure.detection import DetectionTree
from ..erasure.history import ErasureRecord
from ..sae_models.concepts import Concept
from ..sae_models.loaded import LoadedSAE

P = ParamSpec("P")
Node = TypeVar("Node", bound=type[io.ComfyNode])

# How much of a value, and how many choices, a message repeats.
MOST_SHOWN = 80
MOST_OPTIONS = 60
MOST_BITS = 128
START, END = "start_percent", "end_percent"


class FileChoice(io.Combo.Input):
    """A choice of a file. The node looks for the file itself: it may be newer than the list."""


class Socket(NamedTuple):
    """What may arrive by a link alone.

    Attributes:
        fits: whether an object is of the kind.
        wanted: the kind, and where it comes from.
    """

    fits: Callable[[Any], bool]
    wanted: str


def _has(*methods: str, lacks: str = "") -> Callable[[Any], bool]:
    """Return a test for an object of the host, which other packs may have made themselves."""
    return lambda value: (
        all(callable(getattr(value, method, None)) for method in methods) and not (lacks and hasattr(value, lacks))
    )


def _is(kind: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _is_image(value: Any) -> bool:
    tensor = isinstance(value, torch.Tensor) and value.is_floating_point()
    return tensor and value.ndim == 4 and value.shape[-1] in (3, 4) and value.numel() > 0


def _is_mask(value: Any) -> bool:
    # A node that takes masks says more of a shape that it cannot use.
    return isinstance(value, torch.Tensor) and not value.is_complex()


def _is_latent(value: Any) -> bool:
    samples: Any = value.get("samples") if isinstance(value, dict) else None
    tensor = isinstance(samples, torch.Tensor) and samples.is_floating_point()
    return tensor and samples.ndim == 4 and samples.numel() > 0


def _is_conditioning(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_prompt, value))


def _is_prompt(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return pair and isinstance(value[0], torch.Tensor) and isinstance(value[1], dict)


SOCKETS = {
    "MODEL": Socket(_is(ModelPatcher), "a MODEL, as a checkpoint loader gives it"),
    "CLIP": Socket(_has("tokenize", "encode_from_tokens_scheduled"), "a CLIP, as a checkpoint loader gives it"),
    # A CLIP of ComfyUI 0.33 has both methods too.
    "VAE": Socket(_has("encode", "decode", lacks="tokenize"), "a VAE, as a checkpoint loader or Load VAE gives it"),
    "CONDITIONING": Socket(_is_conditioning, "a CONDITIONING, as CLIP Text Encode gives it"),
    "IMAGE": Socket(_is_image, "an IMAGE, as VAE Decode or Load Image gives it"),
    "MASK": Socket(_is_mask, "a MASK, as Load Image gives it"),
    "LATENT": Socket(_is_latent, "a LATENT of still images, as Empty Latent Image or a KSampler gives it"),
    "SAE": Socket(_is(LoadedSAE), "an SAE, as the SAE Loader gives it"),
    "CONCEPT": Socket(_is(Concept), "a CONCEPT, as a Concept Detector or Load Concept gives it"),
    "DETECTION": Socket(_is(DetectionTree), "a DETECTION, as a Concept Detector or a Mask Refiner gives it"),
    "ERASURE_RECORD": Socket(_is(ErasureRecord), "the record of a Patch Replacer or of Feature Steering"),
}


def checked(
    execute: Callable[Concatenate[Node, P], io.NodeOutput],
) -> Callable[Concatenate[Node, P], io.NodeOutput]:
    """Make a node refuse values that its inputs do not allow; numbers of numpy become Python's.

    Raises:
        ValueError: by the node, for a value that is of the wrong type, NaN, infinite, outside the limits or no option,
            and for a range that ends before it starts. The message names node and input.
    """
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def run(cls: Node, *args: P.args, **kwargs: P.kwargs) -> io.NodeOutput:
        schema = cls.define_schema()
        given = signature.bind(cls, *args, **kwargs)
        for spec in schema.inputs:
            if spec.id not in given.arguments:
                continue
            value = given.arguments[spec.id]
            if value is None and signature.parameters[spec.id].default is None:
                continue
            given.arguments[spec.id] = _accepted(schema.display_name, spec, value)
        _check_range(schema.display_name, given.arguments)
        return execute(*given.args, **given.kwargs)

    return run


def _check_range(node: str, values: dict[str, Any]) -> None:
    start, end = values.get(START, 0.0), values.get(END, 1.0)
    if start > end:
        raise ValueError(
            f"{node}: input '{START}' ({start}) is after '{END}' ({end}). Make the start smaller than the end."
        )


def _accepted(node: str, spec: io.Input, value: Any) -> Any:
    """Return the value that a node gets.

    Raises:
        ValueError: the input does not allow it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(spec, io.Boolean.Input):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(spec, io.Int.Input):
        fits, wanted = _is_whole(value) and _is_within(value, spec), f"a whole number{_limits(spec)}"
    elif isinstance(spec, io.Float.Input):
        fits, wanted = _is_number(value) and _is_within(value, spec), f"a number{_limits(spec)}"
        value = float(value) if fits else value
    elif isinstance(spec, FileChoice):
        fits, wanted = isinstance(value, str), "a name from its list"
    elif isinstance(spec, io.Combo.Input):
        fits, wanted = isinstance(value, str) and value in spec.options, f"one of these: {_some(spec.options)}"
    elif isinstance(spec, io.String.Input):
        fits, wanted = isinstance(value, str), "a text"
    else:
        sockets = [SOCKETS[kind] for kind in spec.get_io_type().split(",")]
        fits = any(socket.fits(value) for socket in sockets)
        wanted = ", or ".join(socket.wanted for socket in sockets)
    if not fits:
        raise ValueError(
            f"{node}: input '{spec.id}' is {_shown(value)}. It must be {wanted}. Set it, or connect another node to it."
        )
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_within(value: float, spec: Any) -> bool:
    return (spec.min is None or value >= spec.min) and (spec.max is None or value <= spec.max)


def _limits(spec: Any) -> str:
    parts = [f" {word} {limit}" for word, limit in (("from", spec.min), ("to", spec.max)) if limit is not None]
    return "".join(parts)


def _some(options: list[str]) -> str:
    left = len(options) - MOST_OPTIONS
    return ", ".join(options[:MOST_OPTIONS]) + (f" and {left} more" if left > 0 else "")


def _shown(value: Any) -> str:
    """Return a value as a message has it: short, whatever it is."""
    if value is None:
        return "empty: nothing came by its link"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, (bool, int, float, str)):
        text = repr(value)
        return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
    return f"an object of type {type(value).__name__}"
