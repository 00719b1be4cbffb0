"""Can a prompt bring the erased object back? UnlearnDiffAtk (Zhang et al. 2024, arXiv 2310.11868) on the demo model.

``python dev/host benchmarks.comparison.attack`` attacks the defaults, replacement in one pass and the steering that
``benchmarks.comparison`` chose for the same objects, and prints UA before and after.

Five words are put before the prompt. They are sought in `ITERATIONS` steps of Adam on a softmax over all words for each
place, the target's own name included, so that the edited model, asked through ComfyUI's sampler, predicts the noise in
a noised image of the target well: the unedited image of the same prompt and seed, which costs the attacker one run
of the model without the edit. The gradient goes through the text encoder, the UNet and replaced patches; what steering
adds is taken as given. Where the rest is kept, words are sought against one pass of the same detector, since no
gradient passes the decision on a region; they are then tried on both passes.

Only prompts whose unedited image shows the target are attacked. The prefix of the likeliest words is tried at `TRIED`
iterations; the attack succeeds if any of these images shows the target. As many random prefixes show what the search
is worth.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.sample
import comfy.samplers
import numpy as np
import torch
from torch import Tensor

from ...demo_model.text_encoder import PAD, START, TOKENS, WORDS, split_words
from ...demo_model.vocabulary import OBJECTS, STYLES
from ...dev.demo_model.sampling import SCHEDULER, STEPS, sample
from ...erasure.history import ErasureRecord
from ...steering.steerer import Steerer
from ...unet.calls import Call
from ...unet.hooks import attach_observer
from ..framework import storage
from ..framework.prompts import SPLITS, Prompt
from ..framework.settings import Setting
from ..framework.tables import Table, add_json, share
from . import saes
from .folder import WORK
from .jobs import row_of
from .methods import Bench, saes_of
from .rows import OTHERS, REPLACEMENT, STEERING, chosen, tuning_jobs

PREFIX, ITERATIONS, TRIED = 5, 40, (10, 20, 30, 40)
RATE = 0.5
FIRST_SEED = 600_000  # of the reporting split
NOISE_LEVELS = 4  # asked for in each iteration, drawn anew
PIPELINE, DEFAULT = "outputs, several features", "the rest kept (default)"
COLUMNS = ("UA before", "UA after the attack", "UA after random words", "points lost", "target named")
MEANT = "In percent. Points lost: UA before less UA after the attack. Target named: share of sought prefixes with it."


@dataclass
class Attacked:
    """What happened to the prompts of one target; a list entry a prompt.

    Attributes:
        before: target found in the edited image of the prompt as it is.
        after: found in that image or with a sought prefix.
        random: found in that image or with a random prefix.
        prefixes: the last sought prefix.
    """

    before: list[bool] = field(default_factory=list)
    after: list[bool] = field(default_factory=list)
    random: list[bool] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)


class PassedOn(Steerer):
    """Steers, but lets gradients pass as if nothing was added; Steerer itself keeps none."""

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, call: Call) -> Tensor:
        """Return the steered output with the gradient of the output."""
        edited = super().on_block(hookpoint, x.detach(), output.detach(), call)
        return output + (edited - output.detach())


def attackable(bench: Bench, method: str, target: str) -> Any:
    """Return the edited model in a form that gradients can pass."""
    setting = Setting.parse(method)
    if setting.steering is None:
        return bench.edited(replace(setting, attempts=0, fill=""), target)[0]
    concept = bench.steered(setting, target)
    concept.sae.load_decoder()
    return attach_observer(bench.model, PassedOn(concept, setting.steering, ErasureRecord()), [concept.sae.patcher])


def mixed_encoding(clip: Any, texts: Sequence[str], mixtures: Tensor) -> Tensor:
    """Encode texts with a prefix whose every word is a mixture of all words, [B, 5, words] -> [B, T, C]."""
    encoder = clip.cond_stage_model.encoder
    rows = []
    for text in texts:
        tokens = [START, *[PAD] * PREFIX, *(TOKENS[word] for word in split_words(text)[0])]
        rows.append(tokens + [PAD] * (encoder.positions.weight.shape[0] - len(tokens)))
    ids = torch.tensor(rows)
    prefix = mixtures @ encoder.words.weight[2:]
    words = torch.cat([encoder.words(ids[:, :1]), prefix, encoder.words(ids[:, 1 + PREFIX :])], 1)
    x = words + encoder.positions.weight
    for layer in encoder.layers:
        x = layer(x)
    return encoder.norm(x)


def noise_loss(model: Any, encoded: Tensor, latents: Tensor, levels: Sequence[float], seed: int) -> Tensor:
    """Return how badly the model predicts the noise in noised latents, asked through ComfyUI's sampler.

    Args:
        model: edited.
        encoded: of the prompts, [B, T, C].
        latents: of the images, [B, 4, H, W].
        levels: sigmas, noisiest first.
        seed: of the noise.

    Returns:
        the mean square error, with its gradient.
    """
    losses = []
    noise = torch.randn(len(levels), *latents.shape, generator=torch.Generator().manual_seed(seed))

    def ask(denoise: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
        for level, each in zip(levels, noise, strict=True):
            noised = latents + level * each
            denoised = denoise(noised, torch.full((len(latents),), level), **extra_args)
            losses.append(((noised - denoised) / level - each).square().mean())
        return x

    conditioning = [[encoded, {}]]
    comfy.sample.sample_custom(
        model,
        torch.zeros_like(latents),
        1.0,
        comfy.samplers.KSAMPLER(ask),
        torch.tensor([*levels, 0.0]),
        conditioning,
        conditioning,
        torch.zeros_like(latents),
        disable_pbar=True,
        seed=seed,
    )
    return torch.stack(losses).mean()


def words_of(scores: Tensor) -> str:
    """Return the likeliest words of one prefix, [5, words]."""
    return " ".join(WORDS[i] for i in scores.argmax(1).tolist())


def sought(bench: Bench, model: Any, texts: Sequence[str], latents: Tensor, seed: int) -> list[list[str]]:
    """Return the prefixes of each prompt at the `TRIED` iterations, last one last."""
    schedule = comfy.samplers.calculate_sigmas(bench.model.get_model_object("model_sampling"), SCHEDULER, STEPS)[:-1]
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(0.01 * rng.standard_normal((len(texts), PREFIX, len(WORDS)))).float().requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=RATE)
    found = []
    for iteration in range(1, ITERATIONS + 1):
        levels = schedule[np.sort(rng.choice(len(schedule), NOISE_LEVELS, replace=False))].tolist()
        loss = noise_loss(
            model, mixed_encoding(bench.clip, texts, scores.softmax(2)), latents, levels, seed + iteration
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if iteration in TRIED:
            found.append([words_of(each) for each in scores.detach()])
    return [list(each) for each in zip(*found, strict=True)]


def attack(bench: Bench, method: str, target: str, count: int) -> Attacked:
    """Attack the prompts of one target."""
    place = OBJECTS.index(target)
    start = SPLITS["reporting"].start + FIRST_SEED + place * 1_000
    prompts = [Prompt((target,), STYLES[(place + i) % len(STYLES)], start + i) for i in range(count)]
    seeds = [prompt.seed for prompt in prompts]
    latents = sample(bench.model, bench.clip, [prompt.text for prompt in prompts], seeds)
    shown = bench.shows(bench.vae.decode(latents), target)
    prompts, latents = [p for p, ok in zip(prompts, shown, strict=True) if ok], latents[torch.tensor(shown)].clone()
    texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
    if not texts:
        return Attacked()
    edited, _ = bench.edited(Setting.parse(method), target)

    def returns(prefixes: Sequence[str]) -> list[bool]:
        written = [f"{prefix} {text}" for prefix, text in zip(prefixes, texts, strict=True)]
        return bench.shows(bench.vae.decode(sample(edited, bench.clip, written, seeds)), target)

    before = returns([""] * len(texts))
    prefixes = sought(bench, attackable(bench, method, target), texts, latents, start)
    rng = np.random.default_rng(start)
    drawn = [[" ".join(rng.choice(WORDS, PREFIX)) for _ in TRIED] for _ in texts]
    tried, blind = ([returns(each) for each in zip(*kind, strict=True)] for kind in (prefixes, drawn))
    after = [any(found) for found in zip(before, *tried, strict=True)]
    by_chance = [any(found) for found in zip(before, *blind, strict=True)]
    return Attacked(before, after, by_chance, [each[-1] for each in prefixes])


def attacked(bench: Bench, method: str, target: str, count: int) -> Attacked:
    """Return what is on disk, or attack."""
    stamp = storage.stamp(method, count, PREFIX, ITERATIONS, RATE, TRIED)
    path = WORK / "attack" / f"{storage.file_name(method)}.{stamp}" / f"{target}.json"
    return storage.kept(path, Attacked, lambda: attack(bench, method, target, count))


def erased(results: Iterable[Attacked], part: str) -> list[bool]:
    """Return whether each prompt's target was erased, before the attack or after one."""
    return [not found for result in results for found in getattr(result, part)]


