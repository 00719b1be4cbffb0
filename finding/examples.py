"""Images that a model generated or was given, with the features that fired in them."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import functional as F

from ..sae_models.loaded import LoadedSAE
from ..sae_models.scoring import score_features
from ..sae_models.sparse_codes import mean_activations
from ..unet.capture import FiredFeatures
from ..unet.sampling import Observed, read_each_noised
from .labelling import TIMESTEPS

NOISE_LEVELS = 5  # that a given image is noised to
THUMBNAIL = 256  # pixels; a folder may hold thousands of images, and no report shows them larger


@dataclass(frozen=True, eq=False)
class Example:
    """An image, and what fired in it.

    Attributes:
        image: [H, W, 3] in 0..1.
        calls: of the model, each with B = 1.
        caption: its prompt, or the name of its file; may be empty.
        generated: whether the model generated it; any other was noised.
        masked: what a person painted in it, on the model's grid, [h, w] in 0..1; None if nobody was asked to.
    """

    image: Tensor
    calls: Sequence[FiredFeatures]
    caption: str = ""
    generated: bool = False
    masked: Tensor | None = None


def generated_examples(seen: Observed, images: Tensor, prompts: Sequence[str]) -> list[Example]:
    """Return what was generated: what fired, the decoded images [N, H, W, 3], and of which prompts."""
    return [Example(*each, generated=True) for each in zip(images, seen.fired, prompts, strict=True)]


def noised_examples(
    model: ModelPatcher,
    clip: Any,
    vae: Any,
    sae: LoadedSAE,
    images: Iterable[tuple[str, Tensor, str]],
    batch: int,
    seed: int,
) -> list[Example]:
    """Noise images to several timesteps and note what fires.

    Args:
        model, clip, vae: as ComfyUI gives them.
        sae: fits the model.
        images: what to call each, the image [H, W, 3 or more], all of one size, and what it shows, "" if nobody says.
            They are asked for as they are needed, and small ones are kept.
        batch: how many the model sees at once.
        seed: of the noise; the same images in the same batches get the same.
    """
    timesteps = [TIMESTEPS * (i + 0.5) / NOISE_LEVELS for i in reversed(range(NOISE_LEVELS))]
    examples: list[Example] = []
    remaining = iter(images)
    while part := list(itertools.islice(remaining, batch)):
        latents = vae.encode(torch.stack([image[..., :3] for _, image, _ in part]))
        prompts = [prompt for _, _, prompt in part]
        fired = read_each_noised(model, clip, sae, prompts, latents, timesteps, seed + len(examples) * NOISE_LEVELS)
        examples += [
            Example(_thumbnail(image), calls, name) for (name, image, _), calls in zip(part, fired, strict=True)
        ]
    return examples


def _thumbnail(image: Tensor) -> Tensor:
    """Return an image [H, W, 3 or more] scaled down to `THUMBNAIL` pixels of height and width, if it is larger."""
    planes = image[..., :3].movedim(-1, 0).float().cpu()
    size = min(planes.shape[1], THUMBNAIL), min(planes.shape[2], THUMBNAIL)
    return F.adaptive_avg_pool2d(planes, size).movedim(0, -1)


def strongest_in(examples: Sequence[Example], num_features: int, count: int, given: Example | None = None) -> list[int]:
    """Return the features that are strongest in a given image, or in some example, against the (other) examples.

    Strong is SAeUron's score, with one image for a concept.
    """
    compared = ([] if given is None else [given]) + list(examples)
    means = torch.stack([_means(example, num_features) for example in compared])
    if len(means) == 1:
        return means[0].topk(count).indices.tolist()
    rows = range(len(means)) if given is None else range(1)
    scores = torch.stack([score_features(means[:, None], row)[0] for row in rows])
    return scores.amax(0).topk(count).indices.tolist()


def _means(example: Example, num_features: int) -> Tensor:
    """Return the mean activation of every feature over patches and calls of one image, [L]."""
    values, indices = (torch.cat([getattr(call, part)[0] for call in example.calls]) for part in ("values", "indices"))
    return mean_activations(values, indices, num_features)
