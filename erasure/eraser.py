"""What happens at a hooked block during sampling: detect, refine, replace, record.

One ``Eraser`` belongs to one Patch Replacer. It holds no weights and no state of a run longer than the run. Everything
stays on the device of the feature map, and nothing in here waits for it; that activations are finite is read once, when
the run ends (docs/decisions/0012).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sae_models.sae import as_read
from ..unet.calls import POSITIVE, Call, Chunk, NonFiniteActivations, Run, grid_of, is_known_off, patches_of
from ..unet.hooks import Attention, Observer
from .detection import Detection, DetectionTree, Detector, blocks_read, detectors, refinements
from .evidence import Evidence, RegionMask
from .history import ErasureRecord
from .masks import MaskState
from .recorder import Recorder
from .refinement import resize_mask
from .region import remains
from .replacement import (
    Replacement,
    as_around,
    draw_seed,
    draws_for,
    nearest_sources,
    random_sources,
    replace_patches,
    similar_sources,
    source_pool,
)
from .scorer import ConceptScorer
from .statistics import statistics_of

ALL_DETECTED = "Every patch of an image was detected, so there was no source patch and the block was left as it was"
UNSURE = (
    "It was not known which image or tile a call of the model was for (another node calls it for parts), so blocks "
    "that run before the SAE's were left as they were"
)


# Takes a step's number from 1, the number of steps, the denoised latents [B, C, h, w], and the detected patches of the
# first image, bool [H, W] (None if nothing is known of it). All of it is where the model is.
Show = Callable[[int, int, Tensor, Tensor | None], None]
OTHER_GRID = "Another node changed how many patches a cross-attention sees, so that it could not follow the fill there"
# Noise level (sigma) down to which patches are replaced where cross-attention keeps the concept from coming back. Below
# it they leave a haze; see docs/decisions/0023. A run that begins with less noise replaces them in more of its steps.
PATCHES_UNTIL, OF_FIRST = 1.0, 0.25
UNPLACED = (
    "It was not known which part of the image a call of the model was for, so that part was left as it was. With "
    "'rest' at 'may change' the Patch Replacer edits it nevertheless"
)


@dataclass(frozen=True, eq=False)
class Task:
    """What an eraser shall do in one of several passes over the same run.

    Attributes:
        region: where it may edit; None for nowhere, it only looks.
        fill: text embedding that cross-attention follows there, [1 or B, T, C]. None replaces patches, and has
            cross-attention give what it gives around the region.
        attempt: counts the passes that edit, from 0; each takes other source patches.
    """

    region: RegionMask | None = None
    fill: Tensor | None = None
    attempt: int = 0


class _State:
    """What one sampling run knows."""

    def __init__(self, tree: DetectionTree, run: Run, recorder: Recorder, task: Task | None) -> None:
        self.run = run
        self.recorder = recorder
        self.task = task
        self.evidence = Evidence()
        self.masks = MaskState(tree, run)
        self.has_region = any(each.region is not None for each in refinements(tree))
        self.follows_around = False  # whether cross-attention of this run was changed to what it gives around
        self._fills: dict[tuple, Tensor] = {}
        self._scorers: dict[tuple[int, torch.device], ConceptScorer] = {}

    def fill(self, chunk: Chunk, like: Tensor) -> Tensor:
        """Return the fill for the rows of a chunk, [B, T, C], where and in the precision that it is needed."""
        assert self.task is not None and self.task.fill is not None and chunk.images is not None
        key = chunk.images, like.device, like.dtype
        if key not in self._fills:
            fill = self.task.fill if len(self.task.fill) == 1 else self.task.fill[list(chunk.images)]
            self._fills[key] = fill.to(like, non_blocking=True).expand(len(chunk.images), -1, -1)
        return self._fills[key]

    def scorer(self, detector: Detector, device: torch.device) -> ConceptScorer:
        """Return what scores patches for a detector's concept."""
        key = id(detector), device
        if key not in self._scorers:
            self._scorers[key] = ConceptScorer(
                detector.sae.module, detector.concept, detector.sensitivity, device, detector.also
            )
        return self._scorers[key]


