"""Draws pictures by an idea."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ....dev.demo_model.sampling import CFG, SAMPLER, SCHEDULER, STEPS, encode, sample, starting_noise
from ....erasure.detection import Detect
from ....erasure.eraser import Eraser
from ....erasure.record import ErasureRecord
from ....erasure.replacement import LISTED, Replacement
from ....unet.hooks import attach_observer
from ...erasure import Prompt
from .donors import Earlier, FromBank, Shift, Shifted, Sided, Soft, Steady, drawn_bank
from .endings import LAST_BLOCK, MANY, Finishing, Quiet
from .looks import Remembering

BLOCKS = ("middle_block.1", "output_blocks.1.1")
REPLACEMENT = Replacement("random", "conditional", donor_share=0.25, where=LISTED, at=BLOCKS)
QUIETS = "quiet", "hush", "bare", "mute", "calm"
AGAIN_SEEDS = 1_000_000_000  # far from all others: the same noise would draw the same again


def eraser_of(idea: str, bench: Any, target: str) -> Eraser:
    """Return what carries out an idea on a Bench."""
    name, *numbers = idea.split()
    sae = bench.sae("outputs")
    given = Detect(sae, sae.concept(target)), REPLACEMENT, ErasureRecord()
    if name == "bank":
        return FromBank(*given, bank=drawn_bank(bench, BLOCKS))
    if name in ("smooth", "twice"):
        return Remembering(*given, vote=name == "twice")
    if name == "finish":
        return Finishing(*given, below=int(numbers[0]))
    keen = 1.0
    if name == "keen":
        keen, name, *numbers = float(numbers[0]), *(numbers[1:] or ["quiet", "0", "1"])
    if name in QUIETS:
        at_last = replace(REPLACEMENT, at=(*BLOCKS, LAST_BLOCK))
        how = {"how": name, "below": int(numbers[0]), "looks": int(numbers[1]), "keen": keen}
        return Quiet(given[0], at_last, given[2], **how)
    if name == "shift":
        return Shift(given[0], replace(REPLACEMENT, donor_share=float(numbers[0])), given[2])
    plain = {"random": Eraser, "steady": Steady, "shifted": Shifted, "sided": Sided, "earlier": Earlier, "soft": Soft}
    return plain[name](*given)


def draw(bench: Any, target: str, prompts: Sequence[Prompt], idea: str) -> Tensor:
    """Draw prompts with a target erased by an idea."""
    first, *rest = idea.split()
    anew = first in ("again", "redraw")
    eraser = eraser_of((" ".join(rest[1:]) or "random") if anew else idea, bench, target)
    model = attach_observer(bench.model, eraser, [bench.sae("outputs").patcher])
    texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
    latents = sample(model, bench.clip, texts, seeds)
    if not anew:
        return bench.vae.decode(latents)
    known = found_at_once(eraser.record) >= MANY
    drawn = drawn_anew(bench, model, latents, texts if first == "again" else [""] * len(texts), seeds, float(rest[0]))
    return bench.vae.decode(drawn if first == "again" else torch.where(known[:, None, None, None], drawn, latents))


def found_at_once(record: ErasureRecord) -> Tensor:
    """Return how many patches of each image were found at most at a step of the latest run, int [B]."""
    assert record.latest is not None
    masks = [entry.mask for entry in record.latest.entries.values() if entry.looked]
    return torch.stack(masks).flatten(2).sum(2).amax(0)


@torch.inference_mode()
def drawn_anew(
    bench: Any, model: Any, latents: Tensor, texts: Sequence[str], seeds: Sequence[int], share: float
) -> Tensor:
    """Noise latents and draw the last share of the steps anew."""
    return comfy.sample.sample(
        model,
        starting_noise([seed + AGAIN_SEEDS for seed in seeds]),
        round(STEPS * share),
        CFG,
        SAMPLER,
        SCHEDULER,
        encode(bench.clip, texts),
        encode(bench.clip, [""] * len(texts)),
        latents,
        denoise=share,
        disable_pbar=True,
        seed=seeds[0],
    )
