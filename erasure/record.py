"""The record of what one Patch Replacer did: which patches it detected and replaced at each step.

While a run lasts, what is noted stays on the device of the model, so that nothing waits for it; when the run ends it is
brought to the CPU at once. The last runs are kept, each with fingerprints of the images that the sampler returned.
"""

import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..unet.calls import NEGATIVE, POSITIVE, Call, Chunk, Run
from .refinement import resize_mask
from .statistics import Statistics

# A list of latents makes a run of each, and a cached sampler may be older than the last few.
MOST_RUNS, MOST_BYTES = 64, 64 * 2**20
# ComfyUI may hand latents on in half precision.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class StepEntry:
    """What happened at one block, in one conditioning, at one noise level.

    Attributes:
        hookpoint: the block.
        role: POSITIVE or NEGATIVE.
        sigma, timestep: the noise level, both ways.
        mask: detected patches, bool [B, H, W].
        replaced: number of replaced patches of each image.
        images: places of the B images in the run's batch; None if they are unknown or no whole images.
        looked: False if the block was only edited, by a mask that another block gave, perhaps a step before.
        before, after: its patch embeddings in numbers, as the block gave them and as they were passed on.
    """

    hookpoint: str
    role: str
    sigma: float
    timestep: float
    mask: Tensor
    replaced: tuple[int, ...]
    images: tuple[int, ...] | None
    looked: bool = True
    before: Statistics | None = None
    after: Statistics | None = None

    def of(self, images: Sequence[int]) -> "StepEntry | None":
        """Return the same of some of the run's images, numbered anew; None if it knows nothing of them."""
        if self.images is None:
            return None
        places = [(new, self.images.index(old)) for new, old in enumerate(images) if old in self.images]
        if not places:
            return None
        rows = [row for _, row in places]
        before, after = (None if each is None else each.of(rows) for each in (self.before, self.after))
        replaced = tuple(self.replaced[row] for row in rows)
        known = tuple(new for new, _ in places)
        return replace(self, mask=self.mask[rows], replaced=replaced, images=known, before=before, after=after)


@dataclass(eq=False)
class Noted:
    """A StepEntry on the device of the model, see there.

    Attributes:
        key: what its rows belong to, see Chunk.
        replaced: int [B].
        stuck: images of which all was detected, so that nothing was replaced, bool [B]; None where nothing was to be.
        active: whether any detector looked at this noise level, bool []; None for always.
    """

    hookpoint: str
    chunk: Chunk
    sigma: Tensor
    timestep: Tensor
    mask: Tensor
    replaced: Tensor
    stuck: Tensor | None
    active: Tensor | None
    looked: bool
    before: Statistics
    after: Statistics

    def tensors(self) -> list[Tensor]:
        """Return all that is on the device."""
        kept = [self.sigma.float(), self.timestep.float(), self.mask, self.replaced, self.stuck, self.active]
        kept += [self.before.squares, self.before.values, self.after.source]
        if self.after.squares is not self.before.squares:
            kept += [self.after.squares, self.after.values]
        return [each for each in kept if each is not None]

    def entry(self, values: Iterable[Tensor]) -> tuple[StepEntry, bool, int]:
        """Make an entry of what ``tensors`` returned, on the CPU.

        Returns:
            it; whether any detector looked; and how many images could not be edited.
        """
        left = iter(values)
        sigma, timestep, mask, replaced = (next(left) for _ in range(4))
        stuck = 0 if self.stuck is None else int(next(left).sum())
        active = self.active is None or bool(next(left))
        before = Statistics(next(left), next(left))
        source = None if self.after.source is None else next(left)
        after = Statistics(before.squares, before.values, source)
        if self.after.squares is not self.before.squares:
            after = Statistics(next(left), next(left), source)
        chunk = self.chunk
        images = chunk.images if chunk.whole else None
        counts = tuple(int(count) for count in replaced)
        entry = StepEntry(
            self.hookpoint, chunk.role, float(sigma), float(timestep), mask, counts, images, self.looked, before, after
        )
        return entry, active, stuck


