"""The last runs of one Patch Replacer, and which of them made an image."""

from collections.abc import Sequence

from torch import Tensor

from ..unet.calls import Run
from .record import RunRecord
from .recorder import Recorder, fingerprint

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
        wanted = [fingerprint(image) for image in samples]
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
