"""Ideas to better random donors, which are no part of the pack.

``python host benchmarks.comparison.ideas`` prints the table's columns for no edit, the Patch Replacer's defaults, each
idea and each of `SETTINGS`, on tuning seeds; ``--split reporting`` on others. Without a word about it patches are
found, and replaced at the same blocks, as by the defaults; ideas differ in what is put in, or in what counts as found:

* ``alike``: the donor most like the patch, once the direction from the free patches' mean to the detected ones' is
  taken out of both;
* ``steady``: random donors, but a place keeps its own as long as that may be one, at both blocks and from step to step;
* ``shift SHARE``: what lies at one distance from all detected patches, the one at which most may be donors (``SHARE``
  of the undetected may be); it is kept while half of them may. The rest gets random ones;
* ``earlier``: what the same place held when the concept was last not seen there;
* ``bank``: patches of pictures of no object, drawn beforehand in every style; of the picture that is most like the rest
  of this one, at the nearest timestep;
* ``soft``: donors are blended in, wholly where a patch is half as much again as detected, by half at the threshold;
* ``smooth``: a patch is detected by the mean score of this step and the last two;
* ``twice``: a patch is detected if it was in at least two of this step and the last two;
* ``finish T``: below timestep T patches are replaced by those that the unconditional half has in their place, also
  where the concept was seen twice before.

A row is spelled ``idea NAME`` in methods.py. ``--share I/N`` makes one of N processes' part of the pictures only.
"""

import argparse
from collections import defaultdict, deque
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...canvas.sampling import TUNING_SEEDS, sample
from ...canvas.vocabulary import OBJECTS, STYLES, caption
from ...erasure.capture import Capture
from ...erasure.detection import Detect, Look
from ...erasure.eraser import Eraser, _Call
from ...erasure.model_patcher import attach_observer
from ...erasure.record import UNCONDITIONAL, ErasureRecord
from ...erasure.replacement import LISTED, Edit, Replacement, donor_pool, donor_seed, random_donors, replace_patches
from ..erasure import PLAIN, Plan, Prompt
from . import unedited

BLOCKS = ("middle_block.1", "output_blocks.1.1")
REPLACEMENT = Replacement("random", "conditional", donor_share=0.25, where=LISTED, at=BLOCKS)
BANK_SEEDS = TUNING_SEEDS[650_000:]
A_STYLE = 4  # pictures of the bank
LOOKS = 3
LEAST, MOST = 0.5, 1.5  # scores that are blended not at all, and wholly
IDEAS = (
    "alike",
    "steady",
    "shift 0.5",
    "shift 1",
    "earlier",
    "bank",
    "soft",
    "smooth",
    "twice",
    "finish 300",
    "finish 500",
)
# What the nodes offer already: other donors, another eagerness, a part of the steps, a mask refined.
SETTINGS = (
    "outputs unconditional conditional 1.0 donors=0.25 at=middle",
    "outputs nearest conditional 1.0 donors=0.25 at=middle",
    "outputs random both 1.0 donors=0.25 at=middle",
    "outputs random conditional 1.0 0-0.5 donors=0.25 at=middle",
    "outputs random conditional 1.0 0-0.8 donors=0.25 at=middle",
    "outputs random conditional 1.0 0.2-1 donors=0.25 at=middle",
    "outputs random conditional 0.8 donors=0.25 at=middle",
    "outputs random conditional 1.0 donors=0.25 at=middle min_cells=2",
    "outputs random conditional 1.0 donors=0.25 at=middle least_share=0.05",
    "outputs random conditional 1.0 donors=0.25 at=middle least_share=0.09",
)
TURN = 7  # its seeds are no other's: the table's rounds begin at 0


class Alike(Eraser):
    """See ``alike``."""

    def _choose(self, call: _Call, image: int, targets: np.ndarray, free: np.ndarray) -> np.ndarray:
        row = call.forward.halves.index(0) * call.images + image
        patches = call.output[row].flatten(1).T.float()
        found, others = patches[targets], patches[free]
        direction = torch.nn.functional.normalize(found.mean(0) - others.mean(0), dim=0)
        found, others = (each - (each @ direction)[:, None] * direction for each in (found, others))
        return free[torch.cdist(found, others).argmin(1).numpy()][:, None]


class Steady(Eraser):
    """See ``steady``."""

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.kept: dict[int, dict[int, int]] = defaultdict(dict)

    def _choose(self, call: _Call, image: int, targets: np.ndarray, free: np.ndarray) -> np.ndarray:
        chosen, kept = super()._choose(call, image, targets, free)[:, 0], self.kept[image]
        held = np.array([kept.get(place, -1) for place in targets.tolist()])
        chosen = np.where(np.isin(held, free), held, chosen)
        kept.update(zip(targets.tolist(), chosen.tolist(), strict=True))
        return chosen[:, None]


class Shift(Eraser):
    """See ``shift``."""

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.kept: dict[int, tuple[int, int]] = {}

    def _choose(self, call: _Call, image: int, targets: np.ndarray, free: np.ndarray) -> np.ndarray:
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
        return np.where(good, places, super()._choose(call, image, targets, free)[:, 0])[:, None]


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


