"""Render the training scenes to files in ``dev/work/`` (development only).

``python dev/host dev.demo_model.make_data images`` stores pictures, for the VAE and the classifiers;
``python dev/host dev.demo_model.make_data latents`` stores the VAE's latents of many more scenes, for the UNet, and
needs the trained VAE. Both go on where they were stopped.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...demo_model.vocabulary import OBJECTS, STYLES
from .scenes import TRAIN, render

WORK = Path(__file__).parents[1] / "work"
CHUNK = 1000
NO_OBJECT = -1


def render_labelled(seed: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return a scene's picture and its label: first object, second object (or `NO_OBJECT`), style."""
    scene = render(seed)
    objects = [OBJECTS.index(name) for name in scene.objects] + [NO_OBJECT] * 2
    return scene.image, (objects[0], objects[1], STYLES.index(scene.style))


def render_chunk(seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures uint8 [N, 128, 128, 3] and labels int8 [N, 3]."""
    images, labels = zip(*map(render_labelled, seeds), strict=True)
    return np.stack(images), np.array(labels, np.int8)


def chunks(first_seed: int, count: int) -> list[range]:
    """Split `count` seeds into the ranges that one file each holds."""
    return [range(start, start + CHUNK) for start in range(first_seed, first_seed + count, CHUNK)]


def rendered(todo: list[range]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each chunk's pictures and labels in order, drawn by one process per core where forking works."""
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
    """Store pictures uint8 [N, 128, 128, 3] and labels int8 [N, 3]."""
    folder = WORK / "images"
    todo = missing(folder, chunks(TRAIN.start, count))
    for seeds, (images, labels) in zip(todo, rendered(todo), strict=True):
        save_chunk(chunk_file(folder, seeds), images=images, labels=labels)


def make_features(count: int) -> None:
    """Store each scene's latent, float16 [N, 4, 16, 16]."""
    import torch

    from ...demo_model.vae import load_trained

    vae = load_trained(WORK / "vae.safetensors").to(memory_format=torch.channels_last)
    folder = WORK / "latents"
    # The VAE never saw these seeds, so the UNet learns latents of the kind that new pictures get.
    todo = missing(folder, chunks(TRAIN.start + 1_000_000, count))
    started = time.time()
    for i, (seeds, (images, labels)) in enumerate(zip(todo, rendered(todo), strict=True)):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            latents = torch.cat([vae.encode(batch) for batch in pixels.split(100)])
        save_chunk(chunk_file(folder, seeds), latents=latents.half().numpy(), labels=labels)
        print(f"{seeds.stop - TRAIN.start}: {(i + 1) * CHUNK / (time.time() - started):.0f} scenes/s", flush=True)


def main() -> None:
    """Render what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["images", "latents"])
    parser.add_argument("--count", type=int, help="scenes, in thousands (default: 24 images, 80 latents)")
    args = parser.parse_args()
    if args.kind == "images":
        make_images(1000 * (args.count or 24))
    else:
        make_features(1000 * (args.count or 80))
