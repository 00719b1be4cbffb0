"""Sample prompts, or noise images, and store what blocks put out: the data that SAEs are trained on."""

import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...unet.capture import Capture, Captured
from ...unet.hooks import attach_observer
from ...unet.sampling import Conditioning, encode, stacked, starting_noise
from ..reader import generator
from ..store import SHARD_ROWS, Contents, StoreFull, Writer
from . import folder

HELD = "held"
HELD_EVERY = 10  # of so many batches of sampled pictures, or so many files, one is kept for measuring
FLUSH_EVERY = 40.0  # seconds
HELD_SHARE = 0.2  # of the limit, at most
PLANNED_SHARE = 0.85  # of the limit; headers, and samplers that look more than once a step, take the rest


@dataclass(frozen=True, eq=False)
class Pictures:
    """What to sample, or to look at.

    Attributes:
        prompts: used in turn.
        count: pictures in all.
        latent: [B, C, H, W] to start from; B are sampled at a time.
        seed: of the first picture's noise; each next one has the next seed.
        steps, cfg, sampler, scheduler: as in the KSampler.
        part: share of the sampling range (0..1) that is collected, as start_percent and end_percent.
        concepts: words; each has a label, 1 for all patches of a picture whose prompt has the word.
        files: with them nothing is sampled: each is a picture that its prompt describes, and is noised to the levels
            that a sampling run of so many steps has.
    """

    prompts: tuple[str, ...]
    count: int
    latent: Tensor
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    part: tuple[float, float] = (0.0, 1.0)
    concepts: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def is_held(self, number: int) -> bool:
        """Return whether an image is kept for measuring; a file that is used again is kept again."""
        if self.files:
            return number % len(self.files) % HELD_EVERY == HELD_EVERY - 1
        at_a_time = len(self.latent)
        return self.count > at_a_time and number // at_a_time % HELD_EVERY == 0

    def labels(self, prompt: str) -> list[int]:
        """Return 1 for each concept that a prompt names, else 0."""
        return [int(bool(re.search(rf"\b{re.escape(c)}\b", prompt, re.IGNORECASE))) for c in self.concepts]


