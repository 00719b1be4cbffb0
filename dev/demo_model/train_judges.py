"""Train the judges on scenes and on the VAE's reconstructions of them (development only).

``python dev/host dev.demo_model.train_judges`` needs the scenes of ``make_data.py latents`` and the trained VAE, and
writes ``dev/demo_model/weights/judges.safetensors`` with the held-out accuracy in the metadata.
"""

import argparse
import json
import math

import kornia
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ...demo_model.sizes import GRID
from ...demo_model.vae import CanvasAutoencoder, load_trained
from ...demo_model.vocabulary import OBJECTS
from .export import trained_vae
from .judges import DEFAULT_PATH, FORMAT, JudgeNetwork, Judges
from .make_data import NO_OBJECT, WORK, load_chunks, rendered
from .scenes import HELD_OUT, VALIDATION
from .training import TrainingState, training_precision

LATENT_NOISE = 0.25  # most noise on a reconstruction's latent, so that a generator's small errors do not matter
SOFTNESS = 1.0  # most blur of a picture, in pixels: a generator's edges are softer than a drawing's
COVERED = 0.3  # share of a cell from which on it counts as the object's

Truth = tuple[Tensor, Tensor, Tensor]


def truth_of(labels: np.ndarray, masks: np.ndarray) -> Truth:
    """Return objects as 0/1 [N, 20], styles as indices [N] and areas as bool [N, 20, 32, 32].

    Args:
        labels, masks: of ``make_data.py``, [N, 3] and uint8 [N, 2, 32, 32].
    """
    objects = torch.zeros(len(labels), len(OBJECTS))
    areas = torch.zeros(len(labels), len(OBJECTS), GRID, GRID, dtype=torch.bool)
    for column in (0, 1):
        rows = np.nonzero(labels[:, column] != NO_OBJECT)[0]
        names = labels[rows, column].astype(int)
        objects[rows, names] = 1
        areas[rows, names] = torch.from_numpy(masks[rows, column] > 255 * COVERED)
    return objects, torch.from_numpy(labels[:, 2].astype(np.int64)), areas


def to_pixels(images: np.ndarray) -> Tensor:
    """Return uint8 [N, H, W, 3] as float [N, 3, H, W], -1 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(network: JudgeNetwork, pixels: Tensor, truth: Truth) -> Tensor:
    """Return the weighted sum of the three heads' cross-entropies."""
    objects, styles, areas = truth
    found, style, where = network(pixels)
    # An object covers a seventieth of all (cell, object) pairs.
    seen = F.binary_cross_entropy_with_logits(where.float(), areas.float(), pos_weight=torch.tensor(4.0))
    shown = F.binary_cross_entropy_with_logits(found.float(), objects)
    return 10 * shown + 0.3 * F.cross_entropy(style.float(), styles) + 5 * seen


def flipped(pixels: Tensor, truth: Truth, draw: torch.Generator) -> tuple[Tensor, Truth]:
    """Mirror half of a batch, areas with it."""
    objects, styles, areas = truth
    turn = (torch.rand(len(pixels), generator=draw) < 0.5)[:, None, None, None]
    return torch.where(turn, pixels.flip(3), pixels), (objects, styles, torch.where(turn, areas.flip(3), areas))


