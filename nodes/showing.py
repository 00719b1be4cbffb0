"""What several nodes show and check alike: pictures with words below them, and the run that a record is of."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..erasure.record import ErasureRecord, RunRecord


def picture_and_words(picture: torch.Tensor, text: str, cls: type[io.ComfyNode]) -> dict[str, Any]:
    """Return what makes a node show a picture and the words below it."""
    return {**ui.PreviewImage(picture, cls=cls).as_dict(), **ui.PreviewText(text).as_dict()}


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
            "same node to the sampler whose picture you show."
        )
    return record.latest


def require_pictures_of(run: RunRecord, image: torch.Tensor, node: str, name: str) -> None:
    """Check that there are as many pictures as a run made.

    Raises:
        ValueError: there are not; the message names node and input.
    """
    if run.images != len(image):
        raise ValueError(
            f"{node}: input '{name}' holds {len(image)} picture(s), but the latest sampling run made {run.images}. "
            "Connect the picture that was decoded from that run."
        )
