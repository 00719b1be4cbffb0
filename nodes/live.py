"""What a node shows while another one samples: where its concept is detected, over ComfyUI's preview of the step."""

import logging
import time
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from comfy_execution.progress import get_progress_state
from torch import Tensor

from ..reports.images import outlined, resized, tinted, to_pil
from ..unet.preview import PAUSE, previews_are_on, rough_image

SIDE = 256  # pixels of the shorter side


class LiveHeat:
    """Shows the heat of a detection in a node, step by step.

    Args:
        model: that samples.
        node_id: of the node, None if it has none (where no workflow runs).
        kind: the node's type: outputs that ComfyUI took from its cache may belong to another workflow by now.
    """

    def __init__(self, model: ModelPatcher, node_id: str | None, kind: str) -> None:
        self._model, self._node_id, self._kind = model, node_id, kind
        self._seen: Tensor | None = None
        self._last = 0.0

    @classmethod
    def of(cls, node: type[io.ComfyNode], model: ModelPatcher) -> "LiveHeat":
        """Return what shows heat in the node that runs; its schema asks for its id."""
        return cls(model, getattr(node.hidden, "unique_id", None), node.define_schema().node_id)

    def __call__(self, step: int, steps: int, latents: Tensor, mask: Tensor | None) -> None:
        """Show a step, see ``erasure.eraser.Show``."""
        now = time.monotonic()
        if step == 1:
            self._seen = None
        # The last step is always shown.
        if not previews_are_on() or (now - self._last < PAUSE and step < steps):
            return
        self._last = now
        try:
            self._show(step, steps, latents, mask)
        except Exception as error:  # ComfyUI's inner parts change, and a preview must not cost anybody an image.
            logging.debug("SAE Concept Erasure: no preview: %s", error)

    def _show(self, step: int, steps: int, latents: Tensor, mask: Tensor | None) -> None:
        progress = get_progress_state()
        if not self._is_there(progress.dynprompt):
            return
        image = rough_image(self._model, latents)
        if image is None:
            return
        picture = to_pil(self._heated(image, mask))
        progress.update_progress(self._node_id, step, steps, ("JPEG", picture, None))
        if step >= steps:
            progress.finish_progress(self._node_id)

    def _is_there(self, prompt: Any) -> bool:
        return prompt.has_node(self._node_id) and prompt.get_node(self._node_id)["class_type"] == self._kind

    def _heated(self, image: Tensor, mask: Tensor | None) -> Tensor:
        """Tint an image [h, w, 3] where the concept was detected, darker the more often, and outline where it is."""
        times = max(1, SIDE / min(image.shape[:2]))
        large = resized(image[None], (round(image.shape[0] * times), round(image.shape[1] * times)))
        if mask is None:
            return large[0]
        found = mask.cpu()[None]
        if self._seen is None or self._seen.shape[1:] != found.shape[1:]:
            self._seen = found[:0].float()
        self._seen = torch.cat([self._seen, found.float()])
        return outlined(tinted(large, self._seen.mean(0)[None]), found)[0]
