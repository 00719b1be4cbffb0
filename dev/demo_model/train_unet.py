"""Train UNet and text encoder on the latents of ``make_data.py latents`` (development only).

``python dev/host dev.demo_model.train_unet`` keeps its state in ``dev/work/unet_state.safetensors`` and goes on from
it; ``export.py`` makes the checkpoint of it. A stage on pictures of half the size comes first: ``--half`` keeps its
state in ``dev/work/unet_half_state.safetensors``, with which ``--start`` begins.
"""

import argparse
import copy
import math
import random
from pathlib import Path
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import load_file
from torch import Tensor, nn

from ...demo_model.text_encoder import TextEncoder, token_ids
from ...demo_model.unet import UNET_CONFIG
from ...demo_model.vocabulary import OBJECTS, STYLES, TRAINING_FORMS, caption, join_objects
from .make_data import NO_OBJECT, WORK, load_chunks
from .training import MuonAdamW, TrainingState, training_precision

EMA_DECAY = 0.999
SNR_LIMIT = 5.0
NO_CAPTION, NO_STYLE, OTHER_FORM, ANY_ORDER = 0.1, 0.05, 0.25, 0.1  # shares of the training captions
# Share of the scenes that are certain to have two objects; one alone is learnt much sooner.
PAIRS = 0.5
# Which object goes where is decided in noisy steps, so half of the samples come from these alone.
NOISY = 400


def plain_attention(
    host: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **options: Any
) -> Tensor:
    """Attention by matrix products: on a CPU its backward pass is much faster than the fused kernel's."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


class TrainingLayers:
    """PyTorch's own layers, which start with random weights; those of ``comfy.ops`` expect a file."""

    Linear, Conv2d, GroupNorm, LayerNorm = nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm

    @staticmethod
    def conv_nd(dims: int, *args: Any, **options: Any) -> nn.Conv2d:
        return nn.Conv2d(*args, **options)


def untrained_unet() -> UNetModel:
    """Return the UNet with random weights; its blocks start as identities and its output as zero."""
    unet = UNetModel(**UNET_CONFIG, operations=TrainingLayers)
    for name, module in unet.named_modules():
        if name == "out.2" or name.endswith(("out_layers.3", "proj_out")):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    return unet


