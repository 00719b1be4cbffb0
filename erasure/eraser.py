"""What happens at a hooked block during sampling: detect, refine, replace, record.

One ``Eraser`` belongs to one Patch Replacer. It holds no weights and no state of a run longer than the run.
"""

import logging
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..sae_models.sae import as_read
from ..unet.calls import CONDITIONAL, UNCONDITIONAL, Forward, NonFiniteActivations, RunInfo
from .detection import Detect, Detection, Detector, Look, Refine, leaves
from .masks import MaskState
from .record import ErasureRecord, RunRecord, StepEntry
from .replacement import (
    Edit,
    Replacement,
    alike_donors,
    donor_pool,
    donor_seed,
    nearest_donors,
    random_donors,
    replace_patches,
)
from .statistics import Move, Statistics, statistics_of

ALL_DETECTED = "Every patch of an image was detected, so there was no donor and it was left as it was"
NO_UNCONDITIONAL = "No unconditional half in the same pass, so donors were drawn at random"


@dataclass(frozen=True)
class _Places:
    """Where patches of a feature map are replaced and where donors may come from.

    Attributes:
        mask: bool [B, N].
        likeness: what donors were ranked by, float [B, H, W], or None.
        targets, free: places in 0..N-1 of each image, rising.
    """

    mask: np.ndarray
    likeness: Tensor | None
    targets: list[np.ndarray]
    free: list[np.ndarray]


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
        self.places: dict[tuple[Hashable, tuple[int, int]], _Places] = {}
        self.generator = torch.Generator()  # seeded anew for each draw
        self._detectors: dict[tuple[int, int, torch.device], Detector] = {}

    def detector(self, leaf: Detect, timestep: float, device: torch.device) -> Detector:
        """Return what looks for a leaf's concept at a timestep."""
        concept = leaf.concept
        key = id(leaf), concept.band_index(timestep), device
        if key not in self._detectors:
            band = concept.bands[key[1]]
            self._detectors[key] = Detector(leaf.sae.module, band, concept.combine, leaf.sensitivity, device)
        return self._detectors[key]