@dataclass(eq=False)
class RunRecord:
    """One sampling run.

    Attributes:
        number: 1 for the first run of this Patch Replacer since it was executed.
        seed: noise seed of the run, None if the sampler gave none.
        image_keys: name the starting noise of each image.
        latent_size: (height, width) of the latent image.
        entries: by (hookpoint, key of the chunk, sigma); a repeated call overwrites its entry.
        notes: what could not be done, and how often.
        fingerprints: of each image that the sampler returned, by dtype.
    """

    number: int
    seed: int | None
    image_keys: tuple[int, ...]
    latent_size: tuple[int, int]
    entries: dict[tuple[str, Hashable, float], StepEntry] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    fingerprints: list[dict[torch.dtype, int]] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Batch size."""
        return len(self.image_keys)

    def of(self, images: Sequence[int]) -> "RunRecord":
        """Return the record of some of the images, in the given order."""
        found = {key: entry.of(images) for key, entry in self.entries.items()}
        return RunRecord(
            self.number,
            self.seed,
            tuple(self.image_keys[i] for i in images),
            self.latent_size,
            {key: entry for key, entry in found.items() if entry is not None},
            self.notes,
            [self.fingerprints[i] for i in images] if self.fingerprints else [],
        )

    @cached_property
    def steps(self) -> dict[float, list[StepEntry]]:
        """The entries of each noise level, noisiest first."""
        levels: dict[float, list[StepEntry]] = {}
        for entry in sorted(self.entries.values(), key=lambda entry: -entry.sigma):
            levels.setdefault(entry.sigma, []).append(entry)
        return levels

    def sigmas(self) -> list[float]:
        """Return the noise levels of the run, noisiest first."""
        return list(self.steps)

    def timestep(self, sigma: float) -> float:
        """Return the timestep (0..999) that belongs to a recorded noise level."""
        return self.steps[sigma][0].timestep

    def grid(self) -> tuple[int, int] | None:
        """Return the finest grid (H, W) with a mask of whole images, None if there is none."""
        grids = [(e.mask.shape[-2], e.mask.shape[-1]) for e in self.entries.values() if e.images is not None]
        return max(grids, key=lambda grid: grid[0] * grid[1], default=None)

    def step_mask(self, sigma: float) -> Tensor:
        """Return what was detected at one noise level, by any block in any conditioning.

        Negative prompts count only where no positive one was looked at.

        Returns:
            bool [B, H, W] on the finest grid; all False if nothing covers whole images.
        """
        grid = self.grid() or (1, 1)
        union = torch.zeros(self.images, *grid, dtype=torch.bool)
        looked = [entry for entry in self.steps[sigma] if entry.looked and entry.images is not None]
        for role in (POSITIVE, NEGATIVE):
            found = [entry for entry in looked if entry.role == role]
            for entry in found:
                union[list(entry.images or ())] |= resize_mask(entry.mask, grid)
            if found:
                break
        return union

    def heat(self) -> Tensor:
        """Return the share of steps (0..1) in which each patch was detected, float [B, H, W]."""
        grid = self.grid() or (1, 1)
        total = torch.zeros(self.images, *grid)
        for sigma in self.steps:
            total += self.step_mask(sigma)
        return total / max(len(self.steps), 1)

    def shared_statistics(self, reference: "RunRecord | None") -> list[tuple[Statistics, Statistics]]:
        """Pair the numbers of this run's patch embeddings with those of an unedited run, for each block and step.

        Args:
            reference: the record of an unedited run; None compares with what the blocks gave in this run before
                they were edited.

        Returns:
            (this run's, unedited) of the positive prompts; empty if the runs have no block and step in common.
        """
        pairs = []
        for (hookpoint, _, sigma), entry in self.entries.items():
            if entry.role != POSITIVE or not self._is_whole(entry) or entry.after is None or entry.before is None:
                continue
            unedited = entry.before if reference is None else reference.statistics_at(hookpoint, sigma)
            if unedited is not None and unedited.norms.shape == entry.after.norms.shape:
                pairs.append((entry.after, unedited))
        return pairs

    def statistics_at(self, hookpoint: str, sigma: float) -> Statistics | None:
        """Return what a block passed on at one noise level for the positive prompts, None if it is not known."""
        for entry in self.steps.get(sigma, ()):
            if (entry.hookpoint, entry.role) == (hookpoint, POSITIVE) and self._is_whole(entry):
                return entry.after
        return None

    def _is_whole(self, entry: StepEntry) -> bool:
        """Tell whether an entry holds all images of the run, in order."""
        return entry.images == tuple(range(self.images))

    def replaced_shares(self, image: int) -> list[float]:
        """Return which share (0..1) of an image's patches was replaced at each noise level, noisiest first.

        Where several blocks were edited, the largest share counts.
        """
        shares = dict.fromkeys(self.steps, 0.0)
        for entry in self.entries.values():
            if entry.images is not None and image in entry.images and entry.role == POSITIVE:
                row = entry.images.index(image)
                shares[entry.sigma] = max(shares[entry.sigma], entry.replaced[row] / entry.mask[row].numel())
        return list(shares.values())

    def replaced(self) -> int:
        """Return how many patch embeddings were replaced in the whole run."""
        return sum(sum(entry.replaced) for entry in self.entries.values())

    def summary(self) -> str:
        """Return a few sentences for a person."""
        name = f"Run {self.number} (seed {self.seed}"
        if not self.entries:
            return " ".join([f"{name}): the detector did not look at any step.", *self.warnings()])
        text = (
            f"{name}, {self.images} image(s), {len(self.steps)} steps looked at): {float(self.heat().mean()):.1%} of "
            f"all patches detected, {self.replaced()} patch embeddings replaced."
        )
        return " ".join([text, *self.warnings()])

    def warnings(self) -> list[str]:
        """Return what could not be done, a sentence each."""
        return [f"{note} ({count} times)." for note, count in self.notes.items()]

    def size(self) -> int:
        """Return roughly how many bytes it holds."""
        kept = (each for e in self.entries.values() for each in (e.before, e.after) if each is not None)
        return sum(each.squares.nbytes + each.values.nbytes for each in kept)


class Recorder:
    """Writes the record of one run while it lasts.

    Attributes:
        record: what is written, complete once ``finish`` was called.
    """

    def __init__(self, run: Run, record: RunRecord) -> None:
        self.record = record
        self._run = run
        self._noted: list[Noted] = []
        self._finite: list[tuple[str, Tensor, Tensor]] = []

    def check(self, hookpoint: str, timestep: Tensor, finite: Tensor) -> None:
        """Note whether the activations of a block were finite, bool []."""
        self._finite.append((hookpoint, timestep, finite))

    def add(
        self,
        hookpoint: str,
        call: Call,
        chunk: Chunk,
        mask: Tensor,
        before: Statistics,
        source: Tensor | None = None,
        after: Statistics | None = None,
        stuck: Tensor | None = None,
        active: Tensor | None = None,
        looked: bool = True,
    ) -> None:
        """Note what happened to a chunk.

        Args:
            hookpoint, call, chunk: where.
            mask: see StepEntry.
            before: see StepEntry.
            source: by which patch each was replaced, see ``replacement``; None if none was.
            after: see StepEntry; None if patches were only replaced, or not even that.
            stuck, active, looked: see Noted.
        """
        flat = mask.flatten(1)
        if after is not None:
            replaced = flat.sum(1)
        elif source is None:
            replaced = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
        else:
            replaced = (source != torch.arange(source.shape[1], device=source.device)).sum(1)
        short = None if source is None else source.to(torch.int32)
        after = Statistics(before.squares, before.values, short) if after is None else after
        self._noted.append(
            Noted(hookpoint, chunk, call.sigma, call.timestep, mask, replaced, stuck, active, looked, before, after)
        )

    def finish(self, samples: Tensor | None, all_detected: str = "") -> tuple[str, float] | None:
        """Bring everything to the CPU and complete the record.

        Args:
            samples: what the sampler returned, [B, C, h, w]; None if it failed.
            all_detected: note for images that could not be edited, as everything in them was detected.

        Returns:
            block and timestep of the first activations that were not finite, None if all were.
        """
        noted = [entry.tensors() for entry in self._noted]
        checks = [each for _, timestep, finite in self._finite for each in (timestep.float(), finite)]
        moved = iter(on_cpu([*(each for tensors in noted for each in tensors), *checks]))
        for entry, tensors in zip(self._noted, noted, strict=True):
            step, active, stuck = entry.entry([next(moved) for _ in tensors])
            if active:
                self.record.entries[step.hookpoint, entry.chunk.key, step.sigma] = step
                if stuck:
                    self._run.note(all_detected, stuck)
        bad = [(name, float(next(moved)), bool(next(moved))) for name, _, _ in self._finite]
        if samples is not None:
            self.record.fingerprints = [fingerprints(image) for image in samples]
        return next(((name, timestep) for name, timestep, finite in bad if not finite), None)


class ErasureRecord:
    """The handle that travels through the ERASURE_RECORD socket: the last runs of one Patch Replacer.

    ComfyUI may take the Patch Replacer from its cache and run only the sampler again, and nodes with the same inputs
    share one output, so the handle outlives a run and may hold runs of several samplers.
    """

    def __init__(self) -> None:
        self.runs: list[RunRecord] = []
        self._count = 0

    @property
    def latest(self) -> RunRecord | None:
        """The run that began last."""
        return self.runs[-1] if self.runs else None

    def begin(self, run: Run) -> Recorder:
        """Start the record of a new run."""
        self._count += 1
        record = RunRecord(self._count, run.seed, run.image_keys, run.latent_size, notes=run.notes)
        self.runs.append(record)
        held = 0
        for index, each in enumerate(reversed(self.runs)):
            held += each.size()
            if index and (index >= MOST_RUNS or held > MOST_BYTES):
                del self.runs[: len(self.runs) - index]
                break
        return Recorder(run, record)

    def made(self, samples: Tensor) -> RunRecord | None:
        """Return the record of the run that made some latents, of their images alone and in their order.

        Args:
            samples: [B, C, h, w], as the sampler returned them, or some of them.

        Returns:
            it; None if no run kept made all of them.
        """
        wanted = [_fingerprint(image) for image in samples]
        for run in reversed(self.runs):
            known = [prints.get(samples.dtype) for prints in run.fingerprints]
            if wanted and all(each in known for each in wanted):
                return run.of([known.index(each) for each in wanted])
        return None

    def sampled_from(self, image_keys: Sequence[int]) -> RunRecord | None:
        """Return the record of the latest run that began with some images' noise, None if there is none."""
        for run in reversed(self.runs):
            if run.entries and all(key in run.image_keys for key in image_keys):
                return run.of([run.image_keys.index(key) for key in image_keys])
        return None


def on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Bring many small tensors to the CPU, those of one shape in one transfer."""
    groups: dict[tuple, list[int]] = {}
    for index, each in enumerate(tensors):
        groups.setdefault((each.device, each.dtype, each.shape), []).append(index)
    moved: list[Tensor] = list(tensors)
    for (device, _, _), indices in groups.items():
        if device.type != "cpu":
            for index, each in zip(indices, torch.stack([tensors[i] for i in indices]).cpu(), strict=True):
                moved[index] = each
    return moved


def fingerprints(image: Tensor) -> dict[torch.dtype, int]:
    """Name an image of latents [C, h, w] by its bits, in each dtype in which it may be handed on."""
    whole = image.detach().float().cpu()
    return {dtype: _fingerprint(whole.to(dtype)) for dtype in DTYPES}


def _fingerprint(image: Tensor) -> int:
    return zlib.crc32(image.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