class Diffusion(nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = untrained_unet()
        self.text = TextEncoder()
        for embedding in (self.text.words, self.text.positions):
            nn.init.normal_(embedding.weight, std=0.3)

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        options = {"optimized_attention_override": plain_attention}
        return self.unet._forward(noisy, timesteps, context=self.text(ids), transformer_options=options)


def signal_shares() -> Tensor:
    """Return Stable Diffusion's cumulative alphas, [1000]."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def training_caption(label: list[int], rng: random.Random) -> str:
    """Word a scene's label: mostly the left object first, at times without style, at times without anything.

    A caption that names the left object first says which object goes where. Without that the model draws one object
    twice for very long.

    Args:
        label: left object, right object and style, as ``left_first`` orders them.
    """
    if rng.random() < NO_CAPTION:
        return ""
    objects = [OBJECTS[i] for i in label[:2] if i != NO_OBJECT]
    if rng.random() < ANY_ORDER:
        rng.shuffle(objects)
    style = STYLES[label[2]]
    if rng.random() < NO_STYLE:
        return caption(objects, None)
    if rng.random() < OTHER_FORM:
        return rng.choice(TRAINING_FORMS).format(join_objects(objects), style)
    return caption(objects, style)


def diffusion_loss(
    model: Diffusion, latents: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor, ids: Tensor
) -> Tensor:
    """Return the noise's mean squared error, weighted by min-SNR."""
    alpha = alphas[timesteps][:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    predicted = model(noisy, timesteps, ids)
    snr = alpha / (1 - alpha)
    weights = snr.clamp(max=SNR_LIMIT) / snr
    return (weights * (predicted.float() - noise) ** 2).mean()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up for 150 steps, stay flat for half of the training, then follow a cosine down to 4 %."""
    fall = max(0.0, 2 * step / steps - 1)
    return peak * min(1, (step + 1) / 150) * (0.04 + 0.48 * (1 + math.cos(math.pi * min(fall, 1))))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Move the averaged weights towards the current ones; faster in the first steps."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def draw_batch(data: dict[str, Tensor], size: int, seed: int) -> tuple[Tensor, ...]:
    """Return latents, noise, timesteps and token ids of one training step; only the seed decides."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(data["labels"]), (size,), generator=draw)
    pairs = (data["labels"][:, :2] != NO_OBJECT).all(1).nonzero()[:, 0]
    certain = torch.rand(size, generator=draw) < PAIRS
    rows = torch.where(certain, pairs[torch.randint(len(pairs), (size,), generator=draw)], rows)
    timesteps = torch.randint(1000, (size,), generator=draw)
    timesteps[::2] = torch.randint(NOISY, 1000, (len(timesteps[::2]),), generator=draw)
    latents = data["latents"][rows].float()
    noise = torch.randn(latents.shape, generator=draw)
    rng = random.Random(seed)
    ids = torch.tensor([token_ids(training_caption(label, rng)) for label in data["labels"][rows].tolist()])
    layout = torch.channels_last
    return (
        latents.contiguous(memory_format=layout),
        noise.contiguous(memory_format=layout),
        timesteps,
        ids,
    )


def stored_latents(kind: str) -> dict[str, Tensor]:
    """Return latents [2 N, 4, H, W] of scenes and their mirror images, and labels [2 N, 3].

    Args:
        kind: "latents" or "half", as ``make_data.py`` calls them.
    """
    latents, mirrored, labels = map(torch.from_numpy, load_chunks(WORK / kind, "latents", "mirrored", "labels"))
    (masks,) = map(torch.from_numpy, load_chunks(WORK / "latents", "masks"))
    first = left_first(labels, masks)
    second = first[:, [1, 0, 2]]
    return {"latents": torch.cat([latents, mirrored]), "labels": torch.cat([first, second])}


def left_first(labels: Tensor, masks: Tensor) -> Tensor:
    """Put the object that is further left first.

    Args:
        labels: of ``make_data.py``, [N, 3].
        masks: of the two objects, uint8 [N, 2, H, W].
    """
    cover = masks.float().sum(dim=2)
    places = (cover * torch.arange(cover.shape[-1])).sum(dim=2) / cover.sum(dim=2).clamp(min=1)
    wrong = (places[:, 0] > places[:, 1]) & (labels[:, 1] != NO_OBJECT)
    return torch.where(wrong[:, None], labels[:, [1, 0, 2]], labels)


def main() -> None:
    """Train, or go on training, and save the state every 500 steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_true", help="on pictures of half the size, four times as fast")
    parser.add_argument("--start", type=Path, help="a state of an earlier run to begin with, instead of random weights")
    args = parser.parse_args()
    data = stored_latents("half" if args.half else "latents")
    torch.manual_seed(args.seed)
    model = Diffusion().to(memory_format=torch.channels_last)
    if args.start:
        saved = load_file(args.start)
        prefix = "model.average."
        model.load_state_dict({k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)})
    average = copy.deepcopy(model)
    optimizer = MuonAdamW(model, args.rate, ("unet.input_blocks.0.", "unet.out.", "text.words.", "text.positions."))
    both = nn.ModuleDict({"model": model, "average": average})
    state = TrainingState(
        WORK / ("unet_half_state.safetensors" if args.half else "unet_state.safetensors"), both, *optimizer.parts
    )
    # Compiling takes minutes, which a short stage does not earn back.
    loss_of, alphas = diffusion_loss if args.half else torch.compile(diffusion_loss), signal_shares()
    first, total = state.load(), 0.0
    print(f"{len(data['labels'])} scenes, {sum(p.numel() for p in model.parameters())} weights, from step {first}")
    for step in range(first, args.steps):
        latents, noise, timesteps, ids = draw_batch(data, args.batch, args.seed * 1_000_003 + step)
        optimizer.set_rate(learning_rate(step, args.steps, args.rate))
        with training_precision():
            loss = loss_of(model, latents, noise, timesteps, alphas, ids)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average, model, step)
        total += loss.item()
        if (step + 1) % 100 == 0:
            state.say(step + 1, args.batch, loss=total / 100)
            total = 0.0
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            state.save(step + 1)