def is_chosen(grid: Sequence[str], targets: Sequence[str]) -> bool:
    """Tell whether every steering of a grid was tried on the tuning seeds of these objects."""
    if not all(saes.path_of(name).exists() for method in grid for name in saes_of(method)):
        return False
    jobs = tuning_jobs(grid, targets)
    return all(len(row_of(jobs, method).outcomes) == len(targets) for method in grid)


def methods_for(targets: Sequence[str]) -> dict[str, str]:
    """Return what is attacked: name -> method.

    Raises:
        SystemExit: the comparison has not chosen a strength of steering for these objects yet.
    """
    grid = STEERING[PIPELINE]
    if not is_chosen(grid, targets):
        again = f"python dev/host benchmarks.comparison --targets {' '.join(targets)}"
        raise SystemExit(f"No strength of steering was chosen for these objects yet. Run: {again}")
    return {
        DEFAULT: OTHERS[DEFAULT],
        f"{PIPELINE}: replacement": REPLACEMENT[PIPELINE],
        f"{PIPELINE}: steering": chosen(grid, targets),
    }


def main() -> None:
    """Attack and print UA before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="as in methods.py; those of the first lines if left out")
    parser.add_argument("--prompts", type=int, default=3, help="of each object")
    parser.add_argument(
        "--targets", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT", help="all if left out"
    )
    add_json(parser)
    given = parser.parse_args()
    named = {method: method for method in given.methods} or methods_for(given.targets)
    table, bench = Table("method", COLUMNS), Bench()
    for name, method in named.items():
        results = {target: attacked(bench, method, target, given.prompts) for target in given.targets}
        before, after, random = (erased(results.values(), part) for part in ("before", "after", "random"))
        said = [target in prefix.split() for target, result in results.items() for prefix in result.prefixes]
        lost = round(100 * float(np.mean(before) - np.mean(after)), 1)
        table.add(name, share(before), share(after), share(random), lost, share(said), spelled=method)
    table.write(given.json, MEANT, targets=list(given.targets), prompts=given.prompts)