class Eraser(Observer):
    """Carries out one detection, and one replacement at the blocks that it reads or at others.

    Attributes:
        show: is told of each step; None if nobody watches.
        task: of the next run; None to replace whatever is detected, when it is.
        evidence: what the detectors answered in the latest run.

    Args:
        tree: what to find.
        replacement: what to do where it is found.
        record: where to note it.
        blocks: the UNet modules to edit; those that the detectors read if there are none.
    """

    def __init__(
        self, tree: DetectionTree, replacement: Replacement, record: ErasureRecord, blocks: Sequence[str] = ()
    ) -> None:
        self.tree = tree
        self.replacement = replacement
        self.record = record
        self.blocks = tuple(blocks) or blocks_read(tree)
        self.show: Show | None = None
        self._shown: list[Tensor] = []
        self.task: Task | None = None
        self.evidence = Evidence()
        self._state: _State | None = None

    @property
    def hookpoints(self) -> list[str]:
        """The UNet modules to hook, without repetition."""
        return list(dict.fromkeys([*blocks_read(self.tree), *self.blocks]))

    def begin(self, run: Run) -> None:
        """Start a run.

        Raises:
            ValueError: a region mask does not fit the run's images.
        """
        self._state = _State(self.tree, run, self.record.begin(run), self.task)
        self.evidence = self._state.evidence

    def end(self, run: Run, samples: Tensor | None) -> None:
        """Complete the record, and drop the state of the run.

        Raises:
            NonFiniteActivations: a feature map held NaN or infinity.
        """
        state, self._state = self._state, None
        if state is None:
            return
        if samples is None:
            self.evidence = Evidence()
            # The sampler's own error, or the artist's interruption, is what has to be heard.
            with suppress(RuntimeError):
                state.recorder.finish(None, ALL_DETECTED)
            return
        bad = state.recorder.finish(samples, ALL_DETECTED)
        if state.task is None:
            state.recorder.record.remaining = self._remaining(state)
        if bad is not None:
            raise NonFiniteActivations(
                f"Patch Replacer: the activations of {bad[0]} held NaN or infinity at timestep {bad[1]:.0f}. The model "
                "itself is producing invalid values: try another precision (for example --force-fp32), or check LoRAs "
                "and other patches before this node."
            )

    @staticmethod
    def _remaining(state: _State) -> tuple[bool, ...]:
        """Tell in which images the concept is still found at the end; nothing if no whole image was looked at."""
        seen = state.evidence.gather(state.run.images, state.run.latent_size)
        return () if seen is None else tuple(remains(seen).tolist())

    def end_call(self, call: Call) -> None:
        """Forget what cannot be carried to another call."""
        if self._state is not None:
            for chunk in call.chunks:
                if not chunk.certain:
                    self._state.masks.forget(chunk.key)

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, call: Call) -> Tensor:
        """Return the output of a block with its detected patches replaced; see Observer.

        Raises:
            ValueError: a region mask cannot be placed.
        """
        state = self._state
        if state is None:
            return output
        looked = self._detect(state, hookpoint, x, output, call)
        active = state.masks.any_active(call.sigma)
        if is_known_off(active) or not (looked or hookpoint in self.blocks):
            return output
        edited = None
        for chunk in self._chunks(call):
            mask = self._mask(state, chunk, call, output, active)
            if mask is None:
                continue
            if self.show is not None and _is_of_the_first_image(chunk):
                self._shown.append(mask[0])
            if looked and not chunk.again:
                self._note(state, chunk, call, active)
            part = output[chunk.rows]
            mask, avoided = self._editable(state, chunk, call, mask, active)
            source = self._source(state, hookpoint, chunk, call, part, mask, avoided)
            if source is not None:
                edited = output.clone() if edited is None else edited
                edited[chunk.rows] = replace_patches(part, source)
            # What another node asks for once more is edited like the prediction, and tells nothing of the image.
            if chunk.again:
                continue
            stuck = None if source is None else mask.flatten(1).all(1)
            state.recorder.add(hookpoint, call, chunk, mask, statistics_of(part), source, None, stuck, active, looked)
        return output if edited is None else edited

    def on_step(self, step: int, steps: int, latents: Tensor) -> None:
        """Show what was detected in the first image since the step before; see Observer."""
        if self._state is None or self.show is None:
            return
        masks, self._shown = self._shown, []
        finest = max(masks, key=lambda mask: mask.numel(), default=None)
        if finest is not None:
            grid = int(finest.shape[0]), int(finest.shape[1])
            finest = torch.cat([resize_mask(mask[None], grid) for mask in masks]).any(0)
        self.show(step, steps, latents, finest)

    def _note(self, state: _State, chunk: Chunk, call: Call, active: Tensor | None) -> None:
        """Note what the detectors make of a positive prompt's chunk."""
        mask = state.masks.mask(chunk.key, call.sigma, chunk.images)
        if mask is not None and chunk.role == POSITIVE:
            state.evidence.note(chunk, call, mask, state.masks.score(chunk.key, chunk.images), active)

    def _editable(
        self, state: _State, chunk: Chunk, call: Call, mask: Tensor, active: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return which patches are replaced, and which must not be copied; those detected where there is no task.

        With a region these are its patches, and the detected ones that touch it.
        """
        if state.task is None or state.task.region is None:
            return mask, mask
        if not chunk.is_placed:
            state.run.note(UNPLACED)
            return torch.zeros_like(mask), mask
        inside, touched = state.task.region.on_grid(chunk, (int(mask.shape[-2]), int(mask.shape[-1])), mask.device)
        inside = (inside if active is None else inside & active) | (mask & touched)
        if state.follows_around:
            inside = inside & (call.sigma > min(PATCHES_UNTIL, OF_FIRST * state.run.first_sigma))
        return inside, mask | touched

    @staticmethod
    def _replaces(task: Task | None) -> bool:
        return task is None or (task.region is not None and task.fill is None)

    def _chunks(self, call: Call) -> Iterator[Chunk]:
        """Yield the rows that are looked at."""
        both = self.replacement.apply_to == "both"
        return (chunk for chunk in call.chunks if both or chunk.role == POSITIVE)

    @property
    def wants_attention(self) -> bool:
        """True while a region is edited."""
        edits = self.task is not None and self.task.region is not None and self.replacement.mode != "none"
        return edits or self.needs_attention

    @property
    def needs_attention(self) -> bool:
        """True while cross-attention follows a fill: nothing else erases the concept then."""
        return self.task is not None and self.task.region is not None and self.task.fill is not None

    def on_attention(self, module: Attention, query: Tensor, output: Tensor, call: Call) -> Tensor:
        """Return the output of a cross-attention that follows the fill inside the region; see Observer.

        Without a fill it gives there what it gives around the region.
        """
        state = self._state
        if state is None or state.task is None or state.task.region is None:
            return output
        grid = grid_of(query.shape[1], call.size)
        if grid is None:
            if state.task.fill is not None:
                state.run.note(OTHER_GRID)
            return output
        edited = output.clone()
        for chunk in call.chunks:
            if chunk.role != POSITIVE:
                continue
            if not chunk.is_placed:
                state.run.note(UNPLACED)
                continue
            inside = state.task.region.on_grid(chunk, grid, output.device)[1].flatten(1)
            if state.task.fill is None:
                state.follows_around = True
                edited[chunk.rows] = as_around(output[chunk.rows], inside)
            else:
                other = module(query[chunk.rows], state.fill(chunk, query))
                edited[chunk.rows] = torch.where(inside[..., None], other, output[chunk.rows])
        return edited

    def _detect(self, state: _State, hookpoint: str, x: Tensor, output: Tensor, call: Call) -> bool:
        """Let every detector of this block look at this call; tell whether any did."""
        looked = False
        for detector in detectors(self.tree):
            if detector.hookpoint != hookpoint:
                continue
            active = state.masks.is_active(detector, call.sigma)
            if is_known_off(active):
                continue
            scorer = state.scorer(detector, output.device)
            for chunk in self._chunks(call):
                read = as_read(detector.sae.config.reads, x[chunk.rows], output[chunk.rows])
                grid = (len(read), *read.shape[-2:])
                found, finite = scorer(patches_of(read).reshape(-1, read.shape[1]), call.timestep)
                state.recorder.check(hookpoint, call.timestep, finite)
                if not chunk.again:
                    state.recorder.found(detector, chunk, found.each, grid, active)
                answer = Detection(found.mask.reshape(grid), found.raw_score.reshape(grid), active)
                state.masks.update(detector, chunk.key, answer)
            looked = True
        return looked

    def _mask(self, state: _State, chunk: Chunk, call: Call, output: Tensor, active: Tensor | None) -> Tensor | None:
        """Return the detected patches of a chunk on a block's grid, bool [B, H, W]; None if nothing is known of it."""
        if state.has_region and not chunk.whole:
            raise ValueError(
                "Mask Refiner: its input 'region' cannot be placed, as the model is asked for a part of an image, "
                "an area of a conditioning, or another node's tile. Remove the region, the area, or the tiling."
            )
        mask = state.masks.mask(chunk.key, call.sigma, chunk.images)
        if mask is None:
            if not chunk.certain:
                state.run.note(UNSURE)
            return None
        mask = resize_mask(mask, (int(output.shape[-2]), int(output.shape[-1])))
        return mask if active is None else mask & active

    def _source(
        self, state: _State, hookpoint: str, chunk: Chunk, call: Call, part: Tensor, mask: Tensor, avoided: Tensor
    ) -> Tensor | None:
        """Choose by which patches of a chunk its detected ones are replaced.

        Args:
            part: the block's output for the chunk, [B, C, H, W].
            mask: bool [B, H, W].
            avoided: patches that are not copied either, bool [B, H, W].

        Returns:
            int64 [B, H * W], see ``replacement``; None if the block is left alone.
        """
        mode, flat = self.replacement.mode, mask.flatten(1)
        if state.task is not None and state.task.attempt:
            mode = "random"  # what the chosen mode takes did not do
        if mode == "none" or hookpoint not in self.blocks or not self._replaces(state.task):
            return None
        # On a CPU it costs nothing to see that there is nothing to do.
        if flat.device.type == "cpu" and not flat.any():
            return None
        grid = int(mask.shape[-2]), int(mask.shape[-1])
        score = state.masks.raw_score(chunk.key, grid).flatten(1)
        pool = source_pool(avoided.flatten(1), score, self.replacement.source_share)
        if mode == "similar":
            return similar_sources(patches_of(part), flat, pool)
        if mode == "nearest":
            return nearest_sources(flat, pool, grid[1])
        keys = range(len(part)) if chunk.images is None else (state.run.image_keys[i] for i in chunk.images)
        run, seed = state.run, self.replacement.seed + (state.task.attempt if state.task else 0)
        seeds = [draw_seed(seed, key, hookpoint, run.first_sigma, call.step) for key in keys]
        return random_sources(flat, pool, draws_for(seeds, flat.shape[1]).to(flat.device, non_blocking=True))


def _is_of_the_first_image(chunk: Chunk) -> bool:
    """Tell whether the first row of a chunk is the whole first image of the run, for a positive prompt."""
    return chunk.role == POSITIVE and chunk.whole and not chunk.again and (chunk.images or (None,))[0] == 0
