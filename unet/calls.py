"""What is known of a sampling run, and of one call of the UNet in it. No ComfyUI in here."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from torch import Tensor

POSITIVE, NEGATIVE = ROLES = ("positive", "negative")


class NonFiniteActivations(RuntimeError):
    """A feature map holds NaN or infinity, so nothing can be said about it."""


@dataclass(eq=False)
class Run:
    """One sampling run.

    Attributes:
        seed: noise seed, None if unknown.
        image_keys: one integer an image that names its starting noise and latent.
        latent_size: (height, width) of the latent image at the start.
        percent_to_sigma: from a share of the sampling range (0..1) to a noise level.
        first_sigma: noise level that the run starts at.
        notes: what could not be done, and how often; shown to the artist.
    """

    seed: int | None
    image_keys: tuple[int, ...]
    latent_size: tuple[int, int]
    percent_to_sigma: Callable[[float], float]
    first_sigma: float = 0.0
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        """Batch size."""
        return len(self.image_keys)

    def sigma_range(self, start: float, end: float) -> tuple[float, float] | None:
        """Return (highest, lowest) sigma of a part of the sampling range, the lowest excluded; None for all of it."""
        if start <= 0 and end >= 1:
            return None
        return float(self.percent_to_sigma(start)), float(self.percent_to_sigma(end))

    def note(self, text: str, times: int = 1) -> None:
        """Write down that something could not be done. The log is told once a run."""
        if text not in self.notes:
            logging.warning("SAE Concept Erasure: %s.", text)
        self.notes[text] += times


@dataclass(frozen=True)
class Chunk:
    """Neighboring rows of a call that hold one conditioning.

    Attributes:
        rows: where in the batch.
        role: POSITIVE or NEGATIVE.
        key: what the rows belong to from call to call: the same wherever the same conditioning is asked for the same
            images, and unlike any other where that is not certain, so that nothing is carried over by mistake.
        images: places of the rows' images in the run's batch; None if unknown.
        whole: True if each row covers the whole of an image, False if it is an area or a tile.
        certain: whether ``key`` can come again.
        area: (height, width, top, left) of the rows in the latent image where they are a known area; else None.
        again: whether the model was asked for the rows before in the same step. Then another node asks, with an image
            or a model that it has changed, and what is seen says nothing about the prediction itself.
    """

    rows: slice
    role: str
    key: Hashable
    images: tuple[int, ...] | None
    whole: bool = True
    certain: bool = True
    area: tuple[int, int, int, int] | None = None
    again: bool = False

    @property
    def is_placed(self) -> bool:
        """True if it is known which images the rows show, and where in them."""
        return self.images is not None and self.certain and (self.whole or self.area is not None)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the UNet.

    Attributes:
        run: the run it belongs to.
        number: of the calls of the run, from 1.
        step: of the guider's predictions of the run, from 1; what a sampler asks for at one noise level.
        sigma, timestep: noise level, both ways, [] each, on the device of the model. To read them waits for it.
        chunks: the rows that are known to belong to a conditioning; others must be left as they are.
        size: (height, width) of the latents that go in.
    """

    run: Run
    number: int
    step: int
    sigma: Tensor
    timestep: Tensor
    chunks: tuple[Chunk, ...]
    size: tuple[int, int] = (0, 0)


def patches_of(x: Tensor) -> Tensor:
    """Return the patch embeddings of feature maps, [B, C, H, W] -> [B, H * W, C]; a view."""
    return x.flatten(2).transpose(1, 2)


def grid_of(patches: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the grid of so many patches in a UNet that halves latents of a size, rounding up; None if none fits."""
    height, width = size
    while height * width > patches and height * width > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
    return (height, width) if height * width == patches else None


def is_active(sigma: Tensor, limits: tuple[float, float] | None) -> Tensor | None:
    """Tell whether a noise level lies in a range of ``Run.sigma_range``: bool [] on sigma's device; None for always."""
    return None if limits is None else (sigma <= limits[0]) & (sigma > limits[1])


def is_known_off(active: Tensor | None) -> bool:
    """Tell whether an answer of ``is_active`` is known to be no. On a GPU it is not known without waiting for it."""
    return active is not None and active.device.type == "cpu" and not bool(active)


def any_active(answers: list[Tensor | None]) -> Tensor | None:
    """Put answers of ``is_active`` together: whether any says yes."""
    known = [answer for answer in answers if answer is not None]
    if len(known) < len(answers):
        return None
    together = known[0]
    for answer in known[1:]:
        together = together | answer
    return together
