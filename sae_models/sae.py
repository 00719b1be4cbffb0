"""The sparse autoencoder itself: configuration and module.

x      patch embeddings, [..., D]: one row for each cell of the hooked block's feature map
z      features, [..., L]: non-negative, few of them non-zero for each patch
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

READS = ("output", "output_minus_input")
# How pre-activations become features. In the first three the features of a patch compete, in the others not.
COMPETING = ("topk", "topk_sigmoid", "groupmax")
ACTIVATIONS = (*COMPETING, "relu", "jumprelu", "gated")
NORMALIZATIONS = ("none", "layer_norm", "constant_norm")
# Far above any SAE published for a diffusion model, far below what would exhaust memory by its size alone.
MAX_WIDTH = 65_536
MAX_LATENTS = 1_048_576
LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class SAEConfig:
    """What is needed to run an SAE and to attach it in the right place.

    Attributes:
        d_in: width D of the patch embeddings it reads.
        num_latents: number of features L.
        k: features that may fire in one patch; 0 where the activation sets no limit.
        hookpoint: the UNet module it reads, a path below ``diffusion_model``, e.g. ``output_blocks.4.1``.
        reads: ``output`` of that module, or ``output_minus_input``.
        activation: ``topk`` keeps the k largest pre-activations and clips them at zero; ``topk_sigmoid`` squeezes
            the kept ones into 0..1 instead (G-SAE); ``groupmax`` keeps the largest of each of k groups of
            neighbouring features; ``relu``; ``jumprelu`` keeps what exceeds a feature's threshold; ``gated`` decides
            with one affine map and measures with another.
        model_family: the model it was trained on, for people; empty if unknown.
        center: whether the decoder bias is subtracted from the input.
        normalize: what is done to an input before: ``none``; ``layer_norm``, (x - mean) / (deviation + 1e-5) with
            the deviation of a sample (n - 1), as all libraries have it; ``constant_norm``, scaled to length sqrt(D).

    Raises:
        ValueError: a value is outside its range.
    """

    d_in: int
    num_latents: int
    k: int
    hookpoint: str
    reads: str = "output"
    activation: str = "topk"
    model_family: str = ""
    center: bool = True
    normalize: str = "none"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("reads", self.reads, READS),
            ("activation", self.activation, ACTIVATIONS),
            ("normalize", self.normalize, NORMALIZATIONS),
        ):
            if value not in known:
                raise ValueError(f"SAE config: {name} = {value!r}; known are {', '.join(known)}")
        least_k = 1 if self.activation in COMPETING else 0
        limits = (("d_in", 1, MAX_WIDTH), ("num_latents", 1, MAX_LATENTS), ("k", least_k, self.num_latents))
        for name, least, limit in limits:
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= limit:
                raise ValueError(f"SAE config: {name} = {number!r} is not a whole number from {least} to {limit}")
        if self.activation == "groupmax" and self.num_latents % self.k:
            raise ValueError(f"SAE config: {self.num_latents} features do not make {self.k} equal groups")
        if self.normalize == "layer_norm" and self.d_in < 2:
            raise ValueError("SAE config: one number cannot be layer-normalised")
        if not isinstance(self.hookpoint, str) or not self.hookpoint:
            raise ValueError("SAE config: hookpoint is missing")
        if not isinstance(self.center, bool):
            raise ValueError(f"SAE config: center = {self.center!r} is neither true nor false")


def as_read(reads: str, x: Tensor, output: Tensor) -> Tensor:
    """Return what an SAE reads of a block that took x and gave output, one of `READS`."""
    return output if reads == "output" else output - x


class SparseAutoencoder(nn.Module):
    """A sparse autoencoder with one hidden layer: TopK (Gao et al. 2024, arXiv 2406.04093) and its relatives.

    z = activation(encoder(normalize(x) - decoder_bias)), reconstruction = z @ decoder_weight + decoder_bias, with
    the normalisation undone.

    Detection needs the encoder and the bias only, so the decoder may be absent (``decoder_weight is None``)
    until somebody asks for it.

    Args:
        config: sizes, activation, and how the input is treated.
        with_decoder: allocate ``decoder_weight [L, D]`` too.
        operations: where ``Linear`` comes from: ``torch.nn``, or a namespace of ``comfy.ops`` so that
            ComfyUI can cast and offload the weight.
        device, dtype: as in ``torch.nn.Linear``.

    Attributes:
        threshold: of ``jumprelu``, [L]; else None.
        gate_scale, gate_bias: of ``gated``, [L]: the gate opens where encoder.weight @ x + gate_bias > 0, the
            magnitude is gate_scale * (encoder.weight @ x) + encoder.bias; else None.
    """

    def __init__(
        self,
        config: SAEConfig,
        with_decoder: bool = False,
        operations: ModuleType | Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = operations.Linear(config.d_in, config.num_latents, device=device, dtype=dtype)
        self.decoder_bias = nn.Parameter(torch.zeros(config.d_in, device=device, dtype=dtype))
        self.decoder_weight: nn.Parameter | None = None
        if with_decoder:
            shape = (config.num_latents, config.d_in)
            self.decoder_weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        def per_feature(wanted: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(config.num_latents, device=device, dtype=dtype)) if wanted else None

        self.threshold = per_feature(config.activation == "jumprelu")
        self.gate_scale = per_feature(config.activation == "gated")
        self.gate_bias = per_feature(config.activation == "gated")

    def scale(self, x: Tensor) -> Tensor:
        """Return what one unit of the normalised input is worth in the raw one. [..., D] -> [..., 1]."""
        if self.config.normalize == "layer_norm":
            return x.std(-1, keepdim=True) + LAYER_NORM_EPSILON
        if self.config.normalize == "constant_norm":
            return x.norm(dim=-1, keepdim=True).clamp(min=1e-12) * self.config.d_in**-0.5
        return torch.ones_like(x[..., :1])

    def center(self, x: Tensor) -> Tensor:
        """Return the input of the encoder: x normalised, minus the decoder bias. [..., D] -> [..., D]."""
        if self.config.normalize == "layer_norm":
            x = (x - x.mean(-1, keepdim=True)) / self.scale(x)
        elif self.config.normalize == "constant_norm":
            x = x / self.scale(x)
        return x - self.decoder_bias.to(x) if self.config.center else x

    def pre_activations(self, x: Tensor) -> Tensor:
        """Return the encoder's output before the activation. [..., D] -> [..., L]."""
        return self.encoder(self.center(x))

    def activate(self, a: Tensor) -> Tensor:
        """Turn all pre-activations of patches into features. [..., L] -> [..., L]."""
        if self.config.activation not in COMPETING:
            return self.activate_alone(a, slice(None))
        if self.config.activation == "groupmax":
            groups = a.unflatten(-1, (self.config.k, -1))
            kept = groups.argmax(-1, keepdim=True)
            return torch.zeros_like(groups).scatter_(-1, kept, groups.gather(-1, kept).relu()).flatten(-2)
        values, indices = a.topk(self.config.k, dim=-1)
        return torch.zeros_like(a).scatter_(-1, indices, self.loudness(values))

    def loudness(self, a: Tensor) -> Tensor:
        """Return the features that pre-activations give where they are not silenced by others. Same shape."""
        return a.sigmoid() if self.config.activation == "topk_sigmoid" else a.relu()

    def activate_alone(self, a: Tensor, which: Tensor | slice) -> Tensor:
        """Return features that do not compete, from their own pre-activations.

        Args:
            a: [..., n], of ``pre_activations``.
            which: indices of these n features.
        """
        if self.threshold is not None:
            return torch.where(a > self.threshold.to(a)[which], a.relu(), 0.0)
        if self.gate_scale is not None and self.gate_bias is not None:
            # The encoder's bias is already in the pre-activations; gate and magnitude share only the product.
            product = a - self.encoder.bias.to(a)[which]
            magnitude = (self.gate_scale.to(a)[which] * product + self.encoder.bias.to(a)[which]).relu()
            return torch.where(product + self.gate_bias.to(a)[which] > 0, magnitude, 0.0)
        return a.relu()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the firing features of each patch.

        Args:
            x: patch embeddings [..., D].

        Returns:
            values [..., k] (non-negative, largest first) and indices [..., k] of the features; all L where the
            activation sets no k.
        """
        if self.config.activation in ("topk", "topk_sigmoid"):
            values, indices = self.pre_activations(x).topk(self.config.k, dim=-1)
            return self.loudness(values), indices
        return self.encode_dense(x).topk(self.config.k or self.config.num_latents, dim=-1)

    def encode_dense(self, x: Tensor) -> Tensor:
        """Return all features, zeros included. [..., D] -> [..., L]."""
        return self.activate(self.pre_activations(x))

    def decode(self, values: Tensor, indices: Tensor) -> Tensor:
        """Return the reconstruction of patches, still normalised, from their firing features.

        Args:
            values, indices: [..., k] as ``encode`` gives them.

        Returns:
            [..., D].

        Raises:
            RuntimeError: the decoder was not loaded.
        """
        if self.decoder_weight is None:
            raise RuntimeError("This SAE was loaded without its decoder; load it with_decoder=True")
        flat_values = values.reshape(-1, values.shape[-1])
        flat_indices = indices.reshape(-1, indices.shape[-1])
        out = nn.functional.embedding_bag(
            flat_indices, self.decoder_weight.to(values), per_sample_weights=flat_values, mode="sum"
        )
        return out.reshape(*values.shape[:-1], -1) + self.decoder_bias.to(out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of x. [..., D] -> [..., D]."""
        decoded = self.decode(*self.encode(x))
        if self.config.normalize == "none":
            return decoded
        restored = decoded * self.scale(x)
        return restored + x.mean(-1, keepdim=True) if self.config.normalize == "layer_norm" else restored
