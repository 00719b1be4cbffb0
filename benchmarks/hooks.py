"""The pack's hooks now, and before detection and replacement were rewritten: ``python dev/host benchmarks.hooks``.

Both act in turn on the same random feature maps, on one thread of the CPU, each through its own Eraser: at the middle
block and at the SAE's, for both prompts of guidance, in runs of 20 steps. What a run does once, at its beginning and at
its end, counts a twentieth. The concept is planted, for one patch in seven. In the rows "silenced" as many patches
speak for it, but other features win there, so that each has to be looked at and hardly any is detected.

The older code is taken from git, into dev/work. Without that commit, as in a shallow clone, only today's is measured.
"""

import argparse
import importlib
import importlib.util
import io
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.ops
import torch
from torch import Tensor

from ..erasure.detection import Detector
from ..erasure.eraser import Eraser
from ..erasure.history import ErasureRecord
from ..erasure.replacement import Replacement
from ..sae_models.concepts import Concept, ConceptBand
from ..sae_models.sae import SAEConfig, SparseAutoencoder
from ..unet.calls import NEGATIVE, POSITIVE, Call, Chunk, Run, patches_of
from .framework.settings import MIDDLE, SITE
from .framework.storage import WORK
from .full_size.models import Seen, plant_concept, random_sae
from .timing import alternate, quartiles, ratios

BEFORE = "7838560a28b39e682a2b791f3e078cf7dfb6decc"
PACKAGE = "concept_erasure_before"
ROOT = Path(__file__).resolve().parents[1]
SILENCED = "none, silenced"
# Modes, and what they were called.
MODES = {"similar": "alike", "random": "random", "nearest": "nearest", "none": "none", SILENCED: "none"}
STEPS, MAPS = 20, 4
SHARE = 0.15
TIMESTEP = 500.0


@dataclass(frozen=True)
class Size:
    """A feature map, and an SAE for it.

    Attributes:
        side: patches in a row.
        width: channels.
        images: sampled at once.
        features, k: of the SAE.
    """

    side: int
    width: int
    images: int
    features: int
    k: int

    @property
    def latent(self) -> tuple[int, int]:
        """Size of the latent image that gives such a map."""
        return 2 * self.side, 2 * self.side


# As in the shipped model, in SD1.5 at 512 px and in SDXL at 1024 px.
SIZES = (Size(8, 128, 4, 1536, 16), Size(16, 1280, 2, 20480, 32), Size(32, 1280, 1, 5120, 10))


@dataclass(frozen=True, eq=False)
class Maps:
    """What the two blocks give in a call, and what goes into them, [2 * images, C, H, W]; the negative prompt first."""

    x: Tensor
    middle: Tensor
    output: Tensor


RunOnce = Callable[[], Tensor]  # does a run, and returns what the last call of the SAE's block passed on


def compare(rounds: int = 15, seconds: float = 8.0, sizes: tuple[Size, ...] = SIZES) -> None:
    """Print milliseconds a step, before and now.

    Args:
        rounds: most runs of each.
        seconds: after which a row has no further round, see ``alternate``.
        sizes: which rows.
    """
    package = load_before()
    if package is None:
        print(f"Commit {BEFORE[:7]} is not in this clone, so there is nothing to compare with (git fetch --unshallow)")
    print(f"The hooks alone, milliseconds of the CPU a step, one thread, runs of {STEPS} steps: median (quartiles)")
    print("| patches, channels, images | mode | before | now | now / before | same output |")
    print("|---|---|---|---|---|---|")
    with one_thread(), torch.inference_mode():
        for size in sizes:
            for mode in MODES:
                print(row(size, mode, package, rounds, seconds), flush=True)


def row(size: Size, mode: str, package: str | None, rounds: int, seconds: float) -> str:
    """Measure one size and mode; return a row of the table."""
    config = SAEConfig(size.width, size.features, size.k, SITE)
    sae, maps = random_sae(config), feature_maps(size)
    seen = torch.cat([patches_of(each.output[size.images :]).flatten(0, 1) for each in maps])
    concept = silenced_concept(sae, seen) if mode == SILENCED else plant_concept([sae], [Seen(TIMESTEP, seen)], SHARE)
    actions = {"now": now(size, mode.partition(",")[0], sae, concept, maps)}
    if package is not None:
        actions["before"] = before(package, size, MODES[mode], sae, concept, maps)
    # Source patches of ``random`` come from other seeds than they did.
    same = "" if package is None or mode == "random" else str(torch.equal(actions["now"](), actions["before"]()))
    times = alternate(actions, rounds, time.process_time, seconds)
    spent = {name: [1000 * value / STEPS for value in values] for name, values in times.items()}
    old = f"{statistics.median(spent['before']):.2f}" if package else ""
    compared = quartiles(ratios(spent["now"], spent["before"]), 2) if package else ""
    what = f"{size.side} x {size.side}, {size.width}, {size.images}"
    return f"| {what} | {mode} | {old} | {statistics.median(spent['now']):.2f} | {compared} | {same} |"


