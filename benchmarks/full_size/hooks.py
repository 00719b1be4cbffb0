"""What the hooks alone take on feature maps of full size, without the UNet around them.

``python dev/host benchmarks.full_size.hooks`` lets the Patch Replacer's defaults, and the published way, act on random
feature maps of the published blocks with SAEs of the published size, in turn. The concept is one that a share of the
patches exceeds before competition. ``benchmarks.hooks`` compares with the hooks as they were.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ...erasure.detection import Detector
from ...erasure.eraser import Eraser
from ...erasure.history import ErasureRecord
from ...erasure.replacement import Replacement, draws_for, random_sources, similar_sources
from ...sae_models.concepts import Concept, ConceptBand
from ...sae_models.hookpoints import find
from ...sae_models.loaded import LoadedSAE
from ...unet.calls import NEGATIVE, POSITIVE, Call, Chunk, Run
from ...unet.loading import load_sae
from ..hooks import MIDDLE
from ..published import FullReconstruction
from ..timing import alternate, quartiles, ratios
from .checkpoints import PUBLISHED, write_sae

WIDTH = 1280
# Of each kind: pixels, and patches a side of the SAE's block and of the middle.
SIZES = {"sd15": (512, 16, 8), "sdxl": (1024, 32, 32)}
SHARES = (0.05, 0.2, 1.0)


def concept_of(sae: LoadedSAE, patches: torch.Tensor, share: float) -> Concept:
    """Return a concept that a share of the patches [N, C] exceeds before competition, by its strongest feature."""
    levels = sae.module.pre_activations(patches)
    feature = int(levels.amax(0).argmax())
    limit = max(float(levels[:, feature].quantile(1 - share)), 1e-6)
    # For all patches to exceed it a threshold would have to be negative; a second feature makes up for the first.
    others = levels.topk(sae.config.k).indices.unique().tolist() if share == 1 else []
    features = [feature, *(other for other in others if other != feature)]
    return Concept("something", (0.0, 1000.0), (ConceptBand(tuple(features), (limit,) * len(features)),))


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
    record, latent = ErasureRecord(), (pixels // 8, pixels // 8)
    concept = concept_of(sae, change[1].flatten(1).T.float(), share)
    eraser = Eraser(Detector(sae, concept), Replacement(), record, (MIDDLE, find(block)))
    run = Run(0, (1,), latent, lambda percent: 1e6 * (1 - percent), 1e6)
    eraser.begin(run)
    calls = iter(range(1, 10**6))

    def call() -> Call:
        number = next(calls)
        chunks = tuple(Chunk(slice(i, i + 1), role, role, (0,)) for i, role in enumerate((NEGATIVE, POSITIVE)))
        return Call(run, number, number, torch.tensor(1e6 - number), torch.tensor(500.0), chunks)

    def ours() -> None:
        this = call()
        eraser.on_block(MIDDLE, inner, inner, this)
        eraser.on_block(find(block), x, output, this)

    ways = {"ours": ours, "published": lambda: published.on_block(find(block), x, output, call())}
    with torch.inference_mode():
        times = alternate(ways, rounds, time.process_time)
    eraser.end(run, torch.zeros(1, 4, *latent))
    assert record.latest is not None
    detected = int(next(reversed(record.latest.entries.values())).mask.sum())
    compared = quartiles(ratios(times["ours"], times["published"]), 3)
    milliseconds = " | ".join(f"{1000 * statistics.median(spent):.1f}" for spent in times.values())
    cells = f"{share:.0%} | {detected} of {side * side} | {milliseconds} | {compared}"
    print(f"| {kind}, {pixels} px | {cells} |", flush=True)


def choosing(kind: str, rounds: int, dtype: torch.dtype) -> None:
    """Print how long it takes to choose source patches for a third of the patches out of a quarter of the others."""
    count = SIZES[kind][1] ** 2
    # One image as a block gives it: its patches lie across.
    patches = torch.randn(1, WIDTH, count, generator=torch.Generator().manual_seed(0)).to(dtype).transpose(1, 2)
    places = torch.arange(count)[None]
    mask = places < count // 3
    pool = ~mask & (places < count // 3 + count // 6)
    ways = {
        "similar": lambda: similar_sources(patches, mask, pool),
        "random": lambda: random_sources(mask, pool, draws_for([0], count)),
    }
    for name, times in alternate(ways, rounds, time.process_time).items():
        spent = f"{1000 * statistics.median(times):.2f} ms"
        print(f"{kind}, {name}: source patches for {int(mask.sum())} patches out of {int(pool.sum())}: {spent}")


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
