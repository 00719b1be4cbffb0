"""Steering at a hooked block during sampling, with a record of what was changed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..erasure.history import ErasureRecord
from ..erasure.recorder import Recorder
from ..erasure.statistics import statistics_of
from ..sae_models.concepts import Concept, band_index
from ..sae_models.loaded import LoadedSAE
from ..sae_models.sae import as_read
from ..unet.calls import POSITIVE, Call, NonFiniteActivations, Run, is_active, patches_of
from ..unet.hooks import Observer
from .steering import FeatureStatistics, Steering, steer_patches


@dataclass(frozen=True, eq=False)
class SteeredConcept:
    """What to steer, with which SAE, and when.

    Attributes:
        sae: the SAE; its decoder is read from the file when it is attached.
        concept: whose features are steered.
        start, end: share of the sampling range (0..1) in which it acts.
    """

    sae: LoadedSAE
    concept: Concept
    start: float = 0.0
    end: float = 1.0

    def statistics(self, timestep: float) -> FeatureStatistics:
        """Return the features' statistics at a timestep (0..999).

        Raises:
            ValueError: the dictionary holds no mean activations.
        """
        means = self.sae.dictionary.feature_means
        row = None if means is None else means[band_index(self.sae.dictionary.band_edges, timestep)]
        return FeatureStatistics.of(self.concept.bands[self.concept.band_index(timestep)], row)


class Steerer(Observer):
    """Steers one concept at the block its SAE reads. Attach it with ``steering.attach.steer``.

    Args:
        target: what to steer.
        steering: how.
        record: where to note it.
    """

    def __init__(self, target: SteeredConcept, steering: Steering, record: ErasureRecord) -> None:
        self.target = target
        self.steering = steering
        self.record = record
        self._recorder: Recorder | None = None
        self._limits: tuple[float, float] | None = None

    @property
    def hookpoints(self) -> list[str]:
        """The block that the SAE reads."""
        return [self.target.sae.config.hookpoint]

    def begin(self, run: Run) -> None:
        """Start the record of a run."""
        self._limits = run.sigma_range(self.target.start, self.target.end)
        self._recorder = self.record.begin(run)

    def end(self, run: Run, samples: Tensor | None) -> None:
        """Complete the record, and drop the state of the run."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.finish(samples)

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, call: Call) -> Tensor:
        """Return the output of a block with the concept's features steered; see Observer.

        Which statistics count depends on the timestep, so this waits for the device, once a call.

        Raises:
            NonFiniteActivations: the feature map, or what steering made of it, holds NaN or infinity.
        """
        active = is_active(call.sigma, self._limits)
        if self._recorder is None or (active is not None and not bool(active)):
            return output
        edited, timestep = output.clone(), float(call.timestep)
        for chunk in call.chunks:
            if chunk.role != POSITIVE and self.steering.apply_to == "positive":
                continue
            rows = chunk.rows
            mask = self._steer(x[rows], output[rows], edited[rows], timestep)
            if not chunk.again:
                before, after = statistics_of(output[rows]), statistics_of(edited[rows])
                self._recorder.add(hookpoint, call, chunk, mask, before, after=after)
        return edited

    def _steer(self, x: Tensor, output: Tensor, edited: Tensor, timestep: float) -> Tensor:
        """Steer some images in place; return which patches changed, bool [B, H, W]."""
        sae = self.target.sae
        read = as_read(sae.config.reads, x, output)
        patches = patches_of(read).reshape(-1, read.shape[1])
        steered, changed = steer_patches(sae.module, self.target.statistics(timestep), self.steering, patches)
        if not torch.isfinite(steered).all():
            raise NonFiniteActivations(
                f"Feature Steering: the activations of {self.hookpoints[0]} hold NaN or infinity at timestep "
                f"{timestep:.0f}. Move 'strength' towards 0, or try another precision (for example --force-fp32)."
            )
        grid = (len(output), *output.shape[-2:])
        mask = changed.reshape(grid)
        result = steered.reshape(*grid, -1).permute(0, 3, 1, 2)
        # What steering leaves alone keeps its exact bits, whatever the arithmetic around it.
        whole = result if sae.config.reads == "output" else result + x
        edited.copy_(torch.where(mask[:, None], whole, output))
        return mask
