"""Steering at a hooked block during sampling, with a record of what was changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..erasure.record import ErasureRecord, RunRecord, StepEntry
from ..erasure.statistics import statistics_of
from ..sae_models.concepts import Concept
from ..sae_models.loaded import LoadedSAE
from ..sae_models.sae import as_read
from ..unet.calls import CONDITIONAL, Forward, RunInfo
from .steering import LatentStatistics, Steering, steer_patches


@dataclass(frozen=True, eq=False)
class SteeredConcept:
    """What to steer, with which SAE, and when.

    Attributes:
        sae: the SAE; its decoder is read from the file when it is attached.
        concept: whose latents are steered.
        start, end: share of the sampling range (0..1) in which it acts.
    """

    sae: LoadedSAE
    concept: Concept
    start: float = 0.0
    end: float = 1.0

    def statistics(self, timestep: float) -> LatentStatistics:
        """Return the latents' statistics at a timestep (0..999).

        Raises:
            ValueError: the dictionary holds no mean activations.
        """
        means = self.sae.dictionary.latent_means
        row = None if means is None else means[band_index(self.sae.dictionary.band_edges, timestep)]
        return LatentStatistics.of(self.concept.bands[self.concept.band_index(timestep)], row)


def band_index(edges: Sequence[float], timestep: float) -> int:
    """Return which band of rising edges holds a timestep; what lies outside belongs to the first or last."""
    return sum(timestep >= edge for edge in edges[1:-1])


class Steerer:
    """Steers one concept at the block its SAE reads. Attach it with ``model_patcher.steer``.

    Args:
        target: what to steer.
        steering: how.
        record: where to note it.
    """

    def __init__(self, target: SteeredConcept, steering: Steering, record: ErasureRecord) -> None:
        self.target = target
        self.steering = steering
        self.record = record
        self.hookpoints = [target.sae.config.hookpoint]
        self._run: tuple[RunInfo, RunRecord] | None = None

    def sampling_ranges(self) -> list[tuple[float, float]]:
        """The share of the sampling range in which it acts."""
        return [(self.target.start, self.target.end)]

    def begin(self, info: RunInfo) -> None:
        """Start the record of a run."""
        self._run = info, self.record.begin(info.seed, len(info.image_keys), info.latent_size)

    def end(self) -> None:
        """Drop the state of the run; the record stays."""
        self._run = None

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, forward: Forward) -> Tensor:
        """Return the output of a block with the concept's latents steered; the arguments as for Eraser.

        Raises:
            RuntimeError: the feature map, or what steering made of it, holds NaN or infinity.
        """
        if self._run is None or output.shape[0] % len(forward.halves):
            return output
        info, run = self._run
        highest, lowest = info.sigma_ranges[0]
        if not lowest < forward.sigma <= highest:
            return output
        edited = output.clone()
        for chunk, half in enumerate(forward.halves):
            if half != CONDITIONAL and self.steering.halves == "conditional":
                continue
            rows = forward.rows(chunk, len(output))
            mask = self._steer(x[rows], output[rows], edited[rows], forward.timestep)
            run.entries[hookpoint, forward.streams[chunk], forward.sigma] = StepEntry(
                hookpoint,
                half,
                forward.sigma,
                forward.timestep,
                mask,
                tuple(mask.flatten(1).sum(1).tolist()),
                forward.latent_size == info.latent_size and len(mask) == run.images,
                True,
                statistics_of(output[rows]),
                statistics_of(edited[rows]),
            )
        return edited

    def _steer(self, x: Tensor, output: Tensor, edited: Tensor, timestep: float) -> Tensor:
        """Steer some images in place; return which patches changed, bool [B, H, W] on the CPU."""
        sae = self.target.sae
        read = as_read(sae.config.reads, x, output)
        patches = read.flatten(2).transpose(1, 2).reshape(-1, read.shape[1])
        steered, changed = steer_patches(sae.module, self.target.statistics(timestep), self.steering, patches)
        if not torch.isfinite(steered).all():
            raise RuntimeError(
                f"Latent Steering: the activations of {self.hookpoints[0]} hold NaN or infinity at timestep "
                f"{timestep:.0f}. Move 'strength' towards 0, or try another precision (for example --force-fp32)."
            )
        grid = (len(output), *output.shape[-2:])
        mask = changed.reshape(grid)
        result = steered.reshape(*grid, -1).permute(0, 3, 1, 2)
        # What steering leaves alone keeps its exact bits, whatever the arithmetic around it.
        whole = result if sae.config.reads == "output" else result + x
        edited.copy_(torch.where(mask[:, None], whole, output))
        return mask.cpu()
