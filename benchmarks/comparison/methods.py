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

import comfy.samplers
import torch
from torch import Tensor

from ...demo_model.vocabulary import caption
from ...dev.demo_model.sampling import CFG, SAMPLER, SCHEDULER, STEPS, encode, sample, starting_noise
from ...unet.hooks import attach_observer
from ..artifacts import both
from ..framework.prompts import Prompt
from ..framework.settings import Setting
from ..framework.ways import INPAINT, PROMPTING, inpainted, worded
from ..framework.world import World
from . import saes
from .given_mask import GivenMask

PERPNEG, SEGMENTED = "perpneg", "segmented"


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
    return bench.vae.decode(inpainted(bench, target, prompts, Setting.parse(detector)))


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
