"""What happens at a hooked block during sampling: detect, refine, replace, record.

One ``Eraser`` belongs to one Patch Replacer. It holds no weights and no state of a run longer than the run.
"""

import logging
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .detection import Detect, Detection, Look, NonFiniteActivations, Refine, detect_patches, leaves
from .masks import MaskState
from .record import CONDITIONAL, UNCONDITIONAL, ErasureRecord, RunRecord, StepEntry
from .replacement import Replacement, donor_pool, donor_seed, nearest_donors, random_donors, replace_patches

ALL_DETECTED = "Every patch of an image was detected, so there was no donor and it was left as it was"
NO_UNCONDITIONAL = "No unconditional half in the same pass, so donors were drawn at random"


@dataclass(frozen=True)
class RunInfo:
    """What is known when a sampling run starts.

    Attributes:
        seed: noise seed, None if unknown.
        image_keys: one integer an image that names its starting noise.
        latent_size: (height, width) of the latent image.
        sigma_ranges: for each leaf, in the order of ``leaves``: (highest, lowest) sigma it looks at, the
            lowest excluded.
    """

    seed: int | None
    image_keys: tuple[int, ...]
    latent_size: tuple[int, int]
    sigma_ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Forward:
    """One call of the UNet: a batch of chunks, each chunk one conditioning for all images.

    Attributes:
        halves: CONDITIONAL or UNCONDITIONAL for each chunk.
        streams: a name for each chunk's conditioning, stable during a run.
        sigma, timestep: noise level of the call.
        latent_size: (height, width) of the latents that went in.
    """

    halves: tuple[int, ...]
    streams: tuple[Hashable, ...]
    sigma: float
    timestep: float
    latent_size: tuple[int, int]


class _Run:
    """State of one sampling run."""

    def __init__(self, detection: Detection, info: RunInfo, record: RunRecord) -> None:
        ranges = {id(leaf): span for leaf, span in zip(leaves(detection), info.sigma_ranges, strict=True)}

        def is_active(leaf: Detect, sigma: float) -> bool:
            highest, lowest = ranges[id(leaf)]
            return lowest < sigma <= highest

        self.info = info
        self.record = record
        self.masks = MaskState(detection, is_active)


