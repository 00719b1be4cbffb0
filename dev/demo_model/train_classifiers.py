"""Train the judges on scenes and on the VAE's reconstructions of them (development only).

``python dev/host dev.demo_model.train_classifiers`` needs the pictures of ``make_data.py images`` and the trained
VAE, and writes ``dev/demo_model/weights/classifiers.safetensors`` with the held-out accuracy in the metadata.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ...demo_model.vae import CanvasAutoencoder, load_trained
from ...demo_model.vocabulary import OBJECTS
from .classifiers import DEFAULT_PATH, FORMAT, CanvasClassifier, Classifiers
from .make_data import NO_OBJECT, WORK, load_chunks, rendered
from .scenes import HELD_OUT, VALIDATION
from .training import TrainingState

RECONSTRUCTIONS = 12_000  # pictures that are also shown as the VAE gives them back; half of every batch
LATENT_NOISE = 0.25  # most noise on such a latent, so that a generator's small errors do not matter


def targets_of(labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return objects as 0/1 [N, 20] and styles as indices [N] from labels [N, 3]."""
    objects = torch.zeros(len(labels), len(OBJECTS))
    for column in (0, 1):
        rows = np.nonzero(labels[:, column] != NO_OBJECT)[0]
        objects[rows, labels[rows, column].astype(int)] = 1
    return objects, torch.from_numpy(labels[:, 2].astype(np.int64))


@torch.inference_mode()
def through_vae(vae: CanvasAutoencoder, images: np.ndarray) -> np.ndarray:
    """Return noisy reconstructions of pictures, uint8 [N, 128, 128, 3] -> the same."""
    draw = torch.Generator().manual_seed(0)
    parts = []
    for part in np.array_split(images, max(1, len(images) // 100)):
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(to_pixels(part).contiguous(memory_format=torch.channels_last))
            spread = LATENT_NOISE * torch.rand(len(part), 1, 1, 1, generator=draw)
            output = vae.decode(latents + spread * torch.randn(latents.shape, generator=draw))
        parts.append(((output.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def loss_of(network: CanvasClassifier, pixels: Tensor, objects: Tensor, styles: Tensor) -> Tensor:
    """Return the weighted sum of the objects' and the styles' cross-entropies."""
    with torch.autocast("cpu", torch.bfloat16):
        found, style = network(pixels)
    return 10 * F.binary_cross_entropy_with_logits(found.float(), objects) + 0.3 * F.cross_entropy(
        style.float(), styles
    )


def to_pixels(images: np.ndarray) -> Tensor:
    """Return uint8 [N, H, W, 3] as float [N, 3, H, W], -1 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def judge(network: CanvasClassifier, vae: CanvasAutoencoder | None, seeds: range) -> tuple[Tensor, ...]:
    """Return object probabilities, style hits and true objects for scenes, reconstructed if a VAE is given."""
    ((images, labels),) = rendered([seeds])
    pixels = to_pixels(images)
    if vae is not None:
        pixels = torch.cat([vae.decode(vae.encode(part)).clamp(-1, 1) for part in pixels.split(100)])
    found, style = Classifiers(network, 0.5).classify((pixels.movedim(1, -1) + 1) / 2)
    objects, styles = targets_of(labels)
    return found, style.argmax(1) == styles, objects


def best_threshold(found: Tensor, objects: Tensor) -> float:
    """Return the probability at which most pictures have exactly the right objects."""
    levels = torch.arange(0.2, 0.81, 0.05)
    exact = torch.stack([((found > level) == objects.bool()).all(1).float().mean() for level in levels])
    return round(float(levels[exact.argmax()]), 2)


def report(network: CanvasClassifier, vae: CanvasAutoencoder, count: int) -> dict[str, float]:
    """Choose the threshold on validation scenes and measure on held-out ones."""
    found, _, objects = judge(network, vae, VALIDATION[-count:])
    facts = {"threshold": best_threshold(found, objects), "held_out_scenes": count}
    for name, used in (("scenes", None), ("reconstructions", vae)):
        found, style, objects = judge(network, used, HELD_OUT[:count])
        shown = found > facts["threshold"]
        facts[f"objects_each_{name}"] = round(float((shown == objects.bool()).float().mean()), 4)
        facts[f"objects_exact_{name}"] = round(float((shown == objects.bool()).all(1).float().mean()), 4)
        facts[f"style_{name}"] = round(float(style.float().mean()), 4)
    return facts


def main() -> None:
    """Train, or go on training, measure, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--held-out", type=int, default=2000)
    args = parser.parse_args()
    images, labels = load_chunks(WORK / "images", "images", "labels")
    objects, styles = targets_of(labels)
    vae = load_trained(WORK / "vae.safetensors").to(memory_format=torch.channels_last)
    blurred = through_vae(vae, images[:RECONSTRUCTIONS])
    print(f"{len(blurred)} reconstructions", flush=True)
    torch.manual_seed(0)
    network = CanvasClassifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.rate, weight_decay=0.02)
    state = TrainingState(WORK / "classifiers_state.safetensors", network, optimizer)
    first, started = state.load(), time.time()
    for step in range(first, args.steps):
        draw = torch.Generator().manual_seed(step)
        rows = torch.randint(len(images), (args.batch,), generator=draw)
        half = args.batch // 2
        rows[:half] %= len(blurred)
        pixels = to_pixels(np.concatenate([blurred[rows[:half].numpy()], images[rows[half:].numpy()]]))
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        loss = loss_of(network, pixels.contiguous(memory_format=torch.channels_last), objects[rows], styles[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            rate = (step + 1 - first) * args.batch / (time.time() - started)
            print(f"step {step + 1} loss {loss.item():.4f} {rate:.0f} images/s", flush=True)
        if (step + 1) % 300 == 0:
            state.save(step + 1)
    network.eval()
    facts = report(network, vae, args.held_out)
    print(json.dumps(facts, indent=1))
    DEFAULT_PATH.parent.mkdir(exist_ok=True)
    tensors = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, DEFAULT_PATH, {"format": FORMAT, "facts": json.dumps(facts)})
