"""The sparse autoencoder itself: configuration and module.

x      patch embeddings, [..., D]: one row for each cell of the hooked block's feature map
z      latents, [..., L]: non-negative, at most ``k`` of them non-zero for each patch
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

READS = ("output", "output_minus_input")
ACTIVATIONS = ("topk",)
# Far above any SAE published for a diffusion model, far below what would exhaust memory by its size alone.
MAX_WIDTH = 65_536
MAX_LATENTS = 1_048_576


@dataclass(frozen=True)
class SAEConfig:
    """What is needed to run an SAE and to attach it in the right place.

    Attributes:
        d_in: width D of the patch embeddings it reads.
        num_latents: number of latents L.
        k: latents that may fire in one patch.
        hookpoint: the UNet module it reads, a path below ``diffusion_model``, e.g. ``output_blocks.4.1``.
        reads: ``output`` of that module, or ``output_minus_input``.
        activation: ``topk`` keeps the k largest pre-activations and clips them at zero.
        model_family: the model it was trained on, for people; empty if unknown.

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

    def __post_init__(self) -> None:
        for name, limit in (("d_in", MAX_WIDTH), ("num_latents", MAX_LATENTS), ("k", self.num_latents)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
                raise ValueError(f"SAE config: {name} = {value!r} is not a whole number from 1 to {limit}")
        if self.reads not in READS:
            raise ValueError(f"SAE config: reads = {self.reads!r}; known are {', '.join(READS)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"SAE config: activation = {self.activation!r}; known are {', '.join(ACTIVATIONS)}")
        if not isinstance(self.hookpoint, str) or not self.hookpoint:
            raise ValueError("SAE config: hookpoint is missing")


class SparseAutoencoder(nn.Module):
    """TopK sparse autoencoder (Gao et al. 2024, arXiv 2406.04093).

    z = relu(topk(encoder(x - decoder_bias))), reconstruction = z @ decoder_weight + decoder_bias.

    Detection needs the encoder and the bias only, so the decoder may be absent (``decoder_weight is None``)
    until somebody asks for it.

    Args:
        config: sizes and activation.
        with_decoder: allocate ``decoder_weight [L, D]`` too.
        operations: where ``Linear`` comes from: ``torch.nn``, or a namespace of ``comfy.ops`` so that
            ComfyUI can cast and offload the weight.
        device, dtype: as in ``torch.nn.Linear``.
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

    def center(self, x: Tensor) -> Tensor:
        """Return x minus the decoder bias, the input of the encoder. [..., D] -> [..., D]."""
        return x - self.decoder_bias.to(x)

    def pre_activations(self, x: Tensor) -> Tensor:
        """Return the encoder's output before TopK. [..., D] -> [..., L]."""
        return self.encoder(self.center(x))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the firing latents of each patch.

        Args:
            x: patch embeddings [..., D].

        Returns:
            values [..., k] (non-negative, largest first) and indices [..., k] of the latents.
        """
        values, indices = self.pre_activations(x).topk(self.config.k, dim=-1)
        return values.relu(), indices

    def encode_dense(self, x: Tensor) -> Tensor:
        """Return all latents, zeros included. [..., D] -> [..., L]."""
        values, indices = self.encode(x)
        dense = torch.zeros(*x.shape[:-1], self.config.num_latents, device=x.device, dtype=values.dtype)
        return dense.scatter_(-1, indices, values)

    def decode(self, values: Tensor, indices: Tensor) -> Tensor:
        """Return the reconstruction of patches from their firing latents.

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
        return self.decode(*self.encode(x))
