"""What several nodes show and check alike: words, and the run that a record is of.

ComfyUI's frontends show a node's images and nothing else that every version keeps: the text that a node returns is
shown by Preview Any alone, and progress text goes when the run ends. So the words are part of an image.
"""

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..erasure.history import ErasureRecord
from ..erasure.record import RunRecord
from ..reports.images import card, with_caption

NOT_KNOWN = (
    "No run kept in this record made that latent, so this is the latest run: connect the LATENT of the sampler "
    "that uses this model, before anything changes it."
)


def image_and_words(
    image: torch.Tensor, text: str, cls: type[io.ComfyNode], warnings: Sequence[str] = (), each: Sequence[str] = ()
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Write words below an image that a node shows.

    Args:
        image: [B, H, W, 3].
        text: the words, without the warnings.
        cls: the node.
        warnings: what could not be done, a sentence each.
        each: the words below each image of the batch, where they differ.

    Returns:
        the image with the words, which is also what the node hands on, and its ``ui``.
    """
    written = with_caption(image, each or [text], warnings)
    said = "\n".join([text, *warnings])
    return written, {**ui.PreviewImage(written, cls=cls).as_dict(), **ui.PreviewText(said).as_dict()}


def words_alone(text: str, cls: type[io.ComfyNode]) -> dict[str, Any]:
    """Return the ``ui`` of a node that has only words to show."""
    return {**ui.PreviewImage(card(text), cls=cls).as_dict(), **ui.PreviewText(text).as_dict()}


def latent_input() -> io.Input:
    """Return the input that says which run to show."""
    return io.Latent.Input(
        "latent",
        optional=True,
        tooltip="Optional: the LATENT that the sampler made, to show exactly the run that made it. Without it, the "
        "latest run is shown.",
    )


def shown_run(
    record: ErasureRecord, latent: dict[str, Any] | None, image: torch.Tensor, node: str
) -> tuple[RunRecord, list[str]]:
    """Return the run to show over an image, and a sentence if it may be another than that image's, or none.

    Args:
        record: at input 'record' of a node.
        latent: at its input 'latent'; None for the latest run.
        image: at its input 'image', [B, H, W, 3].
        node: its name.

    Raises:
        ValueError: there was no run, or it made another number of images.
    """
    made = None if latent is None else record.made(latent["samples"])
    run = latest_run(record, node, "record") if made is None else made
    require_pictures_of(run, image, node, "image")
    return run, [NOT_KNOWN] if latent is not None and made is None else []


def latest_run(record: ErasureRecord, node: str, name: str) -> RunRecord:
    """Return the run that a record shows.

    Args:
        record: at an input of a node.
        node, name: of that node and input, for the message.

    Raises:
        ValueError: there was no run.
    """
    if record.latest is None:
        raise ValueError(
            f"{node}: the model that belongs to input '{name}' has not been sampled. Connect the model output of that "
            "same node to the sampler whose image you show."
        )
    return record.latest


def require_pictures_of(run: RunRecord, image: torch.Tensor, node: str, name: str) -> None:
    """Check that there are as many images as a run made.

    Raises:
        ValueError: there are not; the message names node and input.
    """
    if run.images != len(image):
        raise ValueError(
            f"{node}: input '{name}' holds {len(image)} image(s), but the sampling run shown made {run.images}. "
            "Connect the image that was decoded from that run, and its LATENT to 'latent'."
        )