class Remembering(Eraser):
    """See ``smooth`` and ``twice``.

    Args:
        vote: whether looks are counted instead of averaged.
    """

    def __init__(self, *args: Any, vote: bool) -> None:
        super().__init__(*args)
        self.vote = vote

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.looks: dict[int, deque[Look]] = defaultdict(lambda: deque(maxlen=LOOKS))

    def _look(self, leaf: Detect, read: Tensor, call: _Call) -> Look:
        look = super()._look(leaf, read, call)
        looks = self.looks[id(leaf)]
        looks.append(look)
        if self.vote:
            votes = torch.stack([each.detected for each in looks]).sum(0)
            return Look(votes >= min(2, len(looks)), look.likeness)
        scores = [torch.where(each.detected, each.likeness, each.likeness.clamp(max=1.0)) for each in looks]
        return Look(torch.stack(scores).mean(0) > 1, look.likeness)


class Finishing(Eraser):
    """See ``finish``.

    Args:
        below: the timestep.
    """

    def __init__(self, *args: Any, below: int) -> None:
        super().__init__(*args)
        self.below = below

    def begin(self, info: Any) -> None:
        super().begin(info)
        self.seen: dict[Hashable, dict[float, Tensor]] = defaultdict(dict)

    def _mask(self, call: _Call, chunk: int) -> Tensor | None:
        mask, seen = super()._mask(call, chunk), self.seen[call.forward.streams[chunk]]
        if mask is None:
            return None
        if call.looked:
            seen[call.forward.sigma] = mask
        if call.forward.timestep >= self.below:
            return mask
        return mask | (torch.stack([mask, *seen.values()]).sum(0) >= 2)

    def _replace(self, call: _Call, chunk: int, mask: Tensor) -> list[int]:
        if call.forward.timestep >= self.below or UNCONDITIONAL not in call.forward.halves:
            return super()._replace(call, chunk, mask)
        call.edited = call.output.clone() if call.edited is None else call.edited
        rows, source = call.rows(chunk), call.rows(call.forward.halves.index(UNCONDITIONAL))
        call.edited[rows] = torch.where(mask[:, None], call.output[source], call.output[rows])
        return [int(each) for each in mask.flatten(1).sum(1)]


@cache
def drawn_bank(bench: Any) -> dict[tuple[str, float], Tensor]:
    """Draw pictures of nothing in every style and keep their patches at every step."""
    texts = [caption((), style) for style in STYLES for _ in range(A_STYLE)]
    watch = Capture(list(BLOCKS))
    sample(attach_observer(bench.plain, watch), bench.clip, texts, BANK_SEEDS[: len(texts)])
    return {(seen.hookpoint, seen.timestep): seen.embeddings for seen in watch.collected}


def eraser_of(idea: str, bench: Any, target: str) -> Eraser:
    """Return what carries out an idea on a Bench."""
    name, *numbers = idea.split()
    sae = bench.sae("outputs")
    given = Detect(sae, sae.concept(target)), REPLACEMENT, ErasureRecord()
    if name == "bank":
        return FromBank(*given, bank=drawn_bank(bench))
    if name in ("smooth", "twice"):
        return Remembering(*given, vote=name == "twice")
    if name == "finish":
        return Finishing(*given, below=int(numbers[0]))
    if name == "shift":
        return Shift(given[0], replace(REPLACEMENT, donor_share=float(numbers[0])), given[2])
    return {"alike": Alike, "earlier": Earlier, "soft": Soft, "steady": Steady}[name](*given)


def draw(bench: Any, target: str, prompts: Sequence[Prompt], idea: str) -> Tensor:
    """Draw prompts with a target erased by an idea."""
    model = attach_observer(bench.model, eraser_of(idea, bench, target), [bench.sae("outputs").patcher])
    return bench.drawn(model, prompts)


def main() -> None:
    """Run ideas and print the table."""
    from .table import DEFAULTS, Job, bench, outcome_of, print_table, row_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="as in methods.py; all ideas and settings if left out")
    parser.add_argument("--split", choices=["tuning", "reporting"], default="tuning")
    parser.add_argument("--plan", nargs=3, type=int, default=(5, 14, 3), help="pictures a target: alone, others, pairs")
    parser.add_argument("--share", default="0/1", help="which part of the pictures to make: I/N")
    given = parser.parse_args()
    defaults = f"outputs {DEFAULTS}"
    methods = [PLAIN, defaults, *(given.methods or [*(f"idea {idea}" for idea in IDEAS), *SETTINGS])]
    named = {{PLAIN: "no edit", defaults: "the defaults"}.get(method, method): method for method in methods}
    jobs = [Job(given.split, method, target, TURN, Plan(*given.plan)) for method in methods for target in OBJECTS]
    share, of = (int(part) for part in given.share.split("/"))
    unedited.make(bench().model, bench().clip, bench().vae, unedited.files())
    for job in jobs[share::of]:
        outcome_of(job, bench)
    if of == 1:
        print_table(named, jobs, "")
        plain = row_of(jobs, PLAIN)
        for name, method in named.items():
            print(f"{name}: IRA against no edit {change(row_of(jobs, method), plain, 'IRA')}", flush=True)


def change(row: Any, plain: Any, column: str) -> str:
    """Return by how much a column differs from no edit, picture by picture, with its 95 % interval."""
    pairs = zip(row.values(column, plain), plain.values(column, plain), strict=True)
    changes = np.array([100.0 * now - 100.0 * before for now, before in pairs])
    return f"{changes.mean():+.1f} ± {1.96 * changes.std() / len(changes) ** 0.5:.1f} (n {len(changes)})"
