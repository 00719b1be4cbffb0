"""How good is the region that two passes edit? Against where the judges see the target in the unedited image.

``python dev/host benchmarks.region --split tuning "latest=600 belief=0.05" "latest=400"`` samples without edits, notes
what the detectors answer, and prints one row a setting: the overlap (IoU) of the region with the true area of objects
alone and in pairs, the share of places that were missed, the share of images without the concept that got a region, and
milliseconds an image. Settings are those of ``erasure.region.RegionSettings``; the defaults are the first row. The
overlap is measured before the region is grown. What was seen is kept in ``dev/work/region/``.

``--sides 16 64 128`` samples nothing and prints what a region takes on latents of these sides.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..erasure.eraser import Eraser, Task
from ..erasure.evidence import Seen
from ..erasure.history import ErasureRecord
from ..erasure.region import DEFAULT, RegionSettings, find_regions
from ..erasure.replacement import Replacement
from ..unet.hooks import attach_observer
from .framework import storage
from .framework.prompts import SPLITS, Plan, prompts_of
from .framework.runs import Scope, add_options, scope_of
from .framework.settings import ONE_PASS, SITE, Setting
from .framework.tables import Table, add_json, average, share
from .framework.world import World

TIMED = 20  # regions of each side
SINGLE, OTHER, PAIR = ("single", "other", "pair")


def setting_of(text: str) -> RegionSettings:
    """Read ``name=value`` pairs; what is left out stays at the default."""
    given = dict(pair.split("=") for pair in text.split())
    return replace(DEFAULT, **{name: type(getattr(DEFAULT, name))(float(value)) for name, value in given.items()})


def look(world: World, target: str, scope: Scope) -> dict[str, Any]:
    """Sample a target's prompts without edits.

    Returns:
        ``seen``, ``latents`` and ``images`` of all prompts, what was asked for (``kinds``), and where the judges
        see the target, on the latent's grid (``truth``, bool [N, h, w]).
    """
    prompts = prompts_of(target, scope.plan, SPLITS[scope.split])
    setting = Setting.parse(f"{SITE} {ONE_PASS}")
    tree = world.tree(setting, target)
    eraser = Eraser(tree, Replacement("none"), ErasureRecord())
    eraser.task = Task()
    model = attach_observer(world.model, eraser, [world.sae(SITE).patcher])
    parts: list[dict[str, Any]] = []
    for start in range(0, len(prompts), scope.batch):
        some = prompts[start : start + scope.batch]
        latents = world.latents(model, [p.text for p in some], [p.seed for p in some])
        seen = eraser.evidence.gather(len(some), (int(latents.shape[-2]), int(latents.shape[-1])))
        assert seen is not None
        parts.append({"seen": vars(seen), "latents": latents, "images": world.vae.decode(latents)})
    images, latents = (torch.cat([part[name] for part in parts]) for name in ("images", "latents"))
    truth = world.judge.masks(images, target)
    kinds = [PAIR if len(p.objects) == 2 else SINGLE if p.objects == (target,) else OTHER for p in prompts]
    shown = world.shows(images, target)
    seen = {name: torch.cat([part["seen"][name] for part in parts], 1) for name in ("mask", "score", "known")}
    seen["timesteps"] = parts[0]["seen"]["timesteps"]
    return {"seen": seen, "latents": latents, "images": images, "truth": truth, "kinds": kinds, "shown": shown}


def looked(world: World, target: str, scope: Scope) -> dict[str, Any]:
    """Return what ``look`` gives, from disk if it is there."""
    stamp = storage.stamp(vars(scope.plan), storage.digest(world.path_of(SITE)))
    path: Path = storage.folder("region") / scope.split / f"{target}.{stamp}.pt"
    if not path.exists():
        found = look(world, target, scope)
        with storage.whole(path) as partial:
            torch.save(found, partial)
    loaded: dict[str, Any] = torch.load(path)
    return loaded


def overlaps(found: Tensor, truth: Tensor) -> Tensor:
    """Return the intersection over union of masks [N, H, W], [N]."""
    return (found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)


def row(settings: RegionSettings, all_seen: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the entries of one setting."""
    found: dict[str, list[float]] = {kind: [] for kind in (SINGLE, PAIR)}
    missed: list[bool] = []
    false: list[bool] = []
    spent = count = 0.0
    for one in all_seen:
        began = time.process_time()
        regions = find_regions(Seen(**one["seen"]), one["latents"], replace(settings, grow=0))
        spent, count = spent + time.process_time() - began, count + len(regions)
        values = overlaps(regions, one["truth"])
        for region, truth, kind, shown, value in zip(
            regions, one["truth"], one["kinds"], one["shown"], values.tolist(), strict=True
        ):
            if kind == OTHER and not shown:
                false.append(bool(region.any()))
            elif kind != OTHER and shown and bool(truth.any()):
                missed.append(not bool(region.any()))
                if bool(region.any()):
                    found[kind].append(value)
    overlap = [average(found[kind]) for kind in (SINGLE, PAIR)]
    return [*overlap, share(missed), share(false), round(1000 * spent / max(count, 1), 1)]


def times(side: int, rounds: int) -> list[float]:
    """Return the CPU milliseconds that a region takes on latents of one side: a square object on noise."""
    generator, grid = torch.Generator().manual_seed(0), max(side // 4, 2)
    mask = torch.zeros(1, 1, grid, grid, dtype=torch.bool)
    mask[..., grid // 4 : grid // 4 * 3, grid // 4 : grid // 4 * 3] = True
    seen = Seen(torch.tensor([100.0]), mask, mask * 10.0, torch.ones(1, 1, dtype=torch.bool))
    latent = 0.3 * torch.randn(1, 4, side, side, generator=generator)
    latent += F.interpolate(mask[0].float()[:, None], (side, side))
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        find_regions(seen, latent)
        spent.append(1000 * (time.process_time() - began))
    return spent


def print_sides(sides: Sequence[int], path: Path | None) -> None:
    """Print what a region takes on latents of several sides."""
    table = Table("side of the latents", ("ms an image",))
    for side in sides:
        table.add(str(side), average(times(side, TIMED)))
    table.write(path)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*")
    add_options(parser, Plan(4, 4, 4))
    parser.add_argument("--sides", nargs="+", type=int)
    add_json(parser)
    arguments = parser.parse_args()
    if arguments.sides:
        print_sides(arguments.sides, arguments.json)
        return
    world, scope = World(), scope_of(arguments)
    all_seen = [looked(world, target, scope) for target in scope.targets]
    table = Table("setting", ("IoU alone", "IoU in pairs", "missed %", "false %", "ms an image"))
    for text in dict.fromkeys(["", *arguments.settings]):
        table.add(text or "default", *row(setting_of(text), all_seen))
    table.write(arguments.json, split=scope.split)
