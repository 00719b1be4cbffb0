"""Activations of the demo model's UNet, for training and calibrating its SAEs."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...demo_model.sizes import GRID
from ...demo_model.vocabulary import OBJECTS, STYLES, caption
from ...sae_models.concepts import band_index
from ...unet.capture import Capture
from ...unet.hooks import attach_observer
from . import scenes
from .sampling import denoise_once, sample

BAND_EDGES = (0.0, 200.0, 400.0, 600.0, 800.0, 1000.0)
# One timestep stands for each band where scenes are noised.
BAND_CENTRES = (100.0, 300.0, 500.0, 700.0, 900.0)


@dataclass(frozen=True, eq=False)
class Generated:
    """Activations of one block over sampling runs.

    Attributes:
        embeddings: for each band [images, calls, patches, C] float16.
        targets: objects named in each image's prompt.
    """

    embeddings: list[Tensor]
    targets: list[tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Noised:
    """Activations of one block on noised scenes.

    Attributes:
        embeddings: [bands, scenes, patches, C] float16.
        grid: (H, W) of the patches.
        masks: share of each patch that each object covers, [objects, scenes, patches].
        styles: index in STYLES of each scene.
    """

    embeddings: Tensor
    grid: tuple[int, int]
    masks: Tensor
    styles: Tensor


def prompt_contents(count: int, seed: int) -> list[tuple[tuple[str, ...], str]]:
    """Return objects and style of prompts: single objects and pairs in turn, every object in every style alike."""
    rng = np.random.default_rng(seed)
    contents: list[tuple[tuple[str, ...], str]] = []
    for i in range(count):
        first, style = OBJECTS[i // 2 % len(OBJECTS)], STYLES[i // (2 * len(OBJECTS)) % len(STYLES)]
        others = [name for name in OBJECTS if name != first]
        objects = (first,) if i % 2 == 0 else (first, str(rng.choice(others)))
        contents.append((tuple(str(o) for o in rng.permutation(objects)), style))
    return contents


def from_generations(
    model: Any,
    clip: Any,
    hookpoints: Sequence[str],
    count: int,
    seeds: Sequence[int],
    batch: int = 40,
    reads: str = "output",
) -> dict[str, Generated]:
    """Sample prompts and return the conditional half's activations at each hookpoint.

    Args:
        reads: ``output`` or ``output_minus_input``, as in SAEConfig.
    """
    capture = Capture(hookpoints, reads)
    watched = attach_observer(model, capture)
    contents = prompt_contents(count, seeds[0])
    calls: dict[str, list[list[Tensor]]] = defaultdict(lambda: [[] for _ in BAND_CENTRES])
    for start in range(0, count, batch):
        part = contents[start : start + batch]
        prompts = [caption(objects, style) for objects, style in part]
        sample(watched, clip, prompts, seeds[start : start + len(part)])
        found: dict[str, list[list[Tensor]]] = defaultdict(lambda: [[] for _ in BAND_CENTRES])
        for captured in capture.take():
            found[captured.hookpoint][band_index(BAND_EDGES, captured.timestep)].append(captured.embeddings)
        for hookpoint, bands in found.items():
            for band, tensors in enumerate(bands):
                calls[hookpoint][band].append(torch.stack(tensors, 1))
        print(f"  {start + len(part)}/{count} generations", flush=True)
    targets = [objects for objects, _ in contents]
    return {h: Generated([torch.cat(band) for band in bands], targets) for h, bands in calls.items()}


def from_scenes(
    model: Any,
    clip: Any,
    vae: Any,
    hookpoints: Sequence[str],
    seeds: Sequence[int],
    batch: int = 50,
    reads: str = "output",
) -> dict[str, Noised]:
    """Noise rendered scenes to the centre of each band and return activations and true masks.

    Args:
        reads: as for ``from_generations``.
    """
    rendered = [scenes.render(seed) for seed in seeds]
    pictures = torch.from_numpy(np.stack([scene.image for scene in rendered])).float() / 255
    capture = Capture(hookpoints, reads)
    watched = attach_observer(model, capture)
    found: dict[str, list[list[Tensor]]] = defaultdict(lambda: [[] for _ in BAND_CENTRES])
    grids: dict[str, tuple[int, int]] = {}
    for start in range(0, len(rendered), batch):
        part = slice(start, start + batch)
        latents = vae.encode(pictures[part])
        captions = [scene.caption for scene in rendered[part]]
        for band, timestep in enumerate(BAND_CENTRES):
            denoise_once(watched, clip, latents, captions, timestep, seed=seeds[start])
            for captured in capture.take():
                found[captured.hookpoint][band].append(captured.embeddings)
                grids[captured.hookpoint] = captured.grid
    cover = torch.zeros(len(OBJECTS), len(rendered), GRID, GRID)
    for i, scene in enumerate(rendered):
        for name, mask in scene.masks.items():
            cover[OBJECTS.index(name), i] = torch.from_numpy(mask)
    styles = torch.tensor([STYLES.index(scene.style) for scene in rendered])
    result = {}
    for hookpoint, bands in found.items():
        embeddings = torch.stack([torch.cat(band) for band in bands])
        masks = torch.nn.functional.adaptive_avg_pool2d(cover, grids[hookpoint]).flatten(2)
        result[hookpoint] = Noised(embeddings, grids[hookpoint], masks, styles)
    return result
