"""Does it really erase? UA, IRA, CRA and more on the small world, for any settings.

``python dev/host benchmarks.erasure --split tuning "output_blocks.1.1 alike conditional 1.0"`` prints one row a
setting. A setting is: SAE hookpoints joined by ``+``, each perhaps with a range of its own (``@0-0.3``), replacement,
halves, sensitivity, and optionally ``start-end`` percent, ``donors=`` (their share) and ``at=`` (blocks with commas, or
``middle`` for the middle and the SAE's) as in the Patch Replacer, and ``grow=``, ``close=``, ``min_cells=``,
``persistence=``, ``least_share=`` as in the Mask Refiner;
``plain`` is the unedited model. Steering is spelled ``"output_blocks.1.1 SAeUron both -5"``: hookpoint, method,
halves, strength, and optionally ``start-end``, ``latents=`` (the best so many) and ``error=``. What artists do
without any of this: ``omit`` leaves the target out of the prompt, ``negative`` names it in the negative prompt.
Results are kept for each target in ``dev/work/erasure/``, so an interrupted run goes on, and another call prints
them again. The two artefact columns are explained in artefacts.py.

Seeds and prompts of the splits are disjoint (dev/demo_model/sampling.py): settings are chosen on ``tuning``,
reported on
``reporting``.
"""

import argparse
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import numpy as np
from torch import Tensor

from ..demo_model import checkpoint
from ..demo_model.vocabulary import OBJECTS, STYLES, caption
from ..dev.demo_model import classifiers
from ..dev.demo_model.sampling import CFG, REPORTING_SEEDS, SAMPLER, SCHEDULER, STEPS, TUNING_SEEDS, generate
from ..dev.demo_model.train_sae import file_of
from ..erasure.attach import attach
from ..erasure.detection import Detect, Detection, Join, Refine
from ..erasure.record import ErasureRecord
from ..erasure.refinement import Refinement
from ..erasure.replacement import LISTED, MIDDLE_TOO, SAE_BLOCK, Replacement
from ..sae_models.concepts import Concept, ConceptBand
from ..sae_models.loaded import LoadedSAE
from ..steering.attach import steer
from ..steering.steerer import SteeredConcept
from ..steering.steering import METHODS, Steering
from ..unet.loading import load_sae
from . import artefacts, work

RESULTS = work.folder("erasure")
SPLITS = {"tuning": TUNING_SEEDS, "reporting": REPORTING_SEEDS}
PLAIN, OMIT, NEGATIVE = "plain", "omit", "negative"
DEFAULTS = "alike conditional 1.0 donors=0.25 at=middle"  # the nodes' own, after the hookpoint
JUDGED = ("UA", "nothing", "IRA", "CRA", "pair")  # what needs no measure of damage
COLUMNS = (*JUDGED, "strange", "round trip")
PROMPTING = (PLAIN, OMIT, NEGATIVE)  # nothing is attached to the model


@dataclass(frozen=True)
class Prompt:
    """One picture to make: its objects, its style, and the seed of its noise."""

    objects: tuple[str, ...]
    style: str | None  # None leaves it open
    seed: int

    @property
    def text(self) -> str:
        """The caption."""
        return caption(self.objects, self.style)


@dataclass
class Outcome:
    """What the classifiers say of pictures with one target concept; a list entry a picture."""

    gone: list[bool] = field(default_factory=list)  # target prompts: target not found
    nothing: list[bool] = field(default_factory=list)  # target prompts: no object found at all
    others: list[bool] = field(default_factory=list)  # other objects' prompts: that object found
    style: list[bool] = field(default_factory=list)  # all single-object prompts: style right
    both: list[bool] = field(default_factory=list)  # pair prompts: both objects found
    pair: list[bool] = field(default_factory=list)  # pair prompts: target gone, other found
    detected: list[float] = field(default_factory=list)  # target prompts: share of cells detected
    strange: list[bool] = field(default_factory=list)  # single-object prompts: damaged by the first measure
    round_trip: list[bool] = field(default_factory=list)  # and by the second


@dataclass(frozen=True)
class Plan:
    """How many pictures a target gets."""

    singles: int
    others: int
    pairs: int


