"""Train the VAE on the pictures of ``make_data.py images`` (development only).

``python dev/host dev.demo_model.train_vae`` writes ``dev/work/vae.safetensors``; run again, it goes on from
``dev/work/vae_state.safetensors``.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ...demo_model.vae import CanvasAutoencoder
from .make_data import WORK, load_chunks
from .training import MuonAdamW, TrainingState, training_precision

KL_WEIGHT = 1e-4
CROP = 128  # of 256 pixels: the network is convolutional, so a quarter of a picture teaches it as much for the time


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Weigh pixels, sharp edges (differences of neighbours) and colours of 4 x 4 areas."""
    loss = F.l1_loss(output, target) + F.mse_loss(output, target)
    for axis in (2, 3):
        loss = loss + 0.5 * F.l1_loss(output.diff(dim=axis), target.diff(dim=axis))
    return loss + F.l1_loss(F.avg_pool2d(output, 4), F.avg_pool2d(target, 4))


def vae_loss(vae: CanvasAutoencoder, pixels: Tensor, noise: Tensor) -> Tensor:
    """Return reconstruction loss and weighted divergence for pixels [B, 3, H, W], -1 to 1."""
    mean, log_variance = vae.raw_posterior(pixels)
    output = vae.decoder(mean + (0.5 * log_variance).exp() * noise)
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
    return reconstruction_loss(output.float(), pixels) + KL_WEIGHT * divergence


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up for 100 steps, then follow a cosine down to a fiftieth."""
    return peak * min(1, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def draw_crops(images: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """Return random pieces of random pictures [B, 3, `CROP`, `CROP`], -1 to 1, in channels-last layout.

    Args:
        images: uint8 [N, H, W, 3].
        size: how many.
    """
    rows = torch.randint(len(images), (size,), generator=draw).tolist()
    # Patterns keep to the latent's grid of 8 pixels, and so do the pieces.
    tops, lefts = (8 * torch.randint((images.shape[1] - CROP) // 8 + 1, (2, size), generator=draw)).tolist()
    pieces = [images[r, y : y + CROP, x : x + CROP] for r, y, x in zip(rows, tops, lefts, strict=True)]
    pixels = torch.stack(pieces).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def normalise(vae: CanvasAutoencoder, images: Tensor) -> float:
    """Set the latent's mean and spread from uint8 images [N, H, W, 3]; return the PSNR in dB."""
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = torch.cat([vae.raw_posterior(batch)[0] for batch in pixels.split(50)])
    vae.latent_mean.copy_(latents.mean(dim=(0, 2, 3), keepdim=True))
    vae.latent_std.copy_(latents.std(dim=(0, 2, 3), keepdim=True))
    output = torch.cat([vae.decode(vae.encode(batch)) for batch in pixels.split(50)])
    return -10 * math.log10(F.mse_loss(output.clamp(-1, 1) / 2, pixels / 2).item())


def main() -> None:
    """Train, or go on training, then set the normalisation and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    (images,) = map(torch.from_numpy, load_chunks(WORK / "images", "images"))
    torch.manual_seed(args.seed)
    vae = CanvasAutoencoder().to(memory_format=torch.channels_last)
    optimizer = MuonAdamW(vae, args.rate, ("encoder.1.", "encoder.7.", "decoder.0.", "decoder.13."))
    state = TrainingState(WORK / "vae_state.safetensors", vae, *optimizer.parts)
    loss_of = torch.compile(vae_loss)
    for step in range(state.load(), args.steps):
        draw = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        pixels = draw_crops(images, args.batch, draw)
        noise = torch.randn(args.batch, 4, CROP // 8, CROP // 8, generator=draw)
        optimizer.set_rate(learning_rate(step, args.steps, args.rate))
        with training_precision():
            loss = loss_of(vae, pixels, noise)
        vae.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            state.say(step + 1, args.batch, loss=loss.item())
        if (step + 1) % 500 == 0:
            state.save(step + 1)
    psnr = normalise(vae, images[:1000])
    save_file({k: v.contiguous() for k, v in vae.state_dict().items()}, WORK / "vae.safetensors")
    print(f"PSNR {psnr:.2f} dB on 1000 training pictures -> {WORK / 'vae.safetensors'}")
