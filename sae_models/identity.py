"""Which SAE a concept belongs to: feature 17 of one SAE means nothing in another."""

import hashlib
from dataclasses import dataclass

import torch

from .sae import SparseAutoencoder

SAMPLED_ROWS = 256
SHOWN_DIGITS = 8


@dataclass(frozen=True)
class SAEIdentity:
    """An SAE, by what its encoder holds.

    Attributes:
        name: the file as it was called when the concept was made, for messages only.
        digest: of ``digest``, 64 hexadecimal digits.
    """

    name: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name} (digest {self.digest[:SHOWN_DIGITS]})"


def digest(sae: SparseAutoencoder) -> str:
    """Return the SHA-256 of an encoder, in hexadecimal.

    What is digested: the number of features and of channels, up to `SAMPLED_ROWS` rows of ``encoder.weight`` at even
    distances (the first and the last among them), ``encoder.bias`` and ``decoder_bias``, all rounded to float16 in
    row-major order. A file of float32 and its copy in float16 therefore have one digest, and an SAE with 20,480
    features takes a few milliseconds. No two trained SAEs share these rows, and nothing secret depends on it.
    """
    weight = sae.encoder.weight
    rows = torch.linspace(0, len(weight) - 1, min(len(weight), SAMPLED_ROWS), dtype=torch.float64).round().long()
    found = hashlib.sha256(f"{sae.config.num_latents} {sae.config.d_in}".encode())
    for tensor in (weight[rows.to(weight.device)], sae.encoder.bias, sae.decoder_bias):
        found.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return found.hexdigest()