def prompts_of(target: str, plan: Plan, seeds: range) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
    """Return the target's own prompts, other objects' prompts, and pairs with the target.

    Styles take turns; every picture has a seed of its own, the same for every setting.
    """
    start = seeds.start + OBJECTS.index(target) * 10_000
    rng = np.random.default_rng(start)
    rest = [name for name in OBJECTS if name != target]
    singles = [Prompt((target,), STYLES[i % len(STYLES)], start + i) for i in range(plan.singles)]
    others = [
        Prompt((rest[i % len(rest)],), STYLES[int(rng.integers(len(STYLES)))], start + 2_000 + i)
        for i in range(plan.others)
    ]
    pairs = []
    for i in range(plan.pairs):
        objects = (target, rest[(i * 7 + OBJECTS.index(target)) % len(rest)])
        order = tuple(str(name) for name in rng.permutation(objects))
        pairs.append(Prompt(order, STYLES[i % len(STYLES)], start + 4_000 + i))
    return singles, others, pairs


@dataclass(frozen=True)
class Condition:
    """How pictures are sampled, and what else is on the model.

    Attributes:
        steps, sampler, scheduler, cfg: as in KSampler.
        lora: a LoRA file in ComfyUI's format, at strength 1; "" for none.
    """

    steps: int = STEPS
    sampler: str = SAMPLER
    scheduler: str = SCHEDULER
    cfg: float = CFG
    lora: str = ""

    def stamp(self) -> list[Any]:
        """Return what results depend on; nothing for the usual condition."""
        if self == Condition():
            return []
        return [asdict(replace(self, lora="")), zlib.crc32(Path(self.lora).read_bytes()) if self.lora else 0]


class World:
    """The shipped model, its classifiers, and the SAEs used so far."""

    def __init__(self, condition: Condition = Condition()) -> None:
        self.plain, self.clip, self.vae = checkpoint.load()
        self.condition, self.model = condition, self.plain
        if condition.lora:
            lora = comfy.utils.load_torch_file(condition.lora, safe_load=True)
            self.model, _ = comfy.sd.load_lora_for_models(self.plain, None, lora, 1.0, 0.0)
        self.judge = classifiers.load()
        self.saes: dict[str, LoadedSAE] = {}

    @cached_property
    def artefacts(self) -> artefacts.ArtefactJudge:
        """The measures of damage, fitted to this model's unedited pictures."""
        return artefacts.fitted(self.plain, self.clip, self.vae, self.judge)

    def sae(self, site: str) -> LoadedSAE:
        """Return the SAE of a hookpoint."""
        if site not in self.saes:
            self.saes[site] = load_sae(str(file_of(site)), file_of(site).name)
        return self.saes[site]

    def edited(self, setting: "Setting", target: str) -> tuple[Any, ErasureRecord]:
        """Return the model with one target erased, and the record."""
        if setting.steering is None:
            return attach(self.model, self.detection(setting, target), setting.replacement)
        sae = self.sae(setting.sites[0])
        concept = best_latents(sae.concept(target), setting.latents)
        return steer(self.model, SteeredConcept(sae, concept, setting.start, setting.end), setting.steering)

    def detection(self, setting: "Setting", target: str) -> Detection:
        """Join one leaf for each hookpoint of a setting."""
        joined: Detection | None = None
        for spelled in setting.sites:
            site, _, span = spelled.partition("@")
            start, end = _span(span) if span else (setting.start, setting.end)
            sae = self.sae(site)
            leaf = Detect(sae, sae.concept(target), setting.sensitivity, start, end)
            joined = leaf if joined is None else Join("union", joined, leaf)
        assert joined is not None
        return joined if setting.refinement.is_neutral else Refine(joined, setting.refinement)

    def pictures(self, model: Any, texts: Sequence[str], seeds: Sequence[int], batch: int, negative: str) -> Tensor:
        """Generate a picture for each prompt."""
        how = {name: getattr(self.condition, name) for name in ("steps", "cfg", "sampler", "scheduler")}
        return generate(model, self.clip, self.vae, texts, seeds, batch=batch, negative=negative, **how)


