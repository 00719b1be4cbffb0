"""How each row of the comparison makes its images.

A row is spelled as in framework/settings.py, with the SAEs of saes.py as hookpoints (``outputs``, ``outputs.one``,
``outputs.ranked``, ``guided``, ``differences``, ``differences.ranked``), or is one of

* ``plain``: unedited; ``omit``: the target is left out of the prompt; ``negative``: it is in the negative prompt;
* ``perpneg SCALE``: it is in the negative prompt of the stock node PerpNegGuider;
* ``inpaint SETTING``: the image is made, the target detected meanwhile, and what was found in at least half of the
  steps is sampled anew from a prompt without the target, through the stock node SetLatentNoiseMask;
* ``segmented``: replacement with a mask from outside, see given_mask.py: the patches where the judges see the target in
  the unedited image of the same seed are replaced.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...demo_model.sizes import SIDE
from ...demo_model.vocabulary import caption
from ...dev.demo_model.sampling import CFG, SAMPLER, SCHEDULER, STEPS, encode, sample, starting_noise
from ...reports.preview import image_mask
from ...unet.hooks import attach_observer
from ..artifacts import both
from ..framework.prompts import Prompt
from ..framework.runs import PROMPTING, worded
from ..framework.settings import Setting
from ..framework.world import World
from . import saes
from .given_mask import GivenMask

PERPNEG, INPAINT, SEGMENTED = "perpneg", "inpaint", "segmented"
OFTEN = 0.5  # share of the steps that a patch must be found in to be sampled anew


class Bench(World):
    """The shipped model, its judges, and all that methods need, each loaded when it is first asked for."""

    def __init__(self) -> None:
        super().__init__(path_of=saes.path_of)

    @cached_property
    def artifacts(self) -> both.BothJudge:
        """The measures of artifacts."""
        return both.fitted(self.judge, *self.unedited)

    def make(self, method: str, target: str, prompts: Sequence[Prompt]) -> Tensor:
        """Return an image for each prompt, [N, H, W, 3], with a target erased by a method."""
        kind, _, rest = method.partition(" ")
        if kind in PROMPTING:
            return self.drawn(self.model, prompts, *worded(kind, target, prompts))
        if kind in SPECIAL:
            return SPECIAL[kind](self, target, prompts, rest)
        model, _ = self.edited(Setting.parse(method), target)
        return self.drawn(model, prompts)

    def drawn(self, model: Any, prompts: Sequence[Prompt], texts: Sequence[str] = (), negative: str = "") -> Tensor:
        """Generate images of prompts, or of other texts from the same noise, with a model."""
        texts, seeds = texts or [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
        return self.vae.decode(sample(model, self.clip, texts, seeds, negative=negative))


def perpneg(bench: Bench, target: str, prompts: Sequence[Prompt], scale: str) -> Tensor:
    """Name the target in the negative prompt of the stock node PerpNegGuider."""
    from comfy_extras.nodes_perpneg import PerpNegGuider

    conds = (
        encode(bench.clip, texts)
        for texts in ([p.text for p in prompts], [caption((target,), None)] * len(prompts), [""] * len(prompts))
    )
    guider = PerpNegGuider.execute(bench.model, *conds, CFG, float(scale)).args[0]
    schedule = comfy.samplers.calculate_sigmas(bench.model.get_model_object("model_sampling"), SCHEDULER, STEPS)
    noise = starting_noise([prompt.seed for prompt in prompts])
    sampler = comfy.samplers.sampler_object(SAMPLER)
    with torch.inference_mode():
        latents = guider.sample(
            noise, torch.zeros_like(noise), sampler, schedule, disable_pbar=True, seed=prompts[0].seed
        )
    return bench.vae.decode(latents)


def inpaint(bench: Bench, target: str, prompts: Sequence[Prompt], detector: str) -> Tensor:
    """Sample anew what was detected, from a prompt without the target."""
    from nodes import SetLatentNoiseMask

    model, record = bench.edited(Setting.parse(detector), target)
    seeds = [prompt.seed for prompt in prompts]
    latents = sample(model, bench.clip, [prompt.text for prompt in prompts], seeds)
    assert record.latest is not None
    mask = (image_mask(record.latest, (SIDE, SIDE), any_step=False) >= OFTEN).float()
    (masked,) = SetLatentNoiseMask().set_mask({"samples": latents}, mask)
    with torch.inference_mode():
        redrawn = comfy.sample.sample(
            bench.model,
            starting_noise([seed + 1_000_000_000 for seed in seeds]),  # the same noise would draw the same again
            STEPS,
            CFG,
            SAMPLER,
            SCHEDULER,
            encode(bench.clip, [prompt.without(target) for prompt in prompts]),
            encode(bench.clip, [""] * len(prompts)),
            masked["samples"],
            noise_mask=masked["noise_mask"],
            disable_pbar=True,
            seed=seeds[0],
        )
    return bench.vae.decode(redrawn)


def segmented(bench: Bench, target: str, prompts: Sequence[Prompt], _: str) -> Tensor:
    """Replace the patches where the judges see the target in the unedited image."""
    masks = bench.judge.masks(bench.drawn(bench.model, prompts), target)
    return bench.drawn(attach_observer(bench.model, GivenMask(masks)), prompts)


SPECIAL = {PERPNEG: perpneg, INPAINT: inpaint, SEGMENTED: segmented}


def saes_of(method: str) -> tuple[str, ...]:
    """Return which SAEs of saes.py a method uses."""
    kind, _, rest = method.partition(" ")
    if kind in (*PROMPTING, PERPNEG, SEGMENTED):
        return ()
    return Setting.parse(rest if kind == INPAINT else method).hookpoints
