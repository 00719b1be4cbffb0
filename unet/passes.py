"""Sample a run several times from the same start, and put predictions of the first pass back in a later one.

A sampler that is a function of its noise and of the guider's predictions then gives the same latent, bit for bit,
wherever the predictions are the same. Samplers whose steps depend on the whole latent do not; ``Passes.result`` finds
out and puts the latents together.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import comfy.model_management
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .host import noise_mask_of
from .opening import Edit, Opening, resized
from .outer_sample import argument, with_argument
from .progress import PassProgress

# Attribution takes wrappers with this beginning for harmless.
KEY = "sae_concept_erasure.passes"
CPU = torch.device("cpu")
# Share of the free memory that recorded predictions may take before they go to the CPU.
MOST_OF_MEMORY = 0.1


class Director(Protocol):
    """Decides how often a run is sampled, and what is made of it."""

    def direct(self, passes: "Passes") -> Tensor:
        """Sample and return what the sampler shall return, [B, C, h, w]."""


@dataclass(frozen=True, eq=False)
class _Prediction:
    """What the guider predicted in one call.

    Attributes:
        sigma: noise level, [B].
        denoised: [B, C, h, w].
        unconditional: what a sampler of the CFG++ kind also uses; None for others.
    """

    sigma: Tensor
    denoised: Tensor
    unconditional: Tensor | None


class Passes:
    """One run of a sampler, which can be sampled again from the same start.

    Attributes:
        samples: what each pass returned, [B, C, h, w].
    """

    def __init__(self, executor: Any, noise: Tensor, latent_image: Tensor, args: Sequence[Any], named: dict) -> None:
        self._executor, self._guider = executor, executor.class_obj
        self._start = noise, latent_image
        self._args, self._named = tuple(args), dict(named)
        self._conds = _copied(self._guider.conds)
        self._random = RandomState(self._guider.model_patcher.load_device)
        self._tape: list[_Prediction] = []
        self._edit: Edit | None = None
        self._calls = 0
        sigmas = argument(args, named, "sigmas")
        self._expected = 1 if sigmas is None else max(1, len(sigmas))
        self.samples: list[Tensor] = []
        self.progress = PassProgress(argument(args, named, "callback"))

    @property
    def images(self) -> int:
        """Batch size."""
        return len(self._start[0])

    @property
    def size(self) -> tuple[int, int]:
        """(Height, width) of the latents at the start."""
        return int(self._start[0].shape[-2]), int(self._start[0].shape[-1])

    def editable(self, size: Sequence[int]) -> Tensor:
        """Return where the latent's noise mask lets anything change, bool [B, *size] on the CPU; all without one."""
        noise, mask = self._start[0], argument(self._args, self._named, "denoise_mask")
        if mask is None:
            return torch.ones(self.images, *size, dtype=torch.bool)
        return resized(noise_mask_of(mask, noise.shape).amax(1, keepdim=True) > 0, size)[:, 0]

    @property
    def clean(self) -> Tensor:
        """The last prediction of the first pass, [B, C, h, w]: the latents as clean as the run makes them."""
        return self._tape[-1].denoised if self._tape else self.samples[0]

    def first(self) -> Tensor:
        """Sample, and record every prediction."""
        self._edit = None
        return self._sample()

    def again(self, opening: Opening) -> Tensor:
        """Sample from the same start with recorded predictions everywhere but where an opening lets them differ."""
        device = self._tape[0].sigma.device if self._tape else opening.region.device
        self._edit = Edit(opening, device)
        return self._sample()

    def result(self, choice: Sequence[int], free: Sequence[Tensor]) -> tuple[Tensor, bool]:
        """Put the result together.

        Args:
            choice: which pass each image is taken from, 0 for the first.
            free: where each pass was free, bool [B, h, w]; that of the first is not used.

        Returns:
            latents that are those of the first pass, bit for bit, outside of what was free; and whether the sampler
            had kept them so by itself.
        """

        def piece(passes: Sequence[Tensor]) -> Tensor:
            return _pieced(passes, choice, free)

        whole = piece(self.samples)
        self.progress.conclude(piece)
        return whole, not any(choice) or torch.equal(whole, _chosen(self.samples, choice))

    def _sample(self) -> Tensor:
        if self.samples:
            self._random.restore()
        self._guider.conds = _copied(self._conds)
        self._calls = 0
        noise, latent_image = (each.clone() for each in self._start)
        callback = self.progress.begin(len(self.samples))
        args, named = with_argument(self._args, self._named, "callback", callback)
        args, named = tuple(map(_cloned, args)), {name: _cloned(each) for name, each in named.items()}
        samples: Tensor = self._executor(noise, latent_image, *args, **named)
        self.samples.append(samples)
        return samples

    def noise(self, noise: Tensor) -> Tensor:
        """Return the noise that a pass begins with, [B, ..., h, w]; ``Opening`` says why it may be another."""
        return noise if self._edit is None else self._edit.noise(noise)

    def predict(self, executor: Any, x: Tensor, timestep: Tensor, options: Mapping[str, Any], seed: Any) -> Tensor:
        """Record a prediction, or put the recorded one back where nothing may change."""
        number, self._calls = self._calls, self._calls + 1
        if self._edit is None:
            unconditional: list[Tensor] = []

            def note(found: Tensor) -> Tensor:
                unconditional.append(found)
                return found

            watched = self._show_unconditional(options, note)
            denoised: Tensor = executor(x, timestep, watched, seed)
            self._record(timestep, denoised, unconditional[0] if unconditional else None)
            return denoised
        if number >= len(self._tape):
            return executor(x, timestep, options, seed)
        known = self._tape[number]
        # A call for another noise level is another question. Whether it is, only the device knows.
        same = known.sigma == timestep
        free = self._edit.free(timestep) | ~same[:, None, None, None]
        watched = self._show_unconditional(options, lambda found: _put_back(found, known.unconditional, free))
        edited = _put_back(executor(x, timestep, watched, seed), known.denoised, free)
        return self._edit.continued(edited, known.denoised, timestep, same)

    def _record(self, sigma: Tensor, denoised: Tensor, unconditional: Tensor | None) -> None:
        home = self._tape[0].denoised.device if self._tape else self._home(denoised)
        kept = [None if each is None else each.detach().to(home, copy=True) for each in (denoised, unconditional)]
        assert kept[0] is not None
        self._tape.append(_Prediction(sigma.detach().clone(), kept[0], kept[1]))

    def _home(self, denoised: Tensor) -> torch.device:
        """Return where predictions are kept."""
        # Samplers of second order ask twice a step.
        needed = 2 * self._expected * denoised.nbytes
        short = needed > MOST_OF_MEMORY * comfy.model_management.get_free_memory(denoised.device)
        return CPU if short else denoised.device

    def _show_unconditional(self, options: Mapping[str, Any], see: Callable[[Tensor], Tensor]) -> Mapping[str, Any]:
        """Let what a sampler of the CFG++ kind takes as the unconditional prediction go through a function.

        Such a sampler adds a post-CFG function of its own to those of the guider.
        """
        others = (self._guider.model_options or {}).get("sampler_post_cfg_function", [])
        posts = options.get("sampler_post_cfg_function", [])
        if len(posts) == len(others):
            return options

        def seen(post: Callable[[dict], Any]) -> Callable[[dict], Any]:
            def with_other(args: dict) -> Any:
                found = args.get("uncond_denoised")
                return post({**args, "uncond_denoised": see(found)} if isinstance(found, Tensor) else args)

            return with_other

        return {**options, "sampler_post_cfg_function": [each if each in others else seen(each) for each in posts]}


