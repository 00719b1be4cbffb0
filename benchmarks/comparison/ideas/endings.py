"""Other last steps, with the unconditional half's patches: from ``finish`` to ``keen``."""

from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from ....dev.demo_model.sampling import CFG
from ....erasure.detection import Detect, Look
from ....erasure.eraser import Eraser, _Call
from ....erasure.refinement import resize_mask
from ....erasure.replacement import replace_patches
from ....unet.calls import UNCONDITIONAL

LAST_BLOCK = "output_blocks.3.1"
MANY = 6  # patches found at once that say for sure that the concept is in a picture


class Ending(Eraser):
    """Puts the unconditional half's patches in at the end.

    Args:
        below: the timestep from which on.
    """

    def __init__(self, *args: Any, below: int = 0) -> None:
        super().__init__(*args)
        self.below = below

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.seen: dict[Hashable, dict[float, Tensor]] = defaultdict(dict)

    def remember(self, call: _Call, chunk: int, mask: Tensor) -> list[Tensor]:
        """Keep the mask if it comes from a look; return those of all looks so far."""
        seen = self.seen[call.forward.streams[chunk]]
        if call.looked:
            seen[call.forward.sigma] = mask
        return list(seen.values())

    def sets_in(self, call: _Call) -> bool:
        """Whether it is the end, and there is an unconditional half."""
        return call.forward.timestep < self.below and UNCONDITIONAL in call.forward.halves

    def put_in(self, call: _Call, chunk: int, prompted: Tensor) -> list[int]:
        """Keep as much of each patch as ``prompted`` says, 0..1, [B, H, W]; the rest comes from the other half."""
        call.edited = call.output.clone() if call.edited is None else call.edited
        rows, source = call.rows(chunk), call.rows(call.forward.halves.index(UNCONDITIONAL))
        call.edited[rows] = torch.lerp(call.output[source], call.output[rows], prompted[:, None].to(call.output))
        return [int(each) for each in (prompted < 1).flatten(1).sum(1)]


class Finishing(Ending):
    """See ``finish``."""

    def _mask(self, call: _Call, chunk: int) -> Tensor | None:
        mask = super()._mask(call, chunk)
        if mask is None:
            return None
        looks = self.remember(call, chunk, mask)
        if call.forward.timestep >= self.below:
            return mask
        return mask | (torch.stack([mask, *looks]).sum(0) >= 2)

    def _replace(self, call: _Call, chunk: int, mask: Tensor) -> list[int]:
        if not self.sets_in(call):
            return super()._replace(call, chunk, mask)
        return self.put_in(call, chunk, 1.0 - mask.float())


class Quiet(Ending):
    """See ``quiet``, ``hush``, ``bare``, ``mute`` and ``calm``.

    Args:
        how: which of them.
        looks: in how many a patch must have been found.
        keen: see ``keen``.
    """

    def __init__(self, *args: Any, how: str = "quiet", looks: int = 1, keen: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.how, self.looks, self.keen = how, looks, keen

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.known = torch.zeros(len(info.image_keys), dtype=torch.bool)

    def _look(self, leaf: Detect, read: Tensor, call: _Call) -> Look:
        look = super()._look(leaf, read, call)
        self.known |= look.detected.flatten(1).sum(1) >= MANY
        # What is as much like the concept and yet not detected was silenced by another concept.
        almost = (look.likeness > self.keen) & (look.likeness <= 1) & self.known[:, None, None]
        return Look(look.detected | almost, look.likeness)

    def _replace(self, call: _Call, chunk: int, mask: Tensor) -> list[int]:
        looks = self.remember(call, chunk, mask)
        if call.hookpoint != LAST_BLOCK:
            replaced = super()._replace(call, chunk, mask)
            if self.how == "mute" and UNCONDITIONAL in call.forward.halves:
                self._replace_as_well(call, call.forward.halves.index(UNCONDITIONAL) - chunk)
            return replaced
        if not self.sets_in(call):
            return [0] * call.images
        return self.put_in(call, chunk, self._prompted(call, mask, looks))

    def _prompted(self, call: _Call, mask: Tensor, looks: list[Tensor]) -> Tensor:
        """Return how much of the prompt each patch keeps, 0..1, [B, H, W]."""
        often = torch.stack(looks).sum(0) >= self.looks
        prompted = 1.0 - (mask | resize_mask(often, call.grid)).float()
        if self.how == "hush":
            prompted[self.known] = 0
        if self.how == "bare":
            prompted[:] = 0
        if self.how == "calm":
            prompted[self.known] /= CFG
        return prompted

    def _replace_as_well(self, call: _Call, chunks: int) -> None:
        """Repeat a call's edits so many chunks further on."""
        if call.edited is not None:
            by = chunks * call.images
            moved = [each._replace(row=each.row + by, source_row=each.source_row + by) for each in call.edits]
            replace_patches(call.edited, moved, call.output)
