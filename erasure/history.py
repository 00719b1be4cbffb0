"""The last runs of one Patch Replacer, and which of them made an image."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..unet.calls import Run
from .record import Kept, RunRecord
from .recorder import Recorder, fingerprint, fingerprints

# A list of latents makes a run of each, and a cached sampler may be older than the last few.
MOST_RUNS, MOST_BYTES = 64, 64 * 2**20


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
        self._trim()
        return Recorder(run, record)

    def take(self) -> RunRecord:
        """Take the latest run out again: it is one of several passes, of which one record will be made."""
        self._count -= 1
        return self.runs.pop()

    def add(
        self,
        passes: Sequence[RunRecord],
        choice: Sequence[int],
        kept: Kept,
        remaining: Sequence[bool],
        samples: Tensor,
    ) -> RunRecord:
        """Add one record of several passes over a run, and return it.

        Args:
            passes: taken, first to last.
            choice: which pass each image is taken from, 0 for the first.
            kept, remaining: see RunRecord.
            samples: what the sampler returns, [B, C, h, w].
        """
        self._count += 1
        record = replace(RunRecord.joined(passes, choice), number=self._count, kept=kept, remaining=tuple(remaining))
        record.fingerprints = [fingerprints(image) for image in samples]
        self.runs.append(record)
        self._trim()
        return record

    def _trim(self) -> None:
        """Forget the oldest runs where there are too many."""
        held = 0
        for index, each in enumerate(reversed(self.runs)):
            held += each.size()
            if index and (index >= MOST_RUNS or held > MOST_BYTES):
                del self.runs[: len(self.runs) - index]
                break

    def made(self, samples: Tensor) -> RunRecord | None:
        """Return the record of the run that made some latents, of their images alone and in their order.

        Args:
            samples: [B, C, h, w], as the sampler returned them, or some of them.

        Returns:
            it; None if no run kept made all of them.
        """
        wanted = [fingerprint(image) for image in samples]
        for run in reversed(self.runs):
            known = [prints.get(samples.dtype) for prints in run.fingerprints]
            if wanted and all(each in known for each in wanted):
                return run.of([known.index(each) for each in wanted])
        return self._pieced_together(wanted, samples.dtype) if wanted else None

    def _pieced_together(self, wanted: Sequence[int], dtype: torch.dtype) -> RunRecord | None:
        """Return one record of images that several runs from the same start made.

        Another Patch Replacer may sample in passes, of which the result has each image from another one.

        Args:
            wanted: fingerprints of the images, in their order.
            dtype: in which they were taken.
        """
        latest = next((run for run in reversed(self.runs) if _place(run, wanted[0], dtype) is not None), None)
        if latest is None:
            return None
        parts = [run for run in self.runs if run.is_pass_beside(latest)]
        places, choice = [], [len(parts) - 1] * latest.images
        for image in wanted:
            made = [(number, _place(run, image, dtype)) for number, run in enumerate(parts)]
            found = [(number, place) for number, place in made if place is not None]
            if not found:
                return None
            number, place = found[-1]
            choice[place] = number
            places.append(place)
        return RunRecord.joined(parts, choice).of(places)

    def sampled_from(self, image_keys: Sequence[int]) -> RunRecord | None:
        """Return the record of the latest run that began with some images' noise, None if there is none."""
        for run in reversed(self.runs):
            if run.entries and all(key in run.image_keys for key in image_keys):
                return run.of([run.image_keys.index(key) for key in image_keys])
        return None


def _place(run: RunRecord, image: int, dtype: torch.dtype) -> int | None:
    """Return which image of a run has a fingerprint, None if none has."""
    return next((place for place, prints in enumerate(run.fingerprints) if prints.get(dtype) == image), None)