def _put_back(now: Tensor, recorded: Tensor | None, free: Tensor) -> Tensor:
    """Return a prediction with the recorded one outside of what is free; as it is if the two do not fit together."""
    if recorded is None or recorded.shape != now.shape:
        return now
    return torch.where(resized(free, now.shape[-2:]), now, recorded.to(now))


class RandomState:
    """The state of the random number generators that a sampler may draw from.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._python, self._numpy, self._torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        # CUDA and the like each have a module of that name.
        module = getattr(torch, device.type, None)
        self._module = module if hasattr(module, "get_rng_state") and device.type != "cpu" else None
        self._on_device = None if self._module is None else self._module.get_rng_state()

    def restore(self) -> None:
        """Go back to it."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._module is not None:
            self._module.set_rng_state(self._on_device)


class _Session:
    """The wrappers that carry one director through ComfyUI's sampling."""

    def __init__(self, director: Director) -> None:
        self.director = director
        self.passes: Passes | None = None

    def __deepcopy__(self, _memo: dict[int, Any]) -> "_Session":
        return self

    def sample(self, executor: Any, noise: Tensor, latent_image: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Let the director sample, around CFGGuider.outer_sample."""
        self.passes = Passes(executor, noise, latent_image, args, kwargs)
        try:
            return self.director.direct(self.passes)
        finally:
            self.passes = None

    def begin(
        self,
        executor: Any,
        wrapped: Any,
        sigmas: Tensor,
        extra: Any,
        callback: Any,
        noise: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Give the sampler the noise of the pass. Further out, observers take an image by its noise for the same."""
        noise = noise if self.passes is None else self.passes.noise(noise)
        return executor(wrapped, sigmas, extra, callback, noise, *args, **kwargs)

    def predict(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None
    ) -> Tensor:
        """See Passes.predict, around the guider's prediction."""
        options = {} if model_options is None else model_options
        if self.passes is None:
            found: Tensor = executor(x, timestep, options, seed)
            return found
        return self.passes.predict(executor, x, timestep, options, seed)


def director_of(model: ModelPatcher) -> Director | None:
    """Return what directs a model's sampling, None if nothing does."""
    found = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return found[0].__self__.director if found else None


def attach_director(model: ModelPatcher, director: Director) -> ModelPatcher:
    """Return a clone of the model whose sampling a director directs, in place of an earlier one.

    Observers that are attached to the clone, before or after, see each pass as a run.
    """
    patched = model.clone()
    session = _Session(director)
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, session.sample),
        (WrappersMP.SAMPLER_SAMPLE, session.begin),
        (WrappersMP.PREDICT_NOISE, session.predict),
    ):
        others = patched.wrappers.get(kind, {})
        # The first wrapper is the outermost: what the sampler gets must be what this one gives.
        patched.wrappers[kind] = {KEY: [wrapper], **{key: each for key, each in others.items() if key != KEY}}
    return patched


def _copied(conds: Mapping[str, Any]) -> dict[str, Any]:
    """Return a guider's prompts, which ComfyUI completes in place."""
    return {role: None if prompts is None else [dict(each) for each in prompts] for role, prompts in conds.items()}


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _chosen(passes: Sequence[Tensor], choice: Sequence[int]) -> Tensor:
    """Take each image from one of several passes, [B, C, h, w] each."""
    return torch.stack([passes[number][image] for image, number in enumerate(choice)])


def _pieced(passes: Sequence[Tensor], choice: Sequence[int], free: Sequence[Tensor]) -> Tensor:
    """Take each image from its pass where that was free, and from the first pass elsewhere.

    Args:
        passes: what each gave, [B, C, h, w].
        choice, free: see ``Passes.result``.
    """
    first = passes[0]
    nowhere = torch.zeros_like(free[0][0])
    inside = torch.stack([free[number][image] if number else nowhere for image, number in enumerate(choice)])
    return torch.where(resized(inside[:, None].to(first.device), first.shape[-2:]), _chosen(passes, choice), first)
