"""How each row of the comparison makes its pictures.

A row is spelled as in benchmarks/erasure.py, with the SAEs of saes.py as hookpoints (``outputs``, ``outputs.one``,
``outputs.ranked``, ``guided``, ``differences``, ``differences.ranked``), or is one of

* ``plain``: unedited; ``omit``: the target is left out of the prompt; ``negative``: it is in the negative prompt;
* ``perpneg SCALE``: it is in the negative prompt of the stock node PerpNegGuider;
* ``inpaint SETTING``: the picture is made, the target detected while it is, and what was found in at least half of the
  steps is drawn anew from a prompt without the target, through the stock node SetLatentNoiseMask;
* ``segmented``: replacement with a mask from outside: the patches of the object are replaced by others that are alike,
  at the blocks where the defaults do it, but they are those that the segmenter finds in the unedited picture of the
  same seed;
* ``idea NAME``: one of ideas.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import comfy.sample
import comfy.samplers
import torch
import torch.nn.functional as F
from torch import Tensor

from ...demo_model.vocabulary import caption
from ...dev.demo_model.sampling import CFG, SAMPLER, SCHEDULER, STEPS, encode, sample, starting_noise
from ...erasure.replacement import Edit, alike_donors, replace_patches
from ...reports.preview import image_mask
from ...sae_models.loaded import LoadedSAE
from ...unet.calls import CONDITIONAL, Forward, RunInfo
from ...unet.hooks import attach_observer
from ...unet.loading import load_sae
from ..erasure import NEGATIVE, OMIT, PLAIN, Prompt, Setting, World
from . import damage, saes, segmenter

PERPNEG, INPAINT, SEGMENTED = "perpneg", "inpaint", "segmented"
OFTEN = 0.5  # share of the steps that a cell must be found in to be drawn anew


class Bench(World):
    """The shipped model, its judges, and all that methods need, each loaded when it is first asked for."""

    def sae(self, site: str) -> LoadedSAE:
        """Return an SAE of saes.py."""
        if site not in self.saes:
            self.saes[site] = load_sae(str(saes.path_of(site)), saes.path_of(site).name)
        return self.saes[site]

    @cached_property
    def damage(self) -> damage.DamageJudge:
        """The measures of damage."""
        return damage.fitted(self.plain, self.clip, self.vae, self.judge)

    @cached_property
    def segmenter(self) -> segmenter.Segmenter:
        """Finds objects in pictures."""
        return segmenter.load(self.judge, self.vae)

    def make(self, method: str, target: str, prompts: Sequence[Prompt]) -> Tensor:
        """Return a picture for each prompt, [N, 128, 128, 3], with a target erased by a method."""
        kind, _, rest = method.partition(" ")
        if kind in SPECIAL:
            return SPECIAL[kind](self, target, prompts, rest)
        model, _ = self.edited(Setting.parse(method), target)
        return self.drawn(model, prompts)

    def drawn(self, model: Any, prompts: Sequence[Prompt], texts: Sequence[str] = (), negative: str = "") -> Tensor:
        """Draw prompts, or other texts from the same noise, with a model."""
        texts, seeds = texts or [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
        return self.vae.decode(sample(model, self.clip, texts, seeds, negative=negative))


def without(target: str, prompts: Sequence[Prompt]) -> list[str]:
    """Return the prompts' captions without the target."""
    return [caption([name for name in p.objects if name != target], p.style) for p in prompts]


def plain(bench: Bench, target: str, prompts: Sequence[Prompt], _: str) -> Tensor:
    """Make unedited pictures."""
    return bench.drawn(bench.model, prompts)


def omit(bench: Bench, target: str, prompts: Sequence[Prompt], _: str) -> Tensor:
    """Leave the target out of the prompt."""
    return bench.drawn(bench.model, prompts, without(target, prompts))


def negative(bench: Bench, target: str, prompts: Sequence[Prompt], _: str) -> Tensor:
    """Name the target in the negative prompt."""
    return bench.drawn(bench.model, prompts, negative=caption((target,), None))


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
    """Draw what was detected anew, from a prompt without the target."""
    from nodes import SetLatentNoiseMask

    model, record = bench.edited(Setting.parse(detector), target)
    seeds = [prompt.seed for prompt in prompts]
    latents = sample(model, bench.clip, [prompt.text for prompt in prompts], seeds)
    assert record.latest is not None
    mask = (image_mask(record.latest, (128, 128), any_step=False) >= OFTEN).float()
    (masked,) = SetLatentNoiseMask().set_mask({"samples": latents}, mask)
    with torch.inference_mode():
        redrawn = comfy.sample.sample(
            bench.model,
            starting_noise([seed + 1_000_000_000 for seed in seeds]),  # the same noise would draw the same again
            STEPS,
            CFG,
            SAMPLER,
            SCHEDULER,
            encode(bench.clip, without(target, prompts)),
            encode(bench.clip, [""] * len(prompts)),
            masked["samples"],
            noise_mask=masked["noise_mask"],
            disable_pbar=True,
            seed=seeds[0],
        )
    return bench.vae.decode(redrawn)


def segmented(bench: Bench, target: str, prompts: Sequence[Prompt], _: str) -> Tensor:
    """Replace what the segmenter finds in the unedited picture."""
    masks = bench.segmenter.masks(bench.drawn(bench.model, prompts), target)
    return bench.drawn(attach_observer(bench.model, GivenMask(masks)), prompts)


SPECIAL = {
    PLAIN: plain,
    OMIT: omit,
    NEGATIVE: negative,
    PERPNEG: perpneg,
    INPAINT: inpaint,
    SEGMENTED: segmented,
}


def saes_of(method: str) -> tuple[str, ...]:
    """Return which SAEs of saes.py a method uses."""
    kind, _, rest = method.partition(" ")
    if kind in SPECIAL and kind != INPAINT:
        return ()
    return Setting.parse(rest if kind == INPAINT else method).sites


class GivenMask:
    """Replaces given patches by others of the same map, which and where as the Patch Replacer's defaults do it.

    But for one thing: any patch outside may be a donor, because nothing says here which of them are like the concept.

    Args:
        masks: of each image of the batch, bool [B, 16, 16].
    """

    hookpoints = ("middle_block.1", saes.SITE)

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks

    def sampling_ranges(self) -> list[tuple[float, float]]:
        """No part of the sampling range is special."""
        return []

    def begin(self, info: RunInfo) -> None:
        """Nothing to set up."""

    def end(self) -> None:
        """Nothing to clean up."""

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, forward: Forward) -> Tensor:
        """Return a block's output with the masked patches of the conditional half replaced."""
        grid = output.shape[-2:]
        inside = F.adaptive_max_pool2d(self.masks[:, None].float(), grid)[:, 0].flatten(1) > 0
        edited = output.clone()
        for chunk, half in enumerate(forward.halves):
            if half != CONDITIONAL:
                continue
            for image, mask in enumerate(inside.numpy()):
                targets, free = mask.nonzero()[0], (~mask).nonzero()[0]
                if not len(targets) or not len(free):
                    continue
                row = chunk * len(self.masks) + image
                donors = alike_donors(output[row].flatten(1).T, targets, free)
                replace_patches(edited, [Edit(row, targets, row, donors)], output)
        return edited