def softened(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Blur each picture of a batch by up to `SOFTNESS` pixels, most of them little."""
    sigma = 0.05 + SOFTNESS * torch.rand(len(pixels), 1, generator=draw) ** 2
    return kornia.filters.gaussian_blur2d(pixels, (5, 5), sigma.expand(-1, 2))


class Scenes:
    """Batches of scenes, half of them as the VAE gives them back from a noisy latent.

    Args:
        vae: decodes the stored latents.
        count: how many scenes to decode; all others are shown as they are.
    """

    def __init__(self, vae: CanvasAutoencoder, count: int) -> None:
        names = ("latents", "labels", "pictures", "masks")
        latents, self.labels, self.pictures, self.masks = load_chunks(WORK / "latents", *names)
        self.decoded = decoded(vae, latents[:count])

    def batch(self, size: int, draw: torch.Generator) -> tuple[Tensor, Truth]:
        """Return pixels [B, 3, 128, 128] and what they show."""
        half = size // 2
        rows = torch.randint(len(self.pictures), (size,), generator=draw).numpy()
        rows[:half] %= len(self.decoded)
        pixels = to_pixels(np.concatenate([self.decoded[rows[:half]], self.pictures[rows[half:]]]))
        return flipped(softened(pixels, draw), truth_of(self.labels[rows], self.masks[rows]), draw)


@torch.inference_mode()
def decoded(vae: CanvasAutoencoder, latents: np.ndarray) -> np.ndarray:
    """Return pictures of noisy latents at half their size, uint8 [N, 128, 128, 3]."""
    draw = torch.Generator().manual_seed(0)
    parts = []
    for part in torch.from_numpy(latents).float().split(50):
        spread = LATENT_NOISE * torch.rand(len(part), 1, 1, 1, generator=draw)
        noisy = part + spread * torch.randn(part.shape, generator=draw)
        with training_precision():
            pixels = vae.decode(noisy.contiguous(memory_format=torch.channels_last))
        pixels = F.avg_pool2d(pixels.float().clamp(-1, 1), 2)
        parts.append(((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


@torch.inference_mode()
def judge(judges: Judges, vae: CanvasAutoencoder | None, seeds: range) -> tuple[Tensor, Tensor, Tensor, Truth]:
    """Judge scenes, as they are or as the VAE gives them back.

    Returns:
        probabilities of objects [N, 20], styles [N, 8] and areas [N, 20, 32, 32], and the truth.
    """
    ((images, labels, masks),) = rendered([seeds])
    pixels = to_pixels(images)
    if vae is not None:
        pixels = torch.cat([vae.decode(vae.encode(part)).clamp(-1, 1) for part in pixels.split(50)])
    return *judges.look((pixels.movedim(1, -1) + 1) / 2), truth_of(labels, masks)


def best_threshold(found: Tensor, objects: Tensor) -> float:
    """Return the probability at which most pictures have exactly the right objects."""
    levels = torch.arange(0.2, 0.81, 0.05)
    exact = torch.stack([((found > level) == objects.bool()).all(1).float().mean() for level in levels])
    return round(float(levels[exact.argmax()]), 2)


def overlaps(areas: Tensor, truth: Tensor, threshold: float) -> Tensor:
    """Return intersection over union of each object that a picture shows, [n]."""
    shown = truth.flatten(2).any(2)
    ours, true = (areas > threshold)[shown].flatten(1), truth[shown].flatten(1)
    return (ours & true).sum(1) / (ours | true).sum(1).clamp(min=1)


def report(network: JudgeNetwork, vae: CanvasAutoencoder, count: int) -> dict[str, float]:
    """Choose the thresholds on validation scenes and measure on held-out ones."""
    judges = Judges(network, 0.5)
    found, _, areas, (objects, _, truth) = judge(judges, vae, VALIDATION[-count:])
    levels = [round(0.1 * i, 1) for i in range(2, 10)]
    best = int(np.argmax([float(overlaps(areas, truth, level).mean()) for level in levels]))
    facts = {"threshold": best_threshold(found, objects), "area_threshold": levels[best], "held_out_scenes": count}
    for name, used in (("scenes", None), ("reconstructions", vae)):
        found, style, areas, (objects, styles, truth) = judge(judges, used, HELD_OUT[:count])
        right = (found > facts["threshold"]) == objects.bool()
        facts[f"objects_each_{name}"] = round(float(right.float().mean()), 4)
        facts[f"objects_exact_{name}"] = round(float(right.all(1).float().mean()), 4)
        facts[f"style_{name}"] = round(float((style.argmax(1) == styles).float().mean()), 4)
        facts[f"area_iou_{name}"] = round(float(overlaps(areas, truth, facts["area_threshold"]).mean()), 4)
    return facts


def main() -> None:
    """Train, or go on training, measure, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decoded", type=int, default=8000, help="scenes that are also shown as the VAE decodes them")
    parser.add_argument("--held-out", type=int, default=1500)
    args = parser.parse_args()
    vae = load_trained(trained_vae()).to(memory_format=torch.channels_last)
    data = Scenes(vae, args.decoded)
    print(f"{len(data.pictures)} scenes, {len(data.decoded)} of them decoded", flush=True)
    torch.manual_seed(0)
    network = JudgeNetwork().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.rate, weight_decay=0.02)
    state = TrainingState(WORK / "judges_state.safetensors", network, optimizer)
    for step in range(state.load(), args.steps):
        pixels, truth = data.batch(args.batch, torch.Generator().manual_seed(step))
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        with training_precision():
            loss = loss_of(network, pixels.contiguous(memory_format=torch.channels_last), truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            state.say(step + 1, args.batch, loss=loss.item())
        if (step + 1) % 250 == 0:
            state.save(step + 1)
    network.eval()
    facts = report(network, vae, args.held_out)
    print(json.dumps(facts, indent=1))
    DEFAULT_PATH.parent.mkdir(exist_ok=True)
    tensors = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, DEFAULT_PATH, {"format": FORMAT, "facts": json.dumps(facts)})
