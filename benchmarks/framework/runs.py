"""Generates and judges the images of every target; what is on disk is not made again."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ...demo_model.vocabulary import OBJECTS, caption
from . import storage
from .facts import commit
from .outcomes import Outcome, Row, outcome_of
from .prompts import SPLITS, Plan, Prompt, prompts_of
from .settings import Setting
from .world import World

# What artists do without an SAE: nothing, leave the target out of the prompt, name it in the negative prompt.
PROMPTING = PLAIN, OMIT, NEGATIVE = "plain", "omit", "negative"


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
    """What is generated: for which targets, how many images of each, on whose seeds, so many at once."""

    split: str
    plan: Plan
    batch: int = 40
    targets: Sequence[str] = OBJECTS


def worded(way: str, target: str, prompts: Sequence[Prompt]) -> tuple[list[str], str]:
    """Return the texts of prompts and the negative prompt, as one of PROMPTING, or any other setting, has them."""
    texts = [prompt.without(target) if way == OMIT else prompt.text for prompt in prompts]
    return texts, caption((target,), None) if way == NEGATIVE else ""


def judged_run(
    world: World, model: Any, target: str, scope: Scope, way: str = PLAIN, artifacts: ArtifactJudge | None = None
) -> Outcome:
    """Generate all images of one target with a model, edited or not, and judge them.

    Args:
        world: whose VAE, text encoder and judges are used.
        model: edited or not.
        target: the object to erase.
        scope: what is generated.
        way: how prompts are worded, see ``worded``.
        artifacts: looks for artifacts too; None for no such judge.
    """
    prompts = prompts_of(target, scope.plan, SPLITS[scope.split])
    texts, negative = worded(way, target, prompts)
    images = world.images(model, texts, [prompt.seed for prompt in prompts], scope.batch, negative)
    objects, styles = world.judge.classify(images)
    outcome = outcome_of(target, prompts, objects > world.judge.threshold, styles.argmax(1))
    outcome.commit = commit()
    if artifacts is not None:
        alone = prompts[: scope.plan.singles + scope.plan.others]
        outcome.artifacts = artifacts.found(images[: len(alone)], [prompt.style for prompt in alone])
    return outcome


def run_target(world: World, text: str, target: str, scope: Scope, artifacts: ArtifactJudge | None = None) -> Outcome:
    """Generate and judge all images of one target under one setting."""
    model = world.model if text in PROMPTING else world.edited(Setting.parse(text), target)[0]
    return judged_run(world, model, target, scope, text, artifacts)


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
) -> Row:
    """Return a setting's row.

    Args:
        world: under the condition to measure.
        text: the setting, see settings.py, or one of PROMPTING.
        scope: what is generated.
        unedited: what the row is compared with; itself if left out.
        artifacts: makes a judge of artifacts, once there is something to judge; None for no such judge.
    """
    sites = () if text in PROMPTING else Setting.parse(text).hookpoints
    weights = [storage.digest(world.path_of(site)) for site in sites]
    stamp = storage.stamp(asdict(scope.plan), weights, world.condition.stamp(), artifacts is not None)
    folder = storage.folder("erasure") / scope.split / f"{storage.file_name(text)}.{stamp}"

    def make(target: str) -> Outcome:
        return run_target(world, text, target, scope, None if artifacts is None else artifacts())

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