class Eraser:
    """Carries out one detection, and one replacement at the blocks that it reads or at others.

    Args:
        detection: what to find.
        replacement: what to do where it is found.
        record: where to note it.
    """

    def __init__(self, detection: Detection, replacement: Replacement, record: ErasureRecord) -> None:
        self.detection = detection
        self.replacement = replacement
        self.record = record
        self._run: _Run | None = None

    @property
    def hookpoints(self) -> list[str]:
        """The UNet modules to hook, without repetition."""
        read = [leaf.hookpoint for leaf in leaves(self.detection)]
        return list(dict.fromkeys([*read, *self.replacement.at]))

    def sampling_ranges(self) -> list[tuple[float, float]]:
        """The (start, end) shares of the sampling range of each leaf, in the order of ``leaves``."""
        return [(leaf.start, leaf.end) for leaf in leaves(self.detection)]

    def begin(self, info: RunInfo) -> None:
        """Forget the last run and start a new one."""
        record = self.record.begin(info.seed, len(info.image_keys), info.latent_size)
        self._run = _Run(self.detection, info, record)

    def end(self) -> None:
        """Drop the state of the run; the record stays."""
        if self._run is not None and self._run.record.notes:
            logging.info("Patch Replacer: %s", self._run.record.summary())
        self._run = None

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, forward: Forward) -> Tensor:
        """Edit the output of a hooked block.

        Args:
            hookpoint: which block.
            x: what went into it, [chunks * B, C, H, W].
            output: what came out, same shape.
            forward: the call it belongs to.

        Returns:
            ``output`` itself if nothing is replaced, else an edited copy.

        Raises:
            NonFiniteActivations: the feature map holds NaN or infinity.
            ValueError: a region mask does not fit.
        """
        run = self._run
        if run is None or output.shape[0] % len(forward.halves):
            return output
        looked = self._detect(run, hookpoint, x, output, forward)
        edits = hookpoint in self.replacement.at if self.replacement.at else looked
        if not (looked or edits):
            return output
        edited = None
        images = output.shape[0] // len(forward.halves)
        for chunk in self._chunks(forward):
            mask = self._mask(run, chunk, forward, tuple(output.shape[-2:]))
            if mask is None:
                continue
            replaced = [0] * images
            if edits and self.replacement.mode != "none" and mask.any():
                edited = output.clone() if edited is None else edited
                for image in range(images):
                    replaced[image] = self._replace(run, hookpoint, forward, chunk, image, mask[image], output, edited)
            self._note(run, hookpoint, forward, chunk, mask, replaced, looked)
        return output if edited is None else edited

    def _chunks(self, forward: Forward) -> Iterable[int]:
        """Which chunks of the batch are looked at."""
        # As a donor the unconditional half would only be replaced by itself.
        both = self.replacement.halves == "both" and self.replacement.mode != "unconditional"
        return [i for i, half in enumerate(forward.halves) if both or half == CONDITIONAL]

    def _detect(self, run: _Run, hookpoint: str, x: Tensor, output: Tensor, forward: Forward) -> bool:
        """Let every leaf of this block look at this pass; tell whether any did."""
        looked = False
        images = output.shape[0] // len(forward.halves)
        for leaf in leaves(self.detection):
            if leaf.hookpoint != hookpoint or not run.masks.is_active(leaf, forward.sigma):
                continue
            band = leaf.concept.bands[leaf.concept.band_index(forward.timestep)]
            for chunk in self._chunks(forward):
                rows = slice(chunk * images, (chunk + 1) * images)
                read = output[rows] if leaf.sae.config.reads == "output" else output[rows] - x[rows]
                patches = read.flatten(2).transpose(1, 2).reshape(-1, read.shape[1])
                try:
                    found = detect_patches(leaf.sae.module, band, leaf.concept.combine, leaf.sensitivity, patches)
                except NonFiniteActivations as error:
                    raise NonFiniteActivations(
                        f"Patch Replacer: the activations of {hookpoint} hold NaN or infinity at timestep "
                        f"{forward.timestep:.0f}. The model itself is producing invalid values: try another "
                        f"precision (for example --force-fp32), or check LoRAs and other patches before this node."
                    ) from error
                grid = (images, *read.shape[-2:])
                look = Look(found.detected.reshape(grid).cpu(), found.likeness.reshape(grid).cpu())
                run.masks.update(leaf, forward.streams[chunk], look)
                looked = True
        return looked

    def _mask(self, run: _Run, chunk: int, forward: Forward, grid: tuple[int, ...]) -> Tensor | None:
        if forward.latent_size != run.info.latent_size and self._has_region(self.detection):
            raise ValueError(
                "Mask Refiner: its region input cannot be placed, because a conditioning covers only an area of "
                "the image. Remove the region, or the conditioning's area."
            )
        return run.masks.mask(forward.streams[chunk], forward.sigma, (grid[0], grid[1]))

    def _has_region(self, node: Detection) -> bool:
        if isinstance(node, Refine):
            return node.refinement.region is not None or self._has_region(node.source)
        return not isinstance(node, Detect) and (self._has_region(node.first) or self._has_region(node.second))

    def _replace(
        self,
        run: _Run,
        hookpoint: str,
        forward: Forward,
        chunk: int,
        image: int,
        mask: Tensor,
        output: Tensor,
        edited: Tensor,
    ) -> int:
        """Replace the detected patches of one image; return how many that were."""
        images = output.shape[0] // len(forward.halves)
        row = source_row = chunk * images + image
        flat = mask.flatten()
        targets = flat.nonzero()[:, 0]
        if len(targets) == 0:
            return 0
        mode = self.replacement.mode
        if mode == "unconditional":
            if UNCONDITIONAL in forward.halves:
                source_row = forward.halves.index(UNCONDITIONAL) * images + image
                replace_patches(edited, row, targets, targets[:, None], output, source_row)
                return len(targets)
            run.record.notes[NO_UNCONDITIONAL] += 1
        if bool(flat.all()):
            run.record.notes[ALL_DETECTED] += 1
            return 0
        donors = self._donors(run, hookpoint, forward, chunk, image, mask, targets)
        replace_patches(edited, row, targets, donors, output, source_row)
        return len(targets)

    def _donors(
        self, run: _Run, hookpoint: str, forward: Forward, chunk: int, image: int, mask: Tensor, targets: Tensor
    ) -> Tensor:
        """Choose donors for the detected patches of one image, [n, m]; see ``replacement``."""
        grid = (mask.shape[0], mask.shape[1])
        likeness = run.masks.likeness(forward.streams[chunk], forward.sigma, grid)
        free = donor_pool(mask.flatten(), likeness[image].flatten(), self.replacement.donor_share)
        if self.replacement.mode in ("nearest", "mean of k nearest"):
            k = self.replacement.k if self.replacement.mode == "mean of k nearest" else 1
            return nearest_donors(targets, free, grid[1], k)
        keys = run.info.image_keys
        key = keys[image] if len(keys) == len(likeness) else image
        seed = donor_seed(self.replacement.seed, key, hookpoint, forward.sigma)
        return random_donors(free, len(targets), torch.Generator().manual_seed(seed))

    def _note(
        self,
        run: _Run,
        hookpoint: str,
        forward: Forward,
        chunk: int,
        mask: Tensor,
        replaced: list[int],
        looked: bool,
    ) -> None:
        whole = forward.latent_size == run.info.latent_size and len(mask) == run.record.images
        run.record.entries[hookpoint, forward.streams[chunk], forward.sigma] = StepEntry(
            hookpoint,
            forward.halves[chunk],
            forward.sigma,
            forward.timestep,
            mask.clone(),
            tuple(replaced),
            whole,
            looked,
        )