class Collector:
    """Fills the stores of several hookpoints in one pass over the pictures, from where an earlier one stopped.

    Args:
        model: left as it is.
        clip: its text encoder.
        pictures: what to sample.
        widths: of the hookpoints to read, by name.
        folder: gets a store for each hookpoint, named after it, and one in its folder ``held`` for measuring.
        limit: most bytes of all stores together; of each picture so many patches are kept, drawn at random, that
            they fit.
        family: of the model, for people.
        vae: of the model, to encode the pictures' files.

    Raises:
        StoreError: what is in the folder cannot be gone on with.
    """

    def __init__(
        self,
        model: ModelPatcher,
        clip: Any,
        pictures: Pictures,
        widths: Mapping[str, int],
        folder: Path,
        limit: int,
        family: str = "",
        vae: Any = None,
    ) -> None:
        self.pictures, self.folder, self.clip, self.vae = pictures, folder, clip, vae
        self._capture = Capture(list(widths), part=pictures.part)
        self._levels = levels(model, pictures)
        self._model = attach_observer(model, self._capture)
        self._share = limit // max(1, len(widths))
        self._writers: dict[str, tuple[Writer, Writer]] = {}
        for hookpoint, width in widths.items():
            contents = Contents(hookpoint, width, model_family=family, labels=pictures.concepts)
            most = int(self._share * HELD_SHARE)
            held = Writer(self.store(hookpoint) / HELD, contents, most)
            self._writers[hookpoint] = (Writer(self.store(hookpoint), contents, self._share - most), held)
        self.done = min(self._written(hookpoint) for hookpoint in widths)
        self.full = False
        self._new: list[tuple[Writer, Tensor, float, Tensor]] = []  # of the batch that is being sampled
        self._flushed = time.monotonic()
        self._negative = encode(self.clip, "")

    def store(self, hookpoint: str) -> Path:
        """Return the folder of a hookpoint's store."""
        return self.folder / hookpoint

    @property
    def finished(self) -> bool:
        """Whether all images were sampled, or the stores are full."""
        return self.full or self.done >= self.pictures.count

    @property
    def share(self) -> float:
        """How much is done, 0..1."""
        return 1.0 if self.finished else self.done / self.pictures.count

    def collect(self, tick: Callable[[float], None]) -> None:
        """Sample, or look at, the next batch of pictures and store what the blocks put out.

        Args:
            tick: called after each sampling step with how much of this batch is done, 0..1; what it raises ends
                the batch, which is then done again.

        Raises:
            StoreError: the disk is full, or the activations hold NaN.
            PictureError: a file is no picture.
        """
        numbers = range(self.done, min(self.done + len(self.pictures.latent), self.pictures.count))
        parts = self._encoded(numbers)
        passed = 0
        self._capture.take()
        self._new.clear()
        for positive, members in parts:
            self._sample(positive, members, partial(_part_done, tick, passed, len(members), len(numbers)))
            passed += len(members)
        for writer, embeddings, timestep, labels in self._new:
            writer.add(embeddings, timestep, labels)
        self._new.clear()
        self.done = numbers.stop
        late = time.monotonic() - self._flushed > FLUSH_EVERY
        if late or self.finished or self._waiting() >= SHARD_ROWS:
            self.flush()

    def flush(self) -> None:
        """Put on disk what was collected of whole batches.

        Raises:
            StoreError: the disk is full.
        """
        self._flushed = time.monotonic()
        for pair in self._writers.values():
            for writer, matters in zip(pair, (True, False), strict=True):
                try:
                    writer.flush(self.done)
                except StoreFull:
                    self.full |= matters

    def _written(self, hookpoint: str) -> int:
        return max(writer.progress for writer in self._writers[hookpoint])

    def _waiting(self) -> int:
        return max(writer.waiting for pair in self._writers.values() for writer in pair)

    def _encoded(self, numbers: range) -> list[tuple[list[Any], list[int]]]:
        """Return conditionings, each with the images it is for; prompts of one length share one."""
        prompts = self.pictures.prompts
        groups: dict[tuple[int, ...], list[tuple[int, Conditioning]]] = {}
        for number in numbers:
            encoded = encode(self.clip, prompts[number % len(prompts)])[:1]
            groups.setdefault(tuple(encoded[0][0].shape[1:]), []).append((number, encoded))
        return [
            (stacked([encoded for _, encoded in group]), [number for number, _ in group]) for group in groups.values()
        ]

    @torch.inference_mode()
    def _sample(self, positive: list[Any], numbers: list[int], tick: Callable[[float], None]) -> None:
        p = self.pictures
        labels = torch.tensor([p.labels(p.prompts[n % len(p.prompts)]) for n in numbers], dtype=torch.uint8)
        seen = 0

        def step_done(step: int, *_: Any) -> None:
            nonlocal seen
            for captured in self._capture.take():
                seen += 1
                self._keep(captured, labels, numbers, seen)
            tick((step + 1) / (len(self._levels) if p.files else p.steps))

        if p.files:
            latents = folder.encode(self.vae, [p.files[n % len(p.files)] for n in numbers], p.latent)
            seeds = [p.seed + number for number in numbers]
            folder.look(self._model, latents, positive, self._levels, seeds, step_done)
            return
        latent = comfy.sample.fix_empty_latent_channels(self._model, p.latent[:1].repeat(len(numbers), 1, 1, 1))
        noise = starting_noise(latent, [p.seed + number for number in numbers])
        comfy.sample.sample(
            self._model,
            noise,
            p.steps,
            p.cfg,
            p.sampler,
            p.scheduler,
            positive,
            self._negative,
            latent,
            callback=step_done,
            disable_pbar=True,
            seed=p.seed + numbers[0],
        )
        step_done(p.steps - 1)

    def _keep(self, captured: Captured, labels: Tensor, numbers: list[int], seen: int) -> None:
        """Store some patches of each image, unless its store has them from an earlier run."""
        if numbers[0] < self._written(captured.hookpoint):
            return
        images, patches, width = captured.embeddings.shape
        room = PLANNED_SHARE * self._share / (self.pictures.count * max(1, len(self._levels)))
        kept = max(1, min(patches, int(room / (2 * width + 4 + labels.shape[1]))))
        order = torch.rand(images, patches, generator=generator(self.pictures.seed, numbers[0], seen)).argsort(1)
        rows = order[:, :kept].sort(1).values
        embeddings = captured.embeddings.gather(1, rows[..., None].expand(-1, -1, width))
        held = torch.tensor([self.pictures.is_held(number) for number in numbers])
        for which, writer in zip((~held, held), self._writers[captured.hookpoint], strict=True):
            if bool(which.any()):
                marks = labels[which][:, None].expand(-1, kept, -1).flatten(0, 1)
                self._new.append((writer, embeddings[which].flatten(0, 1), captured.timestep, marks))


def _part_done(tick: Callable[[float], None], before: int, members: int, of: int, share: float) -> None:
    tick((before + share * members) / of)


def levels(model: ModelPatcher, pictures: Pictures) -> list[float]:
    """Return the noise levels (sigmas) of a sampling run that are collected, highest first."""
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, pictures.scheduler, pictures.steps)[:-1]
    highest, lowest = (float(sampling.percent_to_sigma(share)) for share in pictures.part)
    return [sigma for sigma in sigmas.tolist() if lowest < sigma <= highest]


def fingerprint(model: ModelPatcher, hookpoints: Sequence[str]) -> str:
    """Return a short text that differs between models, LoRAs included, by the blocks that are read."""
    network = model.get_model_object("diffusion_model")
    found = []
    for path in hookpoints:
        weight = next(network.get_submodule(path).parameters()).detach().flatten()[:4096].float().cpu()
        found.append(zlib.crc32(weight.contiguous().numpy().tobytes()))
    patches = sorted((key, [float(patch[0]) for patch in value]) for key, value in model.patches.items())
    return f"{found} {zlib.crc32(repr(patches).encode())}"
