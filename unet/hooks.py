"""Show the blocks of a UNet to an observer while it samples.

ComfyUI has no patch point at the output of a SpatialTransformer, so a wrapper around the diffusion model
registers plain forward hooks for the duration of one call and removes them however that call ends.
"""

import uuid
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .calls import Forward, RunInfo
from .passes import PassReader


class Observer(Protocol):
    """Something that looks at, and may edit, the output of blocks: an Eraser or a Capture."""

    @property
    def hookpoints(self) -> Sequence[str]:
        """The blocks to look at."""

    def sampling_ranges(self) -> list[tuple[float, float]]:
        """Shares of the sampling range that the observer wants translated into sigmas."""

    def begin(self, info: RunInfo) -> None:
        """A sampling run starts."""

    def end(self) -> None:
        """The run is over, however it ended."""

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, forward: Forward) -> Tensor:
        """A hooked block took x and gave output; return what it shall give."""


def attach_observer(model: ModelPatcher, observer: Observer, additional: Sequence[ModelPatcher] = ()) -> ModelPatcher:
    """Return a clone of the model whose blocks an observer sees during every sampling run.

    Args:
        model: left as it is.
        observer: see Observer; it is shared by all clones of the returned model.
        additional: models that must be loaded beside it.
    """
    patched = model.clone()
    # A key of its own lets any number of observers share one model.
    key = f"sae_concept_erasure.{uuid.uuid4()}"
    reader = PassReader()
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, _run_wrapper(observer, reader))
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, key, _forward_wrapper(observer, reader))
    if additional:
        patched.set_additional_models(key, list(additional))
    return patched


def _run_wrapper(observer: Observer, reader: PassReader) -> Callable[..., Any]:
    """Begin and end a run around CFGGuider.outer_sample."""

    def wrapper(executor: Any, noise: Tensor, latent_image: Tensor, *args: Any, **kwargs: Any) -> Any:
        sampling = executor.class_obj.model_patcher.get_model_object("model_sampling")
        reader.begin(sampling, executor.class_obj.conds)
        ranges = tuple(
            (float(sampling.percent_to_sigma(start)), float(sampling.percent_to_sigma(end)))
            for start, end in observer.sampling_ranges()
        )
        seed = kwargs.get("seed", args[5] if len(args) > 5 else None)
        size = (int(noise.shape[-2]), int(noise.shape[-1]))
        observer.begin(RunInfo(seed, _image_keys(noise, latent_image), size, ranges))
        try:
            return executor(noise, latent_image, *args, **kwargs)
        finally:
            observer.end()

    return wrapper


def _image_keys(noise: Tensor, latent_image: Tensor) -> tuple[int, ...]:
    """Name each image by the bits of its starting noise and latent, wherever in a batch it is."""
    start = torch.cat([noise.detach().float().cpu(), latent_image.detach().float().cpu()], 1)
    return tuple(zlib.crc32(image.contiguous().numpy().tobytes()) for image in start)


def _forward_wrapper(observer: Observer, reader: PassReader) -> Callable[..., Any]:
    """Hook the blocks for the duration of one call of the diffusion model."""

    def hooked(executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get("transformer_options") or (args[3] if len(args) > 3 else {})
        forward = reader.read(x, timesteps, options)
        handles = []
        try:
            for path in observer.hookpoints:
                module = executor.class_obj.get_submodule(path)
                handles.append(module.register_forward_hook(_block_hook(observer, path, forward)))
            return executor(x, timesteps, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    uncompiled = torch.compiler.disable(hooked)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # Compiled code does not notice hooks that come and go: torch._dynamo.config.skip_nnmodule_hook_guards is on as
        # a rule, so what was compiled for one hooked block would run on for another. Hence nothing below here is
        # compiled; and where nobody compiles, entering and leaving that state would only cost time.
        return uncompiled(*args, **kwargs) if torch.compiler.is_compiling() else hooked(*args, **kwargs)

    return wrapper


def _block_hook(observer: Observer, path: str, forward: Forward) -> Callable[..., Tensor]:
    def hook(_module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return observer.on_block(path, inputs[0], output, forward)

    return hook
