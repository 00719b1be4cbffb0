"""What else can be put in: ``steady``, ``shift``, ``shifted``, ``sided``, ``earlier``, ``bank`` and ``soft``."""

from collections import defaultdict
from collections.abc import Hashable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....demo_model.vocabulary import STYLES, caption
from ....dev.demo_model.sampling import TUNING_SEEDS, sample
from ....erasure.eraser import Eraser, _Call
from ....erasure.replacement import (
    Edit,
    direction_between,
    donor_pool,
    donor_seed,
    random_donors,
    replace_patches,
    without,
)
from ....unet.capture import Capture
from ....unet.hooks import attach_observer

BANK_SEEDS = TUNING_SEEDS[650_000:]
A_STYLE = 4  # pictures of the bank
LEAST, MOST = 0.5, 1.5  # scores that are blended not at all, and wholly


class Steady(Eraser):
    """See ``steady``."""

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.kept: dict[int, dict[int, int]] = defaultdict(dict)

    def _choose(self, call: _Call, chunk: int, image: int, targets: np.ndarray, free: np.ndarray) -> np.ndarray:
        chosen, kept = super()._choose(call, chunk, image, targets, free)[:, 0], self.kept[image]
        held = np.array([kept.get(place, -1) for place in targets.tolist()])
        chosen = np.where(np.isin(held, free), held, chosen)
        kept.update(zip(targets.tolist(), chosen.tolist(), strict=True))
        return chosen[:, None]