def silenced_concept(sae: SparseAutoencoder, patches: Tensor) -> Concept:
    """Return a concept of one feature that seldom fires, as in most patches others are stronger."""
    limit = float(sae.pre_activations(patches)[:, 0].quantile(1 - SHARE))
    return Concept("silenced", (0.0, 1000.0), (ConceptBand((0,), (limit,)),))


def feature_maps(size: Size) -> list[Maps]:
    """Return random feature maps; more than one, so that nothing is gained by keeping an answer."""
    made = torch.Generator().manual_seed(0)
    shape = (2 * size.images, size.width, size.side, size.side)
    return [Maps(*(torch.randn(shape, generator=made) for _ in range(3))) for _ in range(MAPS)]


def now(size: Size, mode: str, sae: SparseAutoencoder, concept: Concept, maps: list[Maps]) -> RunOnce:
    """Return a run of today's hooks."""
    held: Any = SimpleNamespace(module=sae, config=sae.config)
    eraser = Eraser(Detector(held, concept), Replacement(mode), ErasureRecord(), (MIDDLE, SITE))
    images = tuple(range(size.images))
    chunks = tuple(
        Chunk(slice(i * size.images, (i + 1) * size.images), role, role, images)
        for i, role in enumerate((NEGATIVE, POSITIVE))
    )
    samples = torch.zeros(size.images, 4, *size.latent)

    def run_once() -> Tensor:
        run = Run(0, images, size.latent, lambda percent: STEPS * (1 - percent), STEPS)
        eraser.begin(run)
        for step in range(1, STEPS + 1):
            given = maps[step % MAPS]
            sigma, timestep = torch.tensor(float(STEPS + 1 - step)), torch.tensor(TIMESTEP)
            call = Call(run, step, step, sigma, timestep, chunks)
            eraser.on_block(MIDDLE, given.x, given.middle, call)
            passed_on = eraser.on_block(SITE, given.x, given.output, call)
            eraser.end_call(call)
        eraser.end(run, samples)
        return passed_on

    return run_once


def before(package: str, size: Size, mode: str, sae: SparseAutoencoder, concept: Concept, maps: list[Maps]) -> RunOnce:
    """Return the same run of the older hooks; they are given what today's are, in their own terms."""
    concepts, modules, detection, erasers, records, replacements = (
        importlib.import_module(f"{package}.{name}")
        for name in (
            "sae_models.concepts",
            "sae_models.sae",
            "erasure.detection",
            "erasure.eraser",
            "erasure.record",
            "erasure.replacement",
        )
    )
    config = modules.SAEConfig(size.width, size.features, size.k, SITE)
    older = modules.SparseAutoencoder(config, operations=comfy.ops.manual_cast)
    older.load_state_dict(sae.state_dict())
    bands = tuple(concepts.ConceptBand(band.features, band.thresholds) for band in concept.bands)
    detect = detection.Detect(
        SimpleNamespace(module=older, config=config), concepts.Concept(concept.name, concept.band_edges, bands)
    )
    replacement = replacements.Replacement(mode, where=replacements.LISTED, at=(MIDDLE, SITE))
    eraser = erasers.Eraser(detect, replacement, records.ErasureRecord())
    halves = (records.UNCONDITIONAL, records.CONDITIONAL)
    keys = tuple(range(size.images))

    def run_once() -> Tensor:
        eraser.begin(erasers.RunInfo(0, keys, size.latent, ((STEPS + 1.0, -1.0),)))
        for step in range(1, STEPS + 1):
            given = maps[step % MAPS]
            forward = erasers.Forward(halves, ("n", "p"), float(STEPS + 1 - step), TIMESTEP, size.latent)
            eraser.on_block(MIDDLE, given.x, given.middle, forward)
            passed_on = eraser.on_block(SITE, given.x, given.output, forward)
        eraser.end()
        return passed_on

    return run_once


def load_before(commit: str = BEFORE) -> str | None:
    """Load the pack of an older commit beside today's; return the package's name, None if the commit is missing."""
    if PACKAGE in sys.modules:
        return PACKAGE
    folder = WORK / "before" / commit[:7]
    if not folder.is_dir():
        command = ["git", "archive", commit, "__init__.py", "erasure", "sae_models"]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
    return PACKAGE


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: on a shared machine several measure the neighbors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="most runs of each")
    parser.add_argument("--seconds", type=float, default=8.0, help="after which a row has no further round")
    parser.add_argument("--sides", nargs="+", type=int, default=[size.side for size in SIZES])
    given = parser.parse_args()
    compare(given.rounds, given.seconds, tuple(size for size in SIZES if size.side in given.sides))