@dataclass
class _Call:
    """One call of one hooked block.

    Attributes:
        output: what the block gave, [chunks * images, C, H, W].
        edited: a copy of it with patches replaced, None as long as there are none.
        edits: by which edits.
        looked: whether a leaf read this block in this call.
    """

    run: _Run
    hookpoint: str
    forward: Forward
    output: Tensor
    edited: Tensor | None = None
    edits: list[Edit] = field(default_factory=list)
    looked: bool = False

    @property
    def images(self) -> int:
        """Images in each chunk of the batch."""
        return self.output.shape[0] // len(self.forward.halves)

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the feature map."""
        return self.output.shape[-2], self.output.shape[-1]

    def rows(self, chunk: int) -> slice:
        """Where a chunk lies in the batch."""
        return self.forward.rows(chunk, len(self.output))

    def note(self, chunk: int, mask: Tensor, replaced: list[int]) -> None:
        """Write down what happened to a chunk."""
        forward, record = self.forward, self.run.record
        record.entries[self.hookpoint, forward.streams[chunk], forward.sigma] = StepEntry(
            self.hookpoint,
            forward.halves[chunk],
            forward.sigma,
            forward.timestep,
            mask.clone(),
            tuple(replaced),
            forward.latent_size == self.run.info.latent_size and len(mask) == record.images,
            self.looked,
            *self._statistics(self.rows(chunk), any(replaced)),
        )

    def _statistics(self, rows: slice, edited: bool) -> tuple[Statistics, Statistics]:
        """Describe some rows as the block gave them and as they are passed on."""
        before = statistics_of(self.output[rows])
        if not edited or self.edited is None:
            return before, before
        edits = [edit for edit in self.edits if rows.start <= edit.row < rows.stop]
        if any(edit.row != edit.source_row or edit.donors.shape[1] > 1 for edit in edits):
            return before, statistics_of(self.edited[rows])
        # Patches that only changed places need not be looked at again.
        moves = (Move(edit.row - rows.start, edit.targets, edit.donors[:, 0]) for edit in edits)
        return before, replace(before, moves=tuple(moves))


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
        if self._run is None or output.shape[0] % len(forward.halves):
            return output
        call = _Call(self._run, hookpoint, forward, output)
        call.looked = self._detect(call, x)
        edits = hookpoint in self.replacement.at if self.replacement.at else call.looked
        if not (call.looked or edits):
            return output
        for chunk in self._chunks(forward):
            mask = self._mask(call, chunk)
            if mask is None:
                continue
            replaced = [0] * call.images
            if edits and self.replacement.mode != "none":
                replaced = self._replace(call, chunk, mask)
            call.note(chunk, mask, replaced)
        return output if call.edited is None else call.edited

    def _chunks(self, forward: Forward) -> Iterable[int]:
        """Which chunks of the batch are looked at."""
        # As a donor the unconditional half would only be replaced by itself.
        both = self.replacement.halves == "both" and self.replacement.mode != "unconditional"
        return [i for i, half in enumerate(forward.halves) if both or half == CONDITIONAL]

    def _detect(self, call: _Call, x: Tensor) -> bool:
        """Let every leaf of this block look at this call; tell whether any did."""
        looked, forward, masks = False, call.forward, call.run.masks
        for leaf in leaves(self.detection):
            if leaf.hookpoint != call.hookpoint or not masks.is_active(leaf, forward.sigma):
                continue
            for chunk in self._chunks(forward):
                rows = call.rows(chunk)
                read = as_read(leaf.sae.config.reads, x[rows], call.output[rows])
                masks.update(leaf, forward.streams[chunk], self._look(leaf, read, call))
                looked = True
        return looked

    def _look(self, leaf: Detect, read: Tensor, call: _Call) -> Look:
        """Let one leaf look at a feature map [B, D, H, W]."""
        detector = call.run.detector(leaf, call.forward.timestep, read.device)
        patches = read.flatten(2).transpose(1, 2).reshape(-1, read.shape[1])
        try:
            look = detector(patches)
        except NonFiniteActivations as error:
            raise NonFiniteActivations(
                f"Patch Replacer: the activations of {call.hookpoint} hold NaN or infinity at timestep "
                f"{call.forward.timestep:.0f}. The model itself is producing invalid values: try another "
                f"precision (for example --force-fp32), or check LoRAs and other patches before this node."
            ) from error
        shape = (call.images, *call.grid)
        return Look(look.detected.reshape(shape).cpu(), look.likeness.reshape(shape).cpu())

    def _mask(self, call: _Call, chunk: int) -> Tensor | None:
        forward = call.forward
        if forward.latent_size != call.run.info.latent_size and self._has_region(self.detection):
            raise ValueError(
                "Mask Refiner: its region input cannot be placed, because a conditioning covers only an area of "
                "the image. Remove the region, or the conditioning's area."
            )
        return call.run.masks.mask(forward.streams[chunk], forward.sigma, call.grid)

    def _has_region(self, node: Detection) -> bool:
        if isinstance(node, Refine):
            return node.refinement.region is not None or self._has_region(node.source)
        return not isinstance(node, Detect) and (self._has_region(node.first) or self._has_region(node.second))

    def _replace(self, call: _Call, chunk: int, mask: Tensor) -> list[int]:
        """Replace the detected patches of a chunk, mask bool [B, H, W]; return how many that were in each image."""
        places = self._places(call, chunk, mask)
        donors = self._donors(call, chunk, places)
        row, source_row = chunk * call.images, chunk * call.images
        if self._is_unconditional(call):
            source_row = call.forward.halves.index(UNCONDITIONAL) * call.images
        edits = [Edit(row + i, places.targets[i], source_row + i, chosen) for i, chosen in donors.items()]
        if edits:
            call.edited = call.output.clone() if call.edited is None else call.edited
            replace_patches(call.edited, edits, call.output)
            call.edits += edits
        return [len(places.targets[image]) if image in donors else 0 for image in range(call.images)]

    def _is_unconditional(self, call: _Call) -> bool:
        """Whether donors come from the unconditional half of this call."""
        return self.replacement.mode == "unconditional" and UNCONDITIONAL in call.forward.halves

    def _places(self, call: _Call, chunk: int, mask: Tensor) -> _Places:
        """Return where patches are to be replaced and where donors may come from, mask bool [B, H, W]."""
        forward, run = call.forward, call.run
        share, likeness = self.replacement.donor_share, None
        if share < 1 and not self._is_unconditional(call):
            likeness = run.masks.likeness(forward.streams[chunk], forward.sigma, call.grid)
        flat = mask.flatten(1).numpy()
        known = run.places.get((forward.streams[chunk], call.grid))
        # Blocks that run before the SAE's next look are given what it saw last, often by the same grid.
        if known is not None and known.likeness is likeness and known.mask.tobytes() == flat.tobytes():
            return known
        targets = [cells.nonzero()[0] for cells in flat]
        if likeness is None:
            free = [(~cells).nonzero()[0] for cells in flat]
        else:
            ranks = likeness.flatten(1).numpy()
            free = [donor_pool(cells, each, share) for cells, each in zip(flat, ranks, strict=True)]
        run.places[forward.streams[chunk], call.grid] = places = _Places(flat, likeness, targets, free)
        return places

    def _donors(self, call: _Call, chunk: int, places: _Places) -> dict[int, np.ndarray]:
        """Choose donors for the detected patches of each image that has any, and has donors: int [n, m]."""
        detected = {image: targets for image, targets in enumerate(places.targets) if len(targets)}
        if self._is_unconditional(call):
            return {image: targets[:, None] for image, targets in detected.items()}
        notes = call.run.record.notes
        if self.replacement.mode == "unconditional" and detected:
            notes[NO_UNCONDITIONAL] += len(detected)
        partly = [image for image in detected if len(places.free[image])]
        if len(partly) < len(detected):
            notes[ALL_DETECTED] += len(detected) - len(partly)
        return {image: self._choose(call, chunk, image, detected[image], places.free[image]) for image in partly}

    def _choose(self, call: _Call, chunk: int, image: int, targets: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Choose donors for the detected patches of one image out of the free ones, int [n, m]."""
        mode = self.replacement.mode
        if mode == "alike":
            return alike_donors(call.output[chunk * call.images + image].flatten(1).T, targets, free)
        if mode in ("nearest", "mean of k nearest"):
            return nearest_donors(targets, free, call.grid[1], self.replacement.k if mode != "nearest" else 1)
        keys = call.run.info.image_keys
        key = keys[image] if len(keys) == call.images else image
        seed = donor_seed(self.replacement.seed, key, call.hookpoint, call.forward.sigma)
        return random_donors(free, len(targets), call.run.generator.manual_seed(seed))
