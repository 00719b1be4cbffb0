"""Teach the shipped model a new look of an object, as a LoRA that ComfyUI loads (development only).

``python dev/host benchmarks.lora cat`` trains on scenes with one of the object's drawings alone, in colors that it
never has in the model's own training scenes, as people train a LoRA on one character. The file lies in
``dev/work/lora/``. It prints how well the model predicts the noise of held-out scenes with the new look, without and
with the LoRA, and whether the judges still see the object in them, without which an erasure rate would mean nothing.
Erasing with the LoRA on the model is ``python dev/host benchmarks.conditions --loras``.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..demo_model import checkpoint
from ..demo_model.text_encoder import token_ids
from ..demo_model.vocabulary import OBJECTS
from ..dev.demo_model import judges
from ..dev.demo_model.scenes import HELD_OUT, TRAIN, Scene, render, sprites
from ..dev.demo_model.train_unet import Diffusion, diffusion_loss, signal_shares
from .framework import storage

WORK = storage.WORK / "lora"
TAUGHT = OBJECTS[4::5]  # cat, frog, sandwich, waterfall: every fifth, not chosen by results
RANK, STEPS, BATCH, RATE = 8, 200, 16, 2e-3
SCENES, HELD = 320, 48


def file_of(name: str) -> Path:
    """Return the LoRA file of an object."""
    return WORK / f"{name}.safetensors"


def recolored(drawing: Image.Image) -> Image.Image:
    """Return a drawing with its color channels moved on by one: yellow becomes turquoise, green blue."""
    red, green, blue, alpha = drawing.split()
    return Image.merge("RGBa", (blue, red, green, alpha))


def scenes(name: str, first: int, count: int) -> list[Scene]:
    """Return scenes that show the new look alone, in any style."""
    own = sprites()[name]
    try:
        # Scenes draw what this dictionary holds.
        sprites()[name] = [recolored(own[0])]
        return [render(first + i, (name,)) for i in range(count)]
    finally:
        sprites()[name] = own


class LowRank(nn.Module):
    """Adds a matrix of low rank to a weight matrix [outputs, inputs]; adds nothing at first."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, inputs) / RANK)
        self.up = nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def with_low_rank(unet: nn.Module) -> dict[str, LowRank]:
    """Add a low-rank part to every linear layer of the transformers; return them by the layer's name."""
    added = {}
    for name, module in list(unet.named_modules()):
        if isinstance(module, nn.Linear) and "transformer_blocks" in name:
            added[name] = LowRank(*module.weight.shape)
            parametrize.register_parametrization(module, "weight", added[name])
    return added


def lora_of(added: dict[str, LowRank]) -> dict[str, Tensor]:
    """Return the tensors of a LoRA file, named as ComfyUI and most trainers name them."""
    tensors = {}
    for name, part in added.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{key}.lora_up.weight"] = part.up.detach().contiguous()
        tensors[f"{key}.lora_down.weight"] = part.down.detach().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(RANK))
    return tensors


@torch.inference_mode()
def encoded(drawn: list[Scene]) -> tuple[Tensor, Tensor]:
    """Return latents [N, 4, H, W] and token ids of scenes."""
    _, _, vae = checkpoint.load()
    pixels = torch.stack([torch.from_numpy(scene.image) for scene in drawn]).float() / 255
    return vae.encode(pixels).float(), torch.tensor([token_ids(scene.caption) for scene in drawn])


def batch_loss(model: Diffusion, latents: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Return the training loss of scenes at drawn timesteps with drawn noise."""
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(1000, (len(latents),), generator=generator)
    return diffusion_loss(model, latents, noise, timesteps, signal_shares(), ids)


@torch.no_grad()
def held_out_loss(model: Diffusion, latents: Tensor, ids: Tensor) -> float:
    """Return the loss of held-out scenes, each at eight timesteps, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return sum(float(batch_loss(model, latents, ids, generator)) for _ in range(8)) / 8


def train(name: str) -> None:
    """Train one LoRA, write it, and print what it learnt."""
    model = Diffusion().requires_grad_(False)
    weights = load_file(checkpoint.DEFAULT_PATH)
    model.load_state_dict({key: value for key, value in weights.items() if not key.startswith("vae.")})
    torch.manual_seed(0)
    added = with_low_rank(model.unet)
    shown = scenes(name, HELD_OUT.start + 5_000_000, HELD)
    held, (latents, ids) = encoded(shown), encoded(scenes(name, TRAIN.start + 5_000_000, SCENES))
    before, generator = held_out_loss(model, *held), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW([p for part in added.values() for p in part.parameters()], lr=RATE, weight_decay=0.0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 30, 3 * (1 - step / STEPS))
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        loss = batch_loss(model, latents[rows], ids[rows], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    file_of(name).parent.mkdir(parents=True, exist_ok=True)
    save_file(lora_of(added), file_of(name))
    images = torch.stack([torch.from_numpy(scene.image) for scene in shown]).float() / 255
    judge = judges.load()
    seen = judge.classify(images)[0][:, OBJECTS.index(name)] > judge.threshold
    print(
        f"{name}: loss on {HELD} held-out scenes of the new look {before:.4f} without, "
        f"{held_out_loss(model, *held):.4f} with the LoRA; judges see the object in {100 * seen.float().mean():.0f} %",
        flush=True,
    )


def main() -> None:
    """Train the LoRAs that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", nargs="*", choices=[*TAUGHT, []], help="all if left out")
    for name in parser.parse_args().objects or TAUGHT:
        if not file_of(name).exists():
            train(name)