class Shift(Eraser):
    """See ``shift``."""

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.kept: dict[int, tuple[int, int]] = {}

    def _choose(self, call: _Call, chunk: int, image: int, targets: np.ndarray, free: np.ndarray) -> np.ndarray:
        height, width = call.grid
        usable = np.zeros((height, width), dtype=bool)
        usable.flat[free] = True
        rows, columns = np.divmod(targets, width)

        def moved(by: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            down, across = rows + by[0], columns + by[1]
            inside = (down >= 0) & (down < height) & (across >= 0) & (across < width)
            down, across = np.where(inside, down, 0), np.where(inside, across, 0)
            return down * width + across, inside & usable[down, across]

        by = self.kept.get(image)
        if by is None or moved(by)[1].mean() < 0.5:
            near = sorted(
                np.ndindex(2 * height - 1, 2 * width - 1), key=lambda d: abs(d[0] - height) + abs(d[1] - width)
            )
            tried = [(down - height + 1, across - width + 1) for down, across in near]
            by = self.kept[image] = max(tried, key=lambda each: moved(each)[1].sum())
        places, good = moved(by)
        return np.where(good, places, super()._choose(call, chunk, image, targets, free)[:, 0])[:, None]


class Sided(Eraser):
    """See ``sided``."""

    def _choose(self, call: _Call, chunk: int, image: int, targets: np.ndarray, free: np.ndarray) -> np.ndarray:
        patches = call.output[chunk * call.images + image].flatten(1).T.float()
        found, others = patches[targets], patches[free]
        direction = direction_between(others, found)
        return free[self._nearest(found, others, direction).argmin(1).numpy()][:, None]

    def _nearest(self, found: Tensor, others: Tensor, direction: Tensor) -> Tensor:
        """Return how far each detected patch is from each donor, [n, m]."""
        along = others @ direction
        beyond = along > ((found @ direction).mean() + along.mean()) / 2
        distance = torch.cdist(without(direction, found), without(direction, others))
        return distance if beyond.all() else distance.masked_fill(beyond, torch.inf)


class Shifted(Sided):
    """See ``shifted``."""

    def _nearest(self, found: Tensor, others: Tensor, direction: Tensor) -> Tensor:
        by = found @ direction - (others @ direction).mean()
        return torch.cdist(found - by[:, None] * direction, others)


class Earlier(Eraser):
    """See ``earlier``; a place in which the concept was from the first step on gets a random donor."""

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.held: dict[tuple[str, Hashable], tuple[Tensor, Tensor]] = {}

    def _replace(self, call: _Call, chunk: int, mask: Tensor) -> list[int]:
        replaced = super()._replace(call, chunk, mask)
        key, rows = (call.hookpoint, call.forward.streams[chunk]), call.rows(chunk)
        free = ~mask[:, None]
        held, known = self.held.get(key, (call.output[rows], torch.zeros_like(free)))
        if call.edited is not None:
            call.edited[rows] = torch.where(known & ~free, held, call.edited[rows])
        self.held[key] = torch.where(free, call.output[rows], held), known | free
        return replaced


class FromBank(Eraser):
    """See ``bank``.

    Args:
        bank: of each block and timestep the patches of pictures of nothing, [M, N, C].
    """

    def __init__(self, *args: Any, bank: dict[tuple[str, float], Tensor]) -> None:
        super().__init__(*args)
        self.bank = bank

    def _replace(self, call: _Call, chunk: int, mask: Tensor) -> list[int]:
        replaced = super()._replace(call, chunk, mask)
        near = min(
            (t for block, t in self.bank if block == call.hookpoint), key=lambda t: abs(t - call.forward.timestep)
        )
        pictures = self.bank[call.hookpoint, near].float()
        for image, cells in enumerate(mask.flatten(1)):
            if not replaced[image] or call.edited is None:
                continue
            row = chunk * call.images + image
            rest = call.output[row].flatten(1).T[~cells].float()
            chosen = pictures[(pictures.mean(1) - rest.mean(0)).square().sum(1).argmin()]
            keys = call.run.info.image_keys
            seed = donor_seed(0, keys[image], call.hookpoint, call.forward.sigma)
            drawn = torch.randint(len(chosen), (int(cells.sum()),), generator=torch.Generator().manual_seed(seed))
            call.edited[row].flatten(1)[:, cells] = chosen[drawn].T.to(call.edited)
        return replaced


class Soft(Eraser):
    """See ``soft``."""

    def _replace(self, call: _Call, chunk: int, mask: Tensor) -> list[int]:
        forward, rows = call.forward, call.rows(chunk)
        likeness = call.run.masks.likeness(forward.streams[chunk], forward.sigma, call.grid)
        # What competition silenced is no more than just below the threshold.
        score = torch.where(mask, likeness, likeness.clamp(max=1.0))
        blended = (score > LEAST) & (mask.flatten(1).any(1)[:, None, None])
        if not blended.any():
            return [0] * call.images
        hard = call.output.clone()
        for image, cells in enumerate(blended.flatten(1).numpy()):
            free = donor_pool(cells, likeness[image].flatten().numpy(), self.replacement.donor_share)
            targets = cells.nonzero()[0]
            if len(targets) and len(free):
                seed = donor_seed(0, call.run.info.image_keys[image], call.hookpoint, forward.sigma)
                donors = random_donors(free, len(targets), torch.Generator().manual_seed(seed))
                row = chunk * call.images + image
                replace_patches(hard, [Edit(row, targets, row, donors)], call.output)
        share = ((score - LEAST) / (MOST - LEAST)).clamp(0, 1)[:, None].to(call.output)
        call.edited = call.output.clone() if call.edited is None else call.edited
        call.edited[rows] = torch.lerp(call.output[rows], hard[rows], share)
        return [int(each) for each in mask.flatten(1).sum(1)]


@cache
def drawn_bank(bench: Any, blocks: tuple[str, ...]) -> dict[tuple[str, float], Tensor]:
    """Draw pictures of nothing in every style and keep their patches at every step."""
    texts = [caption((), style) for style in STYLES for _ in range(A_STYLE)]
    watch = Capture(list(blocks))
    sample(attach_observer(bench.plain, watch), bench.clip, texts, BANK_SEEDS[: len(texts)])
    return {(seen.hookpoint, seen.timestep): seen.embeddings for seen in watch.collected}
