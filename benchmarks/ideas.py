"""Ideas to better random donors, which are no part of the pack. They run; they have not been measured yet.

``python host benchmarks.ideas --split tuning alike earlier`` prints erasure.py's columns for each idea, with no edit
and the Patch Replacer's defaults beside it. In all of them patches are found, and replaced at the same blocks, as by
the defaults; ideas differ in what is put in, or in what counts as found:

* ``alike``: the donor most like the patch, once the direction from the free patches' mean to the detected ones' is
  taken out of both;
* ``earlier``: what the same place held when the concept was last not seen there;
* ``bank``: patches of pictures of no object, drawn beforehand in every style; of the picture that is most like the rest
  of this one, at the nearest timestep;
* ``soft``: donors are blended in, wholly where a patch is half as much again as detected, by half at the threshold;
* ``smooth``: a patch is detected by the mean score of this step and the last two;
* ``twice``: a patch is detected if it was in at least two of this step and the last two.

Ideas that need no code of their own (donors from the unconditional half or near by, a part of the steps, refinement of
the mask) are settings of ``benchmarks.erasure``.
"""

import argparse
import json
import zlib
from collections import defaultdict, deque
from collections.abc import Hashable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..canvas import checkpoint
from ..canvas.sampling import TUNING_SEEDS, sample
from ..canvas.train_sae import file_of
from ..canvas.vocabulary import OBJECTS, STYLES, caption
from ..erasure.capture import Capture
from ..erasure.detection import Detect, Look
from ..erasure.eraser import Eraser, _Call
from ..erasure.model_patcher import attach_observer
from ..erasure.record import ErasureRecord
from ..erasure.replacement import LISTED, Edit, Replacement, donor_pool, donor_seed, random_donors, replace_patches
from .erasure import (
    PLAIN,
    RESULTS,
    SPLITS,
    Outcome,
    Plan,
    World,
    add_options,
    judged_run,
    print_table,
    results_of,
    row_of,
)

SITE, BLOCKS = "output_blocks.1.1", ("middle_block.1", "output_blocks.1.1")
DEFAULTS = f"{SITE} random conditional 1.0 donors=0.25 at=middle"
REPLACEMENT = Replacement("random", "conditional", donor_share=0.25, where=LISTED, at=BLOCKS)
BANK_SEEDS = TUNING_SEEDS[650_000:]
A_STYLE = 4  # pictures of the bank
LOOKS = 3
LEAST, MOST = 0.5, 1.5  # scores that are blended not at all, and wholly


class Alike(Eraser):
    """See ``alike``."""

    def _choose(self, call: _Call, image: int, targets: np.ndarray, free: np.ndarray) -> np.ndarray:
        row = call.forward.halves.index(0) * call.images + image
        patches = call.output[row].flatten(1).T.float()
        found, others = patches[targets], patches[free]
        direction = torch.nn.functional.normalize(found.mean(0) - others.mean(0), dim=0)
        found, others = (each - (each @ direction)[:, None] * direction for each in (found, others))
        return free[torch.cdist(found, others).argmin(1).numpy()][:, None]


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


def drawn_bank(world: World) -> dict[tuple[str, float], Tensor]:
    """Draw pictures of nothing in every style and keep their patches at every step."""
    texts = [caption((), style) for style in STYLES for _ in range(A_STYLE)]
    watch = Capture(list(BLOCKS))
    sample(attach_observer(world.plain, watch), world.clip, texts, BANK_SEEDS[: len(texts)])
    return {(seen.hookpoint, seen.timestep): seen.embeddings for seen in watch.collected}


def eraser_of(idea: str, world: World, target: str, record: ErasureRecord) -> Eraser:
    """Return what carries out an idea."""
    sae = world.sae(SITE)
    given = Detect(sae, sae.concept(target)), REPLACEMENT, record
    if idea == "bank":
        return FromBank(*given, bank=drawn_bank(world))
    if idea in ("smooth", "twice"):
        return Remembering(*given, vote=idea == "twice")
    return {"alike": Alike, "earlier": Earlier, "soft": Soft}[idea](*given)


IDEAS = ("alike", "earlier", "bank", "soft", "smooth", "twice")


def outcomes_of(world: World, idea: str, split: str, plan: Plan, batch: int) -> dict[str, Outcome]:
    """Return the outcome of every target, running those that are not on disk yet."""
    weights = [zlib.crc32(path.read_bytes()) for path in (checkpoint.DEFAULT_PATH, file_of(SITE))]
    stamp = zlib.crc32(json.dumps([asdict(plan), weights]).encode())
    folder = Path(RESULTS) / split / f"idea_{idea}.{stamp:08x}"
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for target in OBJECTS:
        path = folder / f"{target}.json"
        if not path.exists():
            record = ErasureRecord()
            eraser = eraser_of(idea, world, target, record)
            model = attach_observer(world.model, eraser, [world.sae(SITE).patcher])
            path.write_text(json.dumps(asdict(judged_run(world, model, record, target, plan, SPLITS[split], batch))))
        outcomes[target] = Outcome(**json.loads(path.read_text()))
    return outcomes


def main() -> None:
    """Run ideas and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ideas", nargs="*", choices=[*IDEAS, []], metavar="IDEA", help="all if left out")
    add_options(parser, Plan(6, 8, 4))
    given = parser.parse_args()
    plan, world = Plan(given.singles, given.others, given.pairs), World()
    _, plain = results_of(world, PLAIN, given.split, plan, given.batch)
    rows = {PLAIN: row_of(plain, plain)}
    rows["the defaults"] = row_of(results_of(world, DEFAULTS, given.split, plan, given.batch)[1], plain)
    for idea in given.ideas or IDEAS:
        rows[idea] = row_of(outcomes_of(world, idea, given.split, plan, given.batch), plain)
        print_table({idea: rows[idea]})
    print_table(rows)
