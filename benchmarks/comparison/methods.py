"""How each row of the comparison makes its images.

A row is spelled as in framework/settings.py, with the SAEs of saes.py as hookpoints (``outputs``, ``outputs.one``,
``outputs.ranked``, ``guided``, ``differences``, ``differences.ranked``), or is one of

* one of framework/ways.py;
* ``perpneg SCALE``: it is in the negative prompt of the stock node PerpNegGuider;
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
from ...dev.demo_model.sampling import CFG, SAMPLER, SCHEDULER, STEPS, encode, starting_noise
from ...unet.hooks import attach_observer
from ..artifacts import both
from ..framework.prompts import Prompt
from ..framework.ways import Way, setting_in, way_of
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

    def way(self, method: str, target: str) -> Way:
        """Return how a method erases a target."""
        kind, _, rest = method.partition(" ")
        if kind not in SPECIAL:
            return way_of(self, method, target)
        return lambda prompts: (SPECIAL[kind](self, target, prompts, rest), ())

    def latents_of(self, model: Any, prompts: Sequence[Prompt]) -> Tensor:
        """Sample prompts with a model, [N, C, h, w]."""
        return self.latents(model, [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts])


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
        latents: Tensor = guider.sample(
            noise, torch.zeros_like(noise), sampler, schedule, disable_pbar=True, seed=prompts[0].seed
        )
    return latents


def segmented(bench: Bench, target: str, prompts: Sequence[Prompt], _: str) -> Tensor:
    """Replace the patches where the judges see the target in the unedited image."""
    masks = bench.judge.masks(bench.vae.decode(bench.latents_of(bench.model, prompts)), target)
    return bench.latents_of(attach_observer(bench.model, GivenMask(masks)), prompts)


SPECIAL = {PERPNEG: perpneg, SEGMENTED: segmented}


def saes_of(method: str) -> tuple[str, ...]:
    """Return which SAEs of saes.py a method uses."""
    setting = None if method.partition(" ")[0] in SPECIAL else setting_in(method)
    return () if setting is None else setting.hookpoints
