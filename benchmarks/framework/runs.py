"""Generates and judges the images of every target; what is on disk is not made again."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...demo_model.vocabulary import OBJECTS
from . import storage
from .changes import Areas, Sampled, changes
from .facts import commit
from .outcomes import Outcome, Row, outcome_of
from .prompts import SPLITS, Plan, Prompt, prompts_of, round_of
from .settings import new_object
from .ways import PLAIN, Way, setting_in, way_of
from .world import World


class ArtifactJudge(Protocol):
    """Tells which images show artifacts."""

    def found(self, images: Tensor, styles: Sequence[str | None]) -> dict[str, list[bool]]:
        """Return by the name of each measure in which images it finds artifacts.

        Args:
            images: [N, H, W, 3] in 0..1.
            styles: what was asked for; None for no style.
        """


@dataclass(frozen=True)
class Scope:
    """What is generated: for which targets, how many images of each, on whose seeds, so many at once.

    ``turn`` is a round, with seeds of its own; None for the images that are not made in rounds.
    """

    split: str
    plan: Plan
    batch: int = 40
    targets: Sequence[str] = OBJECTS
    turn: int | None = None


def prompts_in(target: str, scope: Scope) -> list[Prompt]:
    """Return what is asked for of one target."""
    seeds = SPLITS[scope.split]
    if scope.turn is None:
        return prompts_of(target, scope.plan, seeds)
    return round_of(target, scope.plan, seeds, scope.turn)


def sampled(world: World, way: Way, target: str, scope: Scope) -> Sampled:
    """Sample all prompts of one target in some way; those that name the target first, and others apart."""
    prompts = prompts_in(target, scope)
    there = [i for i, prompt in enumerate(prompts) if target in prompt.objects]
    kinds = there, [i for i in range(len(prompts)) if i not in there]
    parts: list[tuple[list[int], Tensor, tuple[bool, ...]]] = []
    for kind in kinds:
        for start in range(0, len(kind), scope.batch):
            places = kind[start : start + scope.batch]
            parts.append((places, *way([prompts[i] for i in places])))
    order = torch.tensor([i for places, _, _ in parts for i in places]).argsort()
    latents = torch.cat([latents for _, latents, _ in parts])[order]
    images = torch.cat([world.vae.decode(latents) for _, latents, _ in parts])[order]
    said = [remains for _, _, remaining in parts for remains in remaining]
    remaining = tuple(said[i] for i in order.tolist()) if len(said) == len(prompts) else ()
    found = world.judge.classify(images)[0] > world.judge.threshold
    return Sampled(latents, images, found, remaining)


def unedited_run(world: World, target: str, scope: Scope) -> Sampled:
    """Return the unedited images of one target, sampling them the first time."""
    stamp = storage.stamp(asdict(scope.plan), world.condition.stamp(), scope.batch)
    name = target if scope.turn is None else f"{target}.{scope.turn}"
    path = storage.folder("erasure") / scope.split / f"unedited.{stamp}" / f"{name}.pt"
    if not path.exists():
        found = sampled(world, way_of(world, PLAIN, target), target, scope)
        with storage.whole(path) as partial:
            torch.save({"latents": found.latents}, partial)
        return found
    latents = torch.load(path)["latents"]
    images = torch.cat([world.vae.decode(part) for part in latents.split(scope.batch)])
    objects = world.judge.classify(images)[0] > world.judge.threshold
    return Sampled(latents, images, objects, ())


def judged_run(
    world: World,
    way: Way,
    target: str,
    scope: Scope,
    artifacts: ArtifactJudge | None = None,
    areas: Areas | None = None,
) -> Outcome:
    """Generate all images of one target in some way, and judge them.

    Args:
        world: whose VAE, text encoder and judges are used.
        way: how the images are made.
        target: the object to erase.
        scope: what is generated.
        artifacts: looks for artifacts too; None for no such judge.
        areas: finds objects, to see what else changed; None if nobody asks.
    """
    prompts, made = prompts_in(target, scope), sampled(world, way, target, scope)
    outcome = outcome_of(target, prompts, made.found, world.judge.classify(made.images)[1].argmax(1))
    outcome.commit = commit()
    alone = len(prompts) - scope.plan.pairs
    # The object that a swap asks for is one more that may be found.
    new = OBJECTS.index(new_object(target))
    outcome.swapped = [bool(made.found[i, new]) for i, p in enumerate(prompts) if p.objects == (target,)]
    if artifacts is not None:
        outcome.artifacts = artifacts.found(made.images[:alone], [prompt.style for prompt in prompts[:alone]])
    if areas is not None:
        outcome.changes = changes(target, prompts, unedited_run(world, target, scope), made, areas, OBJECTS)
    return outcome


def run_target(
    world: World,
    text: str,
    target: str,
    scope: Scope,
    artifacts: ArtifactJudge | None = None,
    areas: Areas | None = None,
) -> Outcome:
    """Generate and judge all images of one target under one setting."""
    return judged_run(world, way_of(world, text, target), target, scope, artifacts, areas)


def row_of(
    targets: Sequence[str],
    path_of: Callable[[str], Path],
    make: Callable[[str], Outcome],
    unedited: Row | None = None,
) -> Row:
    """Return the outcome of every target from its file, making those that are not on disk yet.

    Args:
        targets: what is erased in turn.
        path_of: returns a target's file.
        make: makes a target's outcome.
        unedited: what the row is compared with; itself if left out.
    """
    found: Mapping[tuple[str, int], Outcome] = {
        (target, 0): storage.kept(path_of(target), Outcome, lambda target=target: make(target))  # type: ignore[misc]
        for target in targets
    }
    return Row(found, found if unedited is None else unedited.outcomes)


def results_of(
    world: World,
    text: str,
    scope: Scope,
    unedited: Row | None = None,
    artifacts: Callable[[], ArtifactJudge] | None = None,
    areas: Callable[[], Areas] | None = None,
) -> Row:
    """Return a setting's row.

    Args:
        world: under the condition to measure.
        text: the setting, see settings.py, or one of PROMPTING.
        scope: what is generated.
        unedited: what the row is compared with; itself if left out.
        artifacts: makes a judge of artifacts, once there is something to judge; None for no such judge.
        areas: makes what finds objects, likewise; None if what else changed is not asked for.
    """
    setting = setting_in(text)
    sites = () if setting is None else setting.hookpoints
    weights = [storage.digest(world.path_of(site)) for site in sites]
    stamp = storage.stamp(
        asdict(scope.plan), weights, world.condition.stamp(), artifacts is not None, areas is not None
    )
    folder = storage.folder("erasure") / scope.split / f"{storage.file_name(text)}.{stamp}"

    def make(target: str) -> Outcome:
        judges = (None if each is None else each() for each in (artifacts, areas))
        return run_target(world, text, target, scope, *judges)

    return row_of(scope.targets, lambda target: folder / f"{target}.json", make, unedited)


def add_options(parser: argparse.ArgumentParser, plan: Plan) -> None:
    """Let the command line say what is generated of each target; ``plan`` is the default."""
    parser.add_argument("--split", choices=list(SPLITS), default="tuning")
    parser.add_argument(
        "--targets", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT", help="all if left out"
    )
    parser.add_argument("--singles", type=int, default=plan.singles, help="images a target of the target alone")
    parser.add_argument("--others", type=int, default=plan.others, help="images a target of the other objects")
    parser.add_argument("--pairs", type=int, default=plan.pairs, help="images a target of it beside another object")
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--per-target", action="store_true", help="also print each target's UA")


def scope_of(given: argparse.Namespace) -> Scope:
    """Return what the options of ``add_options`` ask for."""
    return Scope(given.split, Plan(given.singles, given.others, given.pairs), given.batch, given.targets)


def print_targets(name: str, row: Row) -> None:
    """Print the UA of each target."""
    shares = {target: round(100 * sum(o.gone) / len(o.gone)) for (target, _), o in row.outcomes.items()}
    print(name, shares, flush=True)
