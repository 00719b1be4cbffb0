"""Render the training scenes to files in ``dev/work/`` (development only).

``python dev/host dev.demo_model.make_data images`` stores pictures, for the VAE;
``python dev/host dev.demo_model.make_data latents`` stores the VAE's latents of many more scenes, for the UNet, and
needs the trained VAE; ``python dev/host dev.demo_model.make_data half`` stores those of the same scenes at half their
size. All go on where they were stopped.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...demo_model.sizes import GRID, SIDE
from ...demo_model.vocabulary import OBJECTS, STYLES
from .scenes import TRAIN, render

WORK = Path(__file__).parents[1] / "work"
CHUNK = 500
NO_OBJECT = -1


def render_labelled(seed: int) -> tuple[np.ndarray, tuple[int, int, int], np.ndarray]:
    """Return a scene's picture, its label (first object, second object or `NO_OBJECT`, style) and its masks.

    Masks are uint8 [2, 32, 32], 0 to 255: which share of each latent cell the first and the second object cover.
    """
    scene = render(seed)
    objects = [OBJECTS.index(name) for name in scene.objects] + [NO_OBJECT] * 2
    masks = np.zeros((2, GRID, GRID), np.uint8)
    for i, name in enumerate(scene.objects):
        masks[i] = np.rint(255 * scene.masks[name])
    return scene.image, (objects[0], objects[1], STYLES.index(scene.style)), masks


def render_chunk(seeds: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pictures uint8 [N, 256, 256, 3], labels int8 [N, 3] and masks uint8 [N, 2, 32, 32]."""
    images, labels, masks = zip(*map(render_labelled, seeds), strict=True)
    return np.stack(images), np.array(labels, np.int8), np.stack(masks)


def chunks(first_seed: int, count: int) -> list[range]:
    """Split `count` seeds into the ranges that one file each holds."""
    return [range(start, start + CHUNK) for start in range(first_seed, first_seed + count, CHUNK)]


def rendered(todo: list[range]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield each chunk's pictures, labels and masks in order, drawn by one process per core where forking works."""
    if sys.platform != "linux":
        yield from map(render_chunk, todo)
        return
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        yield from pool.imap(render_chunk, todo)


def missing(folder: Path, todo: list[range]) -> list[range]:
    """Return those ranges whose file is not there yet; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return [seeds for seeds in todo if not chunk_file(folder, seeds).exists()]


def chunk_file(folder: Path, seeds: range) -> Path:
    """Return the file of one range of seeds."""
    return folder / f"{seeds.start:08d}.npz"


def save_chunk(path: Path, **arrays: np.ndarray) -> None:
    """Write a file that is either whole or not there, so that an interrupted run can go on."""
    partial = path.with_suffix(".part.npz")
    np.savez(partial, **arrays)  # type: ignore[arg-type]  # its stub takes them for flags
    partial.rename(path)


def load_chunks(folder: Path, *names: str) -> list[np.ndarray]:
    """Return the named arrays of all chunks in a folder, each joined along its first axis.

    Raises:
        FileNotFoundError: nothing was rendered yet.
    """
    files = sorted(path for path in folder.glob("*.npz") if ".part" not in path.name)
    if not files:
        raise FileNotFoundError(
            f"No data in {folder}. Run `python dev/host dev.demo_model.make_data {folder.name}` first."
        )
    parts = [[data[name] for name in names] for data in map(np.load, files)]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def make_images(count: int) -> None:
    """Store pictures uint8 [N, 256, 256, 3] and labels int8 [N, 3]."""
    folder = WORK / "images"
    todo = missing(folder, chunks(TRAIN.start, count))
    for seeds, (images, labels, _) in zip(todo, rendered(todo), strict=True):
        save_chunk(chunk_file(folder, seeds), images=images, labels=labels)


def halved(images: np.ndarray) -> np.ndarray:
    """Return pictures at half their size, uint8 [N, H, W, 3] -> [N, H/2, W/2, 3]."""
    count, side = len(images), SIDE // 2
    return np.rint(images.reshape(count, side, 2, side, 2, 3).mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def make_latents(count: int) -> None:
    """Store what the UNet and the judges learn from.

    For each scene: latent, and that of its mirror image, float16 [N, 4, 32, 32]; label;
    picture at half its size; masks.
    """
    import torch

    from ...demo_model.vae import load_trained
    from .training import training_precision

    vae = load_trained(WORK / "vae.safetensors").to(memory_format=torch.channels_last)
    folder = WORK / "latents"
    # The VAE never saw these seeds, so the UNet learns latents of the kind that new pictures get.
    todo = missing(folder, chunks(TRAIN.start + 1_000_000, count))
    started = time.time()
    for i, (seeds, (images, labels, masks)) in enumerate(zip(todo, rendered(todo), strict=True)):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        both = torch.cat([pixels, pixels.flip(3)])
        with torch.inference_mode(), training_precision():
            latents = torch.cat([vae.encode(batch.float() / 127.5 - 1) for batch in both.split(50)])
        save_chunk(
            chunk_file(folder, seeds),
            latents=latents[: len(images)].half().numpy(),
            mirrored=latents[len(images) :].half().numpy(),
            labels=labels,
            pictures=halved(images),
            masks=masks,
        )
        print(f"{seeds.stop - TRAIN.start}: {(i + 1) * CHUNK / (time.time() - started):.0f} scenes/s", flush=True)


def make_half() -> None:
    """Store the latents of the half-size pictures of ``make_latents`` and of their mirror images, [N, 4, 16, 16]."""
    import torch

    from ...demo_model.vae import load_trained
    from .training import training_precision

    vae = load_trained(WORK / "vae.safetensors").to(memory_format=torch.channels_last)
    folder = WORK / "half"
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((WORK / "latents").glob("*[0-9].npz")):
        if (folder / file.name).exists():
            continue
        with np.load(file) as data:
            pictures, labels = torch.from_numpy(data["pictures"]).permute(0, 3, 1, 2), data["labels"]
        both = torch.cat([pictures, pictures.flip(3)])
        with torch.inference_mode(), training_precision():
            latents = torch.cat([vae.encode(batch.float() / 127.5 - 1) for batch in both.split(100)]).half().numpy()
        save_chunk(folder / file.name, latents=latents[: len(labels)], mirrored=latents[len(labels) :], labels=labels)


def main() -> None:
    """Render what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["images", "latents", "half"])
    parser.add_argument("--count", type=int, help="scenes, in thousands (default: 8 images, 30 latents)")
    args = parser.parse_args()
    if args.kind == "images":
        make_images(1000 * (args.count or 8))
    elif args.kind == "half":
        make_half()
    else:
        make_latents(1000 * (args.count or 30))
