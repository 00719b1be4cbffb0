"""Write the record of a run while it lasts.

What is noted stays on the device of the model, so that nothing waits for it; when the run ends it is brought to the CPU
at once. Each image that the sampler returned gets a fingerprint, by which its run is found again.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..unet.calls import POSITIVE, Call, Chunk, Run
from .detection import Detector
from .record import RunRecord, StepEntry
from .refinement import resize_score
from .statistics import Statistics
from .transfer import on_cpu

# ComfyUI may hand latents on in half precision.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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
        self._found: dict[Detector, tuple[Tensor, Tensor]] = {}

    def found(
        self, detector: Detector, chunk: Chunk, each: Tensor | None, grid: tuple[int, int, int], active: Tensor | None
    ) -> None:
        """Count where a detector found each of its concepts, in calls that hold the whole run for a positive prompt.

        Args:
            detector, chunk: which, and in what.
            each: bool [concepts, B * H * W].
            grid: (B, H, W).
            active: see Noted.
        """
        if each is None or chunk.role != POSITIVE or not chunk.whole or chunk.images != tuple(range(self._run.images)):
            return
        now = each.unflatten(1, grid).float()
        if detector in self._found:
            # Other nodes let a run's calls differ in size.
            known = self._found[detector][0]
            now = resize_score(now.flatten(0, 1), (int(known.shape[-2]), int(known.shape[-1]))).reshape(known.shape)
        once = torch.ones((), device=now.device) if active is None else active.float()
        total, calls = self._found.get(detector, (0.0, 0.0))
        self._found[detector] = total + now * once, calls + once

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
        self.record.concepts = self._concepts()
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

    def _concepts(self) -> dict[str, Tensor]:
        """Return in which share of calls each concept was found in each patch, name -> [B, H, W]."""
        shares: dict[str, Tensor] = {}
        for detector, (total, calls) in self._found.items():
            share = (total / calls.clamp(min=1)).cpu()
            for concept, heat in zip(detector.concepts, share, strict=True):
                before = shares.get(concept.name, heat)
                shares[concept.name] = torch.maximum(before, heat) if before.shape == heat.shape else heat
        return shares


def fingerprints(image: Tensor) -> dict[torch.dtype, int]:
    """Name an image of latents [C, h, w] by its bits, in each dtype in which it may be handed on."""
    whole = image.detach().float().cpu()
    return {dtype: fingerprint(whole.to(dtype)) for dtype in DTYPES}


def fingerprint(image: Tensor) -> int:
    """Name latents by their bits."""
    return zlib.crc32(image.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
