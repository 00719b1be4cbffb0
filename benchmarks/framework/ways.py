"""Every way to erase that the erasure table knows, as a function from prompts to latents.

A way is the text of a setting (settings.py), one of PROMPTING, or ``inpaint`` and a setting: what that setting detects
in half of the steps is sampled anew from the prompt without the target.
"""

from collections.abc import Callable, Sequence
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ...demo_model.vocabulary import caption
from ...dev.demo_model.sampling import encode, starting_noise
from ...erasure.history import ErasureRecord
from ...reports.preview import image_mask
from .prompts import Prompt
from .settings import Setting, fill_text
from .world import World

# What artists do without an SAE: nothing, leave the target out of the prompt, name it in the negative prompt.
PROMPTING = PLAIN, OMIT, NEGATIVE = "plain", "omit", "negative"
INPAINT = "inpaint"
OFTEN = 0.5  # share of the steps that a patch must be found in to be sampled anew
OTHER_NOISE = 1_000_000_000  # added to seeds; the same noise would give the same image again

# From prompts to latents [N, C, h, w], and whether a check at the end said that the target remains, if there was one.
Way = Callable[[Sequence[Prompt]], tuple[Tensor, tuple[bool, ...]]]


def worded(way: str, target: str, prompts: Sequence[Prompt]) -> tuple[list[str], str]:
    """Return the texts of prompts and the negative prompt, as one of PROMPTING, or any other setting, has them."""
    texts = [prompt.without(target) if way == OMIT else prompt.text for prompt in prompts]
    return texts, caption((target,), None) if way == NEGATIVE else ""


def setting_in(text: str) -> Setting | None:
    """Return the setting that a way needs, None for one of PROMPTING."""
    return None if text in PROMPTING else Setting.parse(text.removeprefix(f"{INPAINT} "))


def way_of(world: World, text: str, target: str) -> Way:
    """Return what a text spells, for one target."""
    setting = setting_in(text)
    if setting is None:
        return by_model(world, world.model, target, text)
    if text.startswith(f"{INPAINT} "):
        return lambda prompts: (inpainted(world, target, prompts, setting), ())

    def edited(prompts: Sequence[Prompt]) -> tuple[Tensor, tuple[bool, ...]]:
        model, record = edited_for(world, setting, target, prompts)
        latents = world.latents(model, [p.text for p in prompts], [p.seed for p in prompts])
        return latents, () if record.latest is None else record.latest.remaining

    return edited


def edited_for(world: World, setting: Setting, target: str, prompts: Sequence[Prompt]) -> tuple[Any, ErasureRecord]:
    """Return the model with one target erased, and the record, for a run of some prompts; a fill is worded for each."""
    fill = None
    if setting.fill:
        fill = encode(world.clip, [fill_text(setting.fill, target, prompt) for prompt in prompts])[0][0]
    return world.edited(setting, target, fill)


def by_model(world: World, model: Any, target: str, way: str = PLAIN) -> Way:
    """Return a way that is a model, with prompts worded as one of PROMPTING has them."""

    def made(prompts: Sequence[Prompt]) -> tuple[Tensor, tuple[bool, ...]]:
        texts, negative = worded(way, target, prompts)
        return world.latents(model, texts, [prompt.seed for prompt in prompts], negative), ()

    return made


def inpainted(world: World, target: str, prompts: Sequence[Prompt], setting: Setting) -> Tensor:
    """Sample anew what was detected, from prompts without the target; return latents [N, C, h, w]."""
    from nodes import SetLatentNoiseMask

    model, record = world.edited(setting, target)
    seeds = [prompt.seed for prompt in prompts]
    latents = world.latents(model, [prompt.text for prompt in prompts], seeds)
    assert record.latest is not None
    size = tuple(world.vae.decode(latents[:1]).shape[1:3])
    mask = (image_mask(record.latest, (int(size[0]), int(size[1])), any_step=False) >= OFTEN).float()
    (masked,) = SetLatentNoiseMask().set_mask({"samples": latents}, mask)
    condition = world.condition
    with torch.inference_mode():
        redrawn: Tensor = comfy.sample.sample(
            world.model,
            starting_noise([seed + OTHER_NOISE for seed in seeds], (int(latents.shape[-2]), int(latents.shape[-1]))),
            condition.steps,
            condition.cfg,
            condition.sampler,
            condition.scheduler,
            encode(world.clip, [prompt.without(target) for prompt in prompts]),
            encode(world.clip, [""] * len(prompts)),
            masked["samples"],
            noise_mask=masked["noise_mask"],
            disable_pbar=True,
            seed=seeds[0],
        )
    return redrawn
