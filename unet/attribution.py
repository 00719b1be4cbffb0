"""Tell which rows of a call of the UNet belong to which prompt and image.

ComfyUI batches the prompts of a guider, and other nodes batch tiles, split batches, or call the model again. What a row
is comes from the guider's own conditionings, by their uuid; where another node stands between ComfyUI and the model,
from the text embedding that comes with the row. What cannot be told is left out of the call's chunks, with a note.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from .calls import NEGATIVE, POSITIVE, Call, Chunk, Run
from .host import images_of_window

# Below this the largest timestep of a model cannot be one of the 1000 that concepts are known at.
FEWEST_TIMESTEPS = 100.0
# Wrappers that pass a call on as it is. Of others it is checked what they did with the rows.
HARMLESS = ("torch.compile", "sae_concept_erasure")
UNATTRIBUTED = (
    "Another node rearranges what the model is asked, so it could not be told which prompt some of it belongs to; that "
    "was left unedited"
)

Name = tuple[Hashable, int]  # uuid of a conditioning, and its place among the lists that the guider asked for


@dataclass(frozen=True, eq=False)
class _Prompt:
    """A conditioning that rows may belong to: its role, area in the latent, and ComfyUI's own dict of it."""

    role: str
    area: tuple[int, int, int, int]
    cond: Mapping[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """(Height, width) of the latents that it is asked for."""
        return self.area[:2]


@dataclass(eq=False)
class _Batch:
    """What a guider asks at once: for how many images, of which size, with which prompts.

    Attributes:
        foreign: whether another node may change the rows on their way to the UNet.
        whole: False if it is known that only a part of each image is asked for.
        held: places of the images in the run's batch; None if nobody says.
        before: how often the same was asked for in this step, by uuid of a conditioning and role.
        asked: the prompts that have come by so far.
    """

    images: int
    size: tuple[int, int]
    prompts: dict[Name, _Prompt]
    foreign: bool
    whole: bool
    held: tuple[int, ...] | None
    before: dict[tuple[Hashable, str], int]
    asked: set[Name] = field(default_factory=set)


class CallReader:
    """Reads the calls of one sampling run after the other; knows what only the run as a whole tells."""

    def __init__(self) -> None:
        self.calls = self.steps = 0
        self._run: Run
        self._guider: Any = None
        self._schedule: Any = None
        self._batch: _Batch | None = None
        self._scattered: set[Name] = set()
        self._size: tuple[int, int] | None = None
        self._times: Counter[tuple] = Counter()

    def begin(self, run: Run, guider: Any, sampling: Any) -> None:
        """Start a run.

        Args:
            run: it.
            guider: ComfyUI's CFGGuider, or one derived from it.
            sampling: the model_sampling of the model.
        """
        self.calls = self.steps = 0
        self._run, self._guider, self._batch = run, guider, None
        self._scattered, self._size = set(), None
        self._times.clear()
        # EDM models count noise in their own unit; the same noise has a timestep on Stable Diffusion's schedule.
        foreign = float(sampling.timestep(sampling.sigma_max)) < FEWEST_TIMESTEPS
        self._schedule = comfy.model_sampling.ModelSamplingDiscrete() if foreign else None

    def end(self) -> None:
        """Forget the run."""
        self._guider = self._batch = None

    def begin_step(self, x: Tensor) -> None:
        """Note that the sampler asks the guider for a prediction of noised latents, [B, C, h, w]."""
        self.steps += 1
        self._size = int(x.shape[-2]), int(x.shape[-1])
        self._times.clear()

    def ask(self, conds: Sequence[Any], x: Tensor, model_options: Mapping[str, Any]) -> "_Batch | None":
        """Note what the guider asks for; return what it asked before, for ``restore``.

        Args:
            conds: the prompts of each place, as ``calc_cond_batch`` takes them.
            x: noised latents, [B, C, h, w].
            model_options: ComfyUI's.
        """
        before, size = self._batch, (int(x.shape[-2]), int(x.shape[-1]))
        prompts = {}
        for place, asked in enumerate(conds):
            role = self._role(asked or [])
            for cond in (asked or []) if role else []:
                prompts[cond.get("uuid"), place] = _Prompt(role, _area(cond, size), cond)
        held = self._images(len(x), model_options.get("transformer_options") or {})
        # Context windows over height or width, and nodes with crops of their own, ask for parts of the images.
        whole = self._size is None or size == self._size
        times = self._asked_before(prompts, held, whole)
        self._batch = _Batch(len(x), size, prompts, _changes_rows(model_options), whole, held, times)
        return before

    def _asked_before(
        self, prompts: Mapping[Name, _Prompt], held: tuple[int, ...] | None, whole: bool
    ) -> dict[tuple[Hashable, str], int]:
        """Count how often each prompt was asked for some whole images in this step.

        A guider asks for each prompt once a step. Guidance nodes (as perturbed attention, skipped layers,
        self-attention) then ask once more, with attention or image changed. Nothing that comes with a question says
        which one it is: the prompts are the guider's own, patches of the model may be there or not, and an image may be
        changed or not. But these nodes work on what the guider got, in functions that ComfyUI calls after it. So the
        first question is the guider's. It counts when it is asked, for a cache may answer it without the model.
        """
        # A guider that is not asked in ComfyUI's way has no steps, and images that nobody names may be others.
        if not self.steps or held is None:
            return {}
        before = {each: self._times[each, held] for each in {(name[0], p.role) for name, p in prompts.items()}}
        if whole:
            self._times.update((each, held) for each in before)
        return before

    def restore(self, batch: "_Batch | None") -> None:
        """Go back to what was asked before."""
        self._batch = batch

    def _role(self, asked: Sequence[Mapping[str, Any]]) -> str:
        """Return the role that the guider gives to some prompts: POSITIVE, NEGATIVE, or "" if they are not its own."""
        own: Mapping[str, Any] = self._guider.conds
        names = {cond.get("uuid") for cond in asked}
        known = {role: {cond.get("uuid") for cond in prompts or []} for role, prompts in own.items()}
        # A positive prompt with an area lends its uuid to a copy of the negative one, so several roles may fit.
        fitting = [role for role, prompts in own.items() if prompts is asked]
        fitting = fitting or [role for role, uuids in known.items() if uuids == names]
        fitting = fitting or sorted((r for r, uuids in known.items() if names <= uuids), key=lambda r: len(known[r]))
        return "" if not fitting else NEGATIVE if NEGATIVE in fitting[0] else POSITIVE

    def read(self, x: Tensor, timesteps: Tensor, context: Tensor | None, options: Mapping[str, Any]) -> Call:
        """Describe a call of the UNet.

        Args:
            x: the latents that go in, [rows, C, h, w].
            timesteps: [rows].
            context: text embeddings, [rows, tokens, width].
            options: ComfyUI's transformer_options.
        """
        self.calls += 1
        names = list(zip(options.get("uuids") or (), options.get("cond_or_uncond") or (), strict=False))
        chunks = self._chunks(x, context, names, options)
        attributed = sum(chunk.rows.stop - chunk.rows.start for chunk in chunks)
        if attributed < len(x):
            self._run.note(UNATTRIBUTED)
        sigmas = options.get("sigmas")
        sigma = (timesteps if sigmas is None else sigmas).flatten()[0]
        timestep = timesteps.flatten()[0]
        if self._schedule is not None and sigmas is not None:
            timestep = self._schedule.to(sigma.device).timestep(sigma.float()[None])[0].to(sigma)
        size = (int(x.shape[-2]), int(x.shape[-1]))
        return Call(self._run, self.calls, self.steps, sigma, timestep, tuple(chunks), size)

    def _chunks(self, x: Tensor, context: Tensor | None, names: list[Name], options: Mapping[str, Any]) -> list[Chunk]:
        batch = self._batch
        if batch is None or not any(name in batch.prompts for name in names):
            return []
        laid_out = [name if name in batch.prompts else None for name in names for _ in range(batch.images)]
        straight, owners = len(laid_out) == len(x), laid_out
        if batch.foreign or not straight:
            owners = self._owners(context, len(x), [name for name in names if name in batch.prompts])
            straight = straight and owners == laid_out
        self._scattered |= batch.asked.intersection(names)
        batch.asked |= set(names)
        images = batch.held
        size = (int(x.shape[-2]), int(x.shape[-1]))
        chunks: list[Chunk] = []
        start = 0
        for name, group in groupby(owners):
            count = len(list(group))
            if name is not None:
                part = slice(start, start + count)
                chunks.append(self._chunk(part, name, images if straight else None, size, len(chunks)))
            start += count
        return chunks

    def _chunk(
        self, rows: slice, name: Name, images: tuple[int, ...] | None, size: tuple[int, int], index: int
    ) -> Chunk:
        """Describe neighboring rows of one conditioning."""
        assert self._batch is not None
        prompt = self._batch.prompts[name]
        straight = size == prompt.size and self._batch.whole
        certain = images is not None and name not in self._scattered and straight
        times = self._batch.before.get((name[0], prompt.role), 0)
        key: Hashable = (name[0], prompt.role, images, times) if certain else ("call", self.calls, index)
        known = images if straight else None
        whole = size == self._batch.size and self._batch.whole
        area = prompt.area if certain and not whole else None
        return Chunk(rows, prompt.role, key, known, whole, certain, area, times > 0)

    def _images(self, count: int, options: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Return which images of the run a batch of so many holds, None if nobody says."""
        window = options.get("context_window")
        held = None if window is None else images_of_window(window)
        if held is not None and len(held) == count:
            return held
        return tuple(range(count)) if count == self._run.images else None

    def _owners(self, context: Tensor | None, rows: int, asked: Sequence[Name]) -> list[Name | None]:
        """Return whose each row is, by its text embedding; None where it is nobody's, or of prompts of both roles.

        This waits for the device. It is called only where another node may have changed the rows.
        """
        assert self._batch is not None
        prompts = self._batch.prompts
        names = list(dict.fromkeys(asked))
        if context is None or len(context) != rows:
            return [None] * rows
        table = torch.stack([_matches(context, _embedding(prompts[name].cond)) for name in names], 1).tolist()
        owners: list[Name | None] = []
        for hits in table:
            fitting = [name for name, hit in zip(names, hits, strict=True) if hit]
            roles = {prompts[name].role for name in fitting}
            owners.append(fitting[0] if len(roles) == 1 else None)
        return owners


def _area(cond: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return for which part of the latent ComfyUI asks for a conditioning: height, width, top, left."""
    area = cond.get("area")
    if area is None or len(area) < 4 or isinstance(area[0], str):
        return *size, 0, 0
    height, width, top, left = area[-4:] if len(area) == 4 else (*area[1:3], *area[-2:])
    return min(size[0] - top, height), min(size[1] - left, width), top, left


def _changes_rows(model_options: Mapping[str, Any]) -> bool:
    """Tell whether something stands between ComfyUI's batching and the UNet that may change the rows."""
    if "model_function_wrapper" in model_options:
        return True
    wrappers = (model_options.get("transformer_options") or {}).get("wrappers") or {}
    keys = [key for kind in ("apply_model", "diffusion_model") for key in wrappers.get(kind) or {}]
    return any(not str(key).startswith(HARMLESS) for key in keys)


def _embedding(cond: Mapping[str, Any]) -> Tensor | None:
    found = (cond.get("model_conds") or {}).get("c_crossattn")
    embedding = getattr(found, "cond", None)
    return embedding if isinstance(embedding, Tensor) else None


def _matches(context: Tensor, embedding: Tensor | None) -> Tensor:
    """Tell which rows of a context [rows, T, C] are one of the rows of a text embedding [n, t, C], bool [rows]."""
    rows, tokens, width = context.shape
    # ComfyUI repeats a short prompt's tokens to the length of the longest one beside it.
    if embedding is None or embedding.shape[-1] != width or tokens % embedding.shape[1]:
        return torch.zeros(rows, dtype=torch.bool, device=context.device)
    wanted = embedding.to(context).repeat(1, tokens // embedding.shape[1], 1)
    return (context[:, None] == wanted[None]).flatten(2).all(2).any(1)
