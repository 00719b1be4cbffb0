"""What the hooks alone take on feature maps of full size, without the UNet around them.

``python dev/host benchmarks.full_size.hooks`` lets the Patch Replacer's defaults, and the published way, act on random
feature maps of the published blocks with SAEs of the published size, in turn. The concept is one that a share of the
patches exceeds before competition. A UNet of random weights gives SDXL the same patch everywhere, so cost.py can only
show the dearest case there; here it can be any.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ...erasure.detection import Detect
from ...erasure.eraser import Eraser
from ...erasure.record import ErasureRecord
from ...erasure.replacement import Replacement, alike_donors, random_donors
from ...sae_models.concepts import Concept, ConceptBand
from ...sae_models.hookpoints import find
from ...sae_models.loaded import LoadedSAE
from ...unet.calls import Forward, RunInfo
from ...unet.loading import load_sae
from ..framework.settings import MIDDLE, at_blocks
from ..published import FullReconstruction
from ..timing import alternate, quartiles
from .checkpoints import PUBLISHED, write_sae

WIDTH = 1280
# Of each kind: pixels, and cells a side of the SAE's block and of the middle.
SIZES = {"sd15": (512, 16, 8), "sdxl": (1024, 32, 32)}
SHARES = (0.05, 0.2, 1.0)


def concept_of(sae: LoadedSAE, patches: torch.Tensor, share: float) -> Concept:
    """Return a concept that a share of the patches [cells, C] exceeds before competition, by its loudest latent."""
    levels = sae.module.pre_activations(patches)
    latent = int(levels.amax(0).argmax())
    limit = max(float(levels[:, latent].quantile(1 - share)), 1e-6)
    # For all patches to exceed it a threshold would have to be negative; a second latent makes up for the first.
    others = levels.topk(sae.config.k).indices.unique().tolist() if share == 1 else []
    latents = [latent, *(other for other in others if other != latent)]
    return Concept("something", (0.0, 1000.0), (ConceptBand(tuple(latents), (limit,) * len(latents)),))


def compare(kind: str, share: float, rounds: int, dtype: torch.dtype) -> None:
    """Time both ways in turn and print one row."""
    pixels, side, middle = SIZES[kind]
    block, reads = PUBLISHED[kind][0]
    made = torch.Generator().manual_seed(0)
    x, change = (torch.randn(2, WIDTH, side, side, generator=made).to(dtype) for _ in range(2))
    output = change if reads == "output" else x + change
    inner = torch.randn(2, WIDTH, middle, middle, generator=made).to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = str(write_sae(Path(folder), block, WIDTH, reads))
        sae, whole = (load_sae(path, "published", find(block)) for _ in range(2))
        published = FullReconstruction(whole.load_decoder(), [0, 1])
    record, size = ErasureRecord(), (pixels // 8, pixels // 8)
    replacement = at_blocks(Replacement(), (MIDDLE, find(block)))
    concept = concept_of(sae, change[0].flatten(1).T.float(), share)
    eraser = Eraser(Detect(sae, concept), replacement, record)
    eraser.begin(RunInfo(0, (1,), size, ((1e9, -1.0),)))
    sigmas = iter(range(10**6, 0, -1))

    def step() -> Forward:
        return Forward((0, 1), ("p", "n"), float(next(sigmas)), 500.0, size)

    def ours() -> None:
        forward = step()
        eraser.on_block(MIDDLE, inner, inner, forward)
        eraser.on_block(find(block), x, output, forward)

    ways = {"ours": ours, "published": lambda: published.on_block(find(block), x, output, step())}
    with torch.inference_mode():
        times = alternate(ways, rounds, time.process_time)
    ratios = [a / b for a, b in zip(times["ours"], times["published"], strict=True)]
    assert record.latest is not None
    detected = int(next(reversed(record.latest.entries.values())).mask.sum())
    milliseconds = " | ".join(f"{1000 * statistics.median(spent):.1f}" for spent in times.values())
    cells = f"{share:.0%} | {detected} of {side * side} | {milliseconds} | {quartiles(ratios, 3)}"
    print(f"| {kind}, {pixels} px | {cells} |", flush=True)


def choosing(kind: str, rounds: int, dtype: torch.dtype) -> None:
    """Print how long it takes to choose donors for a third of the patches out of a quarter of the others."""
    cells = SIZES[kind][1] ** 2
    patches = torch.randn(cells, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    targets, free = np.arange(cells // 3), np.arange(cells // 3, cells // 3 + cells // 6)
    drawing = torch.Generator().manual_seed(0)
    ways = {
        "alike": lambda: alike_donors(patches, targets, free),
        "random": lambda: random_donors(free, len(targets), drawing),
    }
    for name, times in alternate(ways, rounds, time.process_time).items():
        spent = f"{1000 * statistics.median(times):.2f} ms"
        print(f"{kind}, {name} donors for {len(targets)} patches out of {len(free)}: {spent}")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()
    print(f"Processor time, {torch.get_num_threads()} thread(s), {arguments.dtype}, n {arguments.rounds}\n")
    print("| | exceed before competition | detected | ours, ms | published, ms | ours / published (quartiles) |")
    print("|---|---|---|---|---|---|")
    for kind in SIZES:
        for share in SHARES:
            compare(kind, share, arguments.rounds, getattr(torch, arguments.dtype))
    for kind in SIZES:
        choosing(kind, arguments.rounds, getattr(torch, arguments.dtype))


if __name__ == "__main__":
    main()
