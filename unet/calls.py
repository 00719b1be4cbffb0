"""What is known of a sampling run and of one call of the UNet."""

from collections.abc import Hashable
from dataclasses import dataclass

CONDITIONAL, UNCONDITIONAL = 0, 1


class NonFiniteActivations(RuntimeError):
    """The feature map holds NaN or infinity, so nothing can be said about it."""


@dataclass(frozen=True)
class RunInfo:
    """What is known when a sampling run starts.

    Attributes:
        seed: noise seed, None if unknown.
        image_keys: one integer an image that names its starting noise.
        latent_size: (height, width) of the latent image.
        sigma_ranges: for each leaf, in the order of ``leaves``: (highest, lowest) sigma it looks at, the
            lowest excluded.
    """

    seed: int | None
    image_keys: tuple[int, ...]
    latent_size: tuple[int, int]
    sigma_ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Forward:
    """One call of the UNet: a batch of chunks, each chunk one conditioning for all images.

    Attributes:
        halves: CONDITIONAL or UNCONDITIONAL for each chunk.
        streams: a name for each chunk's conditioning, stable during a run.
        sigma, timestep: noise level of the call.
        latent_size: (height, width) of the latents that went in.
    """

    halves: tuple[int, ...]
    streams: tuple[Hashable, ...]
    sigma: float
    timestep: float
    latent_size: tuple[int, int]

    def rows(self, chunk: int, batch: int) -> slice:
        """Where a chunk lies in a batch of so many rows."""
        images = batch // len(self.halves)
        return slice(chunk * images, (chunk + 1) * images)
