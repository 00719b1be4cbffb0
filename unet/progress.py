"""What an artist sees while a run is sampled several times: one bar for all passes, and which pass it is."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# As the sampler calls it: step, predicted latents, latents, number of steps.
Callback = Callable[[int, Tensor, Tensor, int], Any]
LEAST_PASSES = 2


class PassProgress:
    """Passes a sampler's callbacks on, as those of one longer run.

    Args:
        callback: of the sampler node; None for none.
    """

    def __init__(self, callback: Callback | None) -> None:
        self._callback = callback
        self._last: list[tuple[int, Tensor, Tensor, int]] = []
        self._begun = 0

    def begin(self, number: int) -> Callback | None:
        """Return the callback of a pass, 0 for the first."""
        self._begun = number + 1
        if self._callback is None:
            return None
        callback, passes = self._callback, max(LEAST_PASSES, number + 1)

        def of_pass(step: int, predicted: Tensor, latents: Tensor, steps: int) -> Any:
            told = number * steps + step, predicted, latents, passes * steps
            self._last[number:] = [told]
            return callback(*told)

        return of_pass

    def conclude(self, pieced: Callable[[Sequence[Tensor]], Tensor]) -> None:
        """Let the callback see last what the result is made of: sampler nodes give the last prediction out.

        Args:
            pieced: makes one of what each pass gave, [B, C, h, w] each, as the result is made.
        """
        if self._callback is None or len(self._last) < self._begun or self._begun < LEAST_PASSES:
            return
        step, predicted, latents, steps = self._last[-1]
        whole = pieced([told[1] for told in self._last])
        if not torch.equal(whole, predicted):
            self._callback(step, whole, latents, steps)


def say(text: str) -> None:
    """Write a line on the node that is at work, where ComfyUI shows such lines."""
    logging.info("SAE Concept Erasure: %s", text)
    # Without a server there is nobody to show it to; importing the host's would start parts of it.
    module = sys.modules.get("server")
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return
    context = get_executing_context()
    if context is not None and server is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, context.node_id)
