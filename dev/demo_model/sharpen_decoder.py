"""Train the VAE's decoder on against a critic, for clean edges; its encoder stays as it is (development only).

``python dev/host dev.demo_model.sharpen_decoder`` reads ``dev/work/vae.safetensors``, keeps its state in
``dev/work/sharpen_state.safetensors``, goes on from it, and writes ``dev/work/vae_sharp.safetensors``, which
``export.py`` prefers. Latents do not change, so the UNet can be trained before, after or meanwhile.
"""

import argparse
import itertools
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ...demo_model.vae import CanvasAutoencoder, load_trained
from .make_data import WORK, load_chunks
from .train_vae import CROP, draw_crops, learning_rate, reconstruction_loss
from .training import TrainingState, training_precision

CRITIC_WEIGHT, FEATURE_WEIGHT = 0.02, 0.5
LATENT_NOISE = 0.1  # most noise on a latent, so that a generator's small errors do not show


class Critic(nn.Module):
    """Says of each 16 x 16 pixels whether they look real; [B, 3, H, W] -> [B, 1, H/8, W/8] and its features.

    After the patch critic of Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (48, 96, 128)
        self.first = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(widths))
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.leaky_relu(self.first(pixels), 0.2)
        features = [x]
        for down in self.downs:
            x = F.leaky_relu(down(x), 0.2)
            features.append(x)
        return self.last(x), features


def noisy_latents(vae: CanvasAutoencoder, pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Encode pixels and add a little noise of random strength, [B, 4, H/8, W/8]."""
    with torch.no_grad():
        latents = vae.encode(pixels).float()
    strength = LATENT_NOISE * torch.rand(len(pixels), 1, 1, 1, generator=draw) ** 2
    return latents + strength * torch.randn(latents.shape, generator=draw)


def decoder_loss(vae: CanvasAutoencoder, critic: Critic, latents: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decoder's loss, and its output [B, 3, H, W] for the critic to learn from."""
    output = vae.decode(latents).float()
    judged, features = critic(output)
    with torch.no_grad():
        _, real = critic(pixels)
    apart = sum((F.l1_loss(a.float(), b.float()) for a, b in zip(features, real, strict=True)), torch.zeros(()))
    loss = reconstruction_loss(output, pixels) - CRITIC_WEIGHT * judged.float().mean() + FEATURE_WEIGHT * apart / 3
    return loss, output


def critic_loss(critic: Critic, output: Tensor, pixels: Tensor) -> Tensor:
    """Return the hinge loss of telling real pixels from decoded ones."""
    return F.relu(1 - critic(pixels)[0].float()).mean() + F.relu(1 + critic(output.detach())[0].float()).mean()


def main() -> None:
    """Train, or go on training, and write the VAE with its new decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=4e-4)
    args = parser.parse_args()
    (images,) = map(torch.from_numpy, load_chunks(WORK / "images", "images"))
    torch.manual_seed(0)
    vae = load_trained(WORK / "vae.safetensors").to(memory_format=torch.channels_last)
    critic = Critic().to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    drawing = torch.optim.AdamW(vae.decoder.parameters(), lr=args.rate, betas=(0.5, 0.99), weight_decay=0)
    judging = torch.optim.AdamW(critic.parameters(), lr=args.rate, betas=(0.5, 0.99), weight_decay=0)
    both = nn.ModuleDict({"vae": vae, "critic": critic})
    state = TrainingState(WORK / "sharpen_state.safetensors", both, drawing, judging)
    drawn, judged = torch.compile(decoder_loss), torch.compile(critic_loss)
    for step in range(state.load(), args.steps):
        draw = torch.Generator().manual_seed(7_000_000 + step)
        pixels = draw_crops(images, args.batch, draw)
        for group in drawing.param_groups + judging.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.rate)
        with training_precision():
            loss, output = drawn(vae, critic, noisy_latents(vae, pixels, draw), pixels)
        drawing.zero_grad(set_to_none=True)
        loss.backward()
        drawing.step()
        with training_precision():
            doubt = judged(critic, output.detach(), pixels)
        judging.zero_grad(set_to_none=True)
        doubt.backward()
        judging.step()
        if (step + 1) % 50 == 0:
            far = F.l1_loss(output.detach(), pixels).item()
            state.say(step + 1, args.batch, loss=loss.item(), l1=far, critic=doubt.item())
        if (step + 1) % 100 == 0:
            state.save(step + 1)
    save_file({k: v.contiguous() for k, v in vae.state_dict().items()}, WORK / "vae_sharp.safetensors")
    mean = -10 * math.log10(F.mse_loss(output.detach().clamp(-1, 1) / 2, pixels / 2).item())
    print(f"PSNR {mean:.2f} dB on the last {args.batch} pieces of {CROP} pixels -> {WORK / 'vae_sharp.safetensors'}")
