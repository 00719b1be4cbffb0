"""What is asked for: prompts of every target, each with a seed of its own that is the same for every setting.

Seeds and prompts of the splits are disjoint: settings are chosen on ``tuning`` and reported on ``reporting``.
"""

from dataclasses import dataclass

import numpy as np

from ...demo_model.vocabulary import OBJECTS, STYLES, caption
from ...dev.demo_model.sampling import REPORTING_SEEDS, TUNING_SEEDS

SPLITS = {"tuning": TUNING_SEEDS, "reporting": REPORTING_SEEDS}
FORMS = (*STYLES, None)  # None: the plain prompt, which names no style
FIRST_OF_ROUNDS = 500_000  # of a split; what lies before belongs to ``prompts_of``


@dataclass(frozen=True)
class Prompt:
    """One image to generate: its objects, its style, and the seed of its noise."""

    objects: tuple[str, ...]
    style: str | None  # None leaves it open
    seed: int

    @property
    def text(self) -> str:
        """The caption."""
        return caption(self.objects, self.style)

    def without(self, target: str) -> str:
        """Return the caption with an object left out."""
        return caption([name for name in self.objects if name != target], self.style)


@dataclass(frozen=True)
class Plan:
    """How many images a target gets: of itself alone, of other objects, and of itself beside another."""

    singles: int
    others: int
    pairs: int


def prompts_of(target: str, plan: Plan, seeds: range) -> list[Prompt]:
    """Return the target's own prompts, then other objects' prompts, then pairs with the target, all with a style."""
    place = OBJECTS.index(target)
    start = seeds.start + place * 10_000
    rng = np.random.default_rng(start)
    rest = [name for name in OBJECTS if name != target]
    # Each target begins elsewhere, so that all styles and objects have their turn where a target gets few images.
    prompts = [Prompt((target,), STYLES[(i + 3 * place) % len(STYLES)], start + i) for i in range(plan.singles)]
    for i in range(plan.others):
        style = STYLES[int(rng.integers(len(STYLES)))]
        prompts.append(Prompt((rest[(i + 5 * place) % len(rest)],), style, start + 2_000 + i))
    for i in range(plan.pairs):
        objects = (target, rest[(i * 7 + place) % len(rest)])
        order = tuple(str(name) for name in rng.permutation(objects))
        prompts.append(Prompt(order, STYLES[(i + 3 * place) % len(STYLES)], start + 4_000 + i))
    return prompts


def round_of(target: str, plan: Plan, seeds: range, turn: int) -> list[Prompt]:
    """Return one round of the same three kinds, in which styles and the plain prompt take turns."""
    place = OBJECTS.index(target)
    start = seeds.start + FIRST_OF_ROUNDS + place * 10_000 + turn * 1_000
    rest = [name for name in OBJECTS if name != target]
    prompts = []
    for i in range(plan.singles):
        prompts.append(Prompt((target,), FORMS[(turn * plan.singles + i) % len(FORMS)], start + i))
    for i in range(plan.others):
        number = turn * plan.others + i
        form = FORMS[(number + place) % len(FORMS)]
        prompts.append(Prompt((rest[(number + 5 * place) % len(rest)],), form, start + 300 + i))
    for i in range(plan.pairs):
        number = turn * plan.pairs + i
        pair = (target, rest[(7 * number + place) % len(rest)])
        prompts.append(Prompt(pair[:: 1 if number % 2 else -1], FORMS[(number + place) % len(FORMS)], start + 600 + i))
    return prompts