@dataclass(frozen=True)
class Setting:
    """One way to erase."""

    sites: tuple[str, ...]
    replacement: Replacement = field(default_factory=Replacement)
    sensitivity: float = 1.0
    start: float = 0.0
    end: float = 1.0
    refinement: Refinement = field(default_factory=Refinement)
    steering: Steering | None = None
    latents: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Read a setting as the command line spells it."""
        parts = [part for part in text.split() if "=" not in part]
        extras = dict(part.split("=") for part in text.split() if "=" in part)
        mode = parts[1].replace("_", " ") if len(parts) > 1 else Replacement().mode
        halves = parts[2] if len(parts) > 2 else "conditional"
        sensitivity = float(parts[3]) if len(parts) > 3 else 1.0
        start, end = _span(parts[4]) if len(parts) > 4 else (0.0, 1.0)
        if mode in METHODS:
            steering = Steering(mode, sensitivity, extras.get("error", "exact"), halves)
            latents = int(extras["latents"]) if "latents" in extras else None
            return cls((parts[0],), start=start, end=end, steering=steering, latents=latents)
        spelled = extras.pop("at", "")
        at_middle = spelled == "middle"
        at = () if at_middle else tuple(name for name in spelled.split(",") if name)
        where = LISTED if at else MIDDLE_TOO if at_middle else SAE_BLOCK
        replacement = Replacement(mode, halves, donor_share=float(extras.pop("donors", 1)), where=where, at=at)
        least_share = float(extras.pop("least_share", 0))
        refinement = Refinement(**{key: int(value) for key, value in extras.items()}, least_share=least_share)
        return cls(tuple(parts[0].split("+")), replacement, sensitivity, start, end, refinement)


def _span(text: str) -> tuple[float, float]:
    start, end = text.split("-")
    return float(start), float(end)


def best_latents(concept: Concept, count: int | None) -> Concept:
    """Return a concept with only its best latents by score in each band; all of them where count is None."""
    if count is None:
        return concept

    def best(band: ConceptBand) -> ConceptBand:
        order = sorted(range(len(band.latents)), key=lambda i: -band.scores[i])[:count]
        parts = (band.latents, band.thresholds, band.scores, band.means)
        return ConceptBand(*(tuple(part[i] for i in order if part) for part in parts))

    return replace(concept, bands=tuple(best(band) for band in concept.bands))


def run_target(
    world: World, text: str, target: str, plan: Plan, seeds: range, batch: int, damage: bool = True
) -> Outcome:
    """Make and judge all pictures of one target under one setting, with the measures of damage or without."""
    model, record = (world.model, None) if text in PROMPTING else world.edited(Setting.parse(text), target)
    return judged_run(world, model, record, target, plan, seeds, batch, text, damage)


def judged_run(
    world: World,
    model: Any,
    record: ErasureRecord | None,
    target: str,
    plan: Plan,
    seeds: range,
    batch: int,
    prompting: str = PLAIN,
    damage: bool = True,
) -> Outcome:
    """Make all pictures of one target with a model and judge them.

    Args:
        world: whose VAE, text encoder and judges are used.
        model, record: edited or not; None where nothing is detected.
        target, plan, seeds: see ``prompts_of``.
        batch: pictures drawn at once.
        prompting: `OMIT` or `NEGATIVE` for what those do to the prompts; anything else leaves them as they are.
        damage: whether damage is measured too.
    """
    kinds = prompts_of(target, plan, seeds)
    prompts = [prompt for kind in kinds for prompt in kind]
    omit = prompting == OMIT
    texts = [caption([o for o in p.objects if o != target], p.style) if omit else p.text for p in prompts]
    negative = caption((target,), None) if prompting == NEGATIVE else ""
    pictures = world.pictures(model, texts, [p.seed for p in prompts], batch, negative)
    objects, styles = world.judge.classify(pictures)
    outcome = outcome_of(target, kinds, objects > world.judge.threshold, styles.argmax(1))
    if record is not None and record.latest is not None:
        outcome.detected.append(float(record.latest.heat().mean()))
    if not damage:
        return outcome
    alone = prompts[: plan.singles + plan.others]
    damaged = world.artefacts.damaged(pictures[: len(alone)], [STYLES.index(prompt.style) for prompt in alone])
    outcome.strange, outcome.round_trip = damaged[:, 0].tolist(), damaged[:, 1].tolist()
    return outcome


def outcome_of(target: str, kinds: Sequence[list[Prompt]], found: Tensor, styles: Tensor) -> Outcome:
    """Sort what the judges say by what was asked for.

    Args:
        target: the object to erase.
        kinds: the target's prompts, other objects' prompts, pairs; see ``prompts_of``.
        found: which objects each picture shows, bool [N, 20], in the order of the kinds.
        styles: index of each picture's style, [N].
    """
    outcome = Outcome()
    singles, others, pairs = kinds
    shown = iter(found.tolist())
    for _ in singles:
        row = next(shown)
        outcome.gone.append(not row[OBJECTS.index(target)])
        outcome.nothing.append(not any(row))
    for prompt in others:
        outcome.others.append(next(shown)[OBJECTS.index(prompt.objects[0])])
    for prompt in pairs:
        row = next(shown)
        other = next(name for name in prompt.objects if name != target)
        has_target, has_other = row[OBJECTS.index(target)], row[OBJECTS.index(other)]
        outcome.both.append(has_target and has_other)
        outcome.pair.append(has_other and not has_target)
    outcome.style = [STYLES[s] == p.style for s, p in zip(styles.tolist(), singles + others, strict=False)]
    return outcome


def results_of(
    world: World | None,
    text: str,
    split: str,
    plan: Plan,
    batch: int,
    condition: Condition = Condition(),
    targets: Sequence[str] = OBJECTS,
    damage: bool = True,
) -> tuple[World | None, dict[str, Outcome]]:
    """Return the outcome of every target, running those that are not on disk yet.

    Args:
        world: one of the condition, or None.
        text, split, plan, batch: see the module.
        condition: how pictures are sampled.
        targets: what is erased in turn.
        damage: whether damage is measured too.
    """
    extras = [*condition.stamp(), *([] if damage else ["no damage"])]
    stamp = zlib.crc32(json.dumps([asdict(plan), _stamps(text), *extras]).encode())
    folder = RESULTS / split / f"{text.replace(' ', '_').replace('/', '-')}.{stamp:08x}"
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for target in targets:
        path = folder / f"{target}.json"
        if not path.exists():
            world = world or World(condition)
            outcome = run_target(world, text, target, plan, SPLITS[split], batch, damage)
            path.write_text(json.dumps(asdict(outcome)))
        outcomes[target] = Outcome(**json.loads(path.read_text()))
    return world, outcomes


def _stamps(text: str) -> list[int]:
    """Digest the weights that a setting uses, so that results of other weights are never mixed in."""
    sites = () if text in PROMPTING else Setting.parse(text).sites
    files = [checkpoint.DEFAULT_PATH, *(file_of(site.partition("@")[0]) for site in sites)]
    return [zlib.crc32(Path(file).read_bytes()) for file in files]


def half_width(values: Sequence[bool]) -> float:
    """Return half the width of the 95 % Wilson interval of a share."""
    n, p, z = len(values), float(np.mean(values)), 1.96
    return z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))


def row_of(outcomes: dict[str, Outcome], plain: dict[str, Outcome]) -> dict[str, list[bool]]:
    """Pool the pictures of all targets; every target has as many, so that is the mean over targets."""
    pooled: dict[str, list[bool]] = {name: [] for name in COLUMNS}
    for target, outcome in outcomes.items():
        pooled["UA"] += outcome.gone
        pooled["nothing"] += outcome.nothing
        pooled["IRA"] += outcome.others
        pooled["CRA"] += outcome.style
        pooled["strange"] += outcome.strange
        pooled["round trip"] += outcome.round_trip
        pooled["pair"] += [ok for ok, both in zip(outcome.pair, plain[target].both, strict=True) if both]
    return pooled


def print_table(rows: dict[str, dict[str, list[bool]]], columns: Sequence[str] = COLUMNS) -> None:
    """Print a Markdown table: percent, half width of the 95 % interval, number of pictures."""
    print("| setting | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, pooled in rows.items():
        cells = [f"{100 * np.mean(v):.1f} ± {100 * half_width(v):.1f} (n {len(v)})" for v in map(pooled.get, columns)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def add_options(parser: argparse.ArgumentParser, plan: Plan) -> None:
    """Let the command line say what is drawn of each target; ``plan`` is the default."""
    parser.add_argument("--split", choices=list(SPLITS), default="tuning")
    parser.add_argument("--singles", type=int, default=plan.singles, help="pictures a target of the target alone")
    parser.add_argument("--others", type=int, default=plan.others, help="pictures a target of the other objects")
    parser.add_argument(
        "--pairs", type=int, default=plan.pairs, help="pictures a target of the target and another object"
    )
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--per-target", action="store_true", help="also print each target's UA")


def print_shares(name: str, outcomes: dict[str, Outcome]) -> None:
    """Print the UA of each target."""
    print(name, {target: round(100 * float(np.mean(o.gone))) for target, o in outcomes.items()}, flush=True)


def main() -> None:
    """Run settings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+")
    add_options(parser, Plan(8, 19, 8))
    arguments = parser.parse_args()
    plan = Plan(arguments.singles, arguments.others, arguments.pairs)
    world, plain = results_of(None, PLAIN, arguments.split, plan, arguments.batch)
    rows = {PLAIN: row_of(plain, plain)}
    for text in arguments.settings:
        if text != PLAIN:
            world, outcomes = results_of(world, text, arguments.split, plan, arguments.batch)
            rows[text] = row_of(outcomes, plain)
            if arguments.per_target:
                print_shares(text, outcomes)
        print_table({k: v for k, v in rows.items() if k in (PLAIN, text)})
    print_table(rows)
