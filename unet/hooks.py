"""Show the blocks of a UNet to an observer while it samples.

ComfyUI has no patch point at the output of a SpatialTransformer, so a wrapper around the diffusion model registers
plain forward hooks for the duration of one call and removes them however that call ends.
"""

import uuid
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .attribution import CallReader
from .calls import Call, Run
from .host import lasting_memory
from .outer_sample import argument, with_argument

BYPASSED = (
    "None of the model's blocks ran in the usual way, so nothing was detected or edited. Another node on this model "
    "runs the blocks itself (as DeepCache does): remove it, or give the sampler a model without it"
)

REPLACED = (
    "Another node (as IP-Adapter does) computes all cross-attention of this model, so the fill had no effect. Give the "
    "sampler a model without it, or disconnect the fill"
)
CROSS_ATTENTION = ".attn2"  # how ComfyUI's SpatialTransformer calls it


# A cross-attention: from queries [rows, N, C] and a text embedding [rows, T, D] to what it adds, [rows, N, C].
Attention = Callable[[Tensor, Tensor], Tensor]


class Observer:
    """Something that looks at, and may edit, the output of blocks. What it leaves out does nothing."""

    @property
    def hookpoints(self) -> Sequence[str]:
        """The blocks to look at: paths below ``diffusion_model``."""
        raise NotImplementedError

    def begin(self, run: Run) -> None:
        """A sampling run starts."""

    def on_block(self, hookpoint: str, x: Tensor, output: Tensor, call: Call) -> Tensor:
        """Return what a block shall give.

        Args:
            hookpoint: the block.
            x: what went into it, [rows, C, H, W].
            output: what came out of it, the same shape. It must not be changed in place.
            call: the call of the UNet.
        """
        return output

    def on_step(self, step: int, steps: int, latents: Tensor) -> None:
        """The sampler has done a step.

        Args:
            step: which, from 1.
            steps: how many there are.
            latents: denoised as far as the model can tell, [B, C, h, w].
        """

    @property
    def wants_attention(self) -> bool:
        """Whether cross-attention is shown too."""
        return False

    @property
    def needs_attention(self) -> bool:
        """Whether nothing is edited unless cross-attention is shown."""
        return False

    def on_attention(self, module: Attention, query: Tensor, output: Tensor, call: Call) -> Tensor:
        """Return what a cross-attention shall give.

        Args:
            module: computes it again for other rows or text.
            query: what asks, [rows, N, C].
            output: what it gave, the same shape. It must not be changed in place.
            call: the call of the UNet.
        """
        return output

    def end_call(self, call: Call) -> None:
        """A call of the UNet is over, however it ended."""

    def end(self, run: Run, samples: Tensor | None) -> None:
        """The run is over. What the sampler returned, [B, C, h, w]; None if it failed or was interrupted."""


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
    session = _Session(observer)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, session.sample)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, key, session.predict)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, key, session.ask)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, key, session.forward)
    if additional:
        patched.set_additional_models(key, list(additional))
    return patched


class _Session:
    """The wrappers that carry one observer through ComfyUI's sampling, from the run to the block."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.reader = CallReader()
        self.run: Run | None = None
        self.seen = self.followed = False
        self.attentions: list[torch.nn.Module] | None = None
        self._uncompiled = torch.compiler.disable(self._hooked)

    def __deepcopy__(self, _memo: dict[int, Any]) -> "_Session":
        return self

    def sample(self, executor: Any, noise: Tensor, latent_image: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Begin and end a run, around CFGGuider.outer_sample."""
        guider = executor.class_obj
        sampling = guider.model_patcher.get_model_object("model_sampling")
        sigmas = argument(args, kwargs, "sigmas")
        run = Run(
            argument(args, kwargs, "seed"),
            _image_keys(noise, latent_image),
            (int(noise.shape[-2]), int(noise.shape[-1])),
            lambda percent: float(sampling.percent_to_sigma(percent)),
            0.0 if sigmas is None or not len(sigmas) else float(sigmas[0]),
        )
        self.reader.begin(run, guider, sampling)
        self.run, self.seen, self.followed, self.attentions = run, False, False, None
        samples = None
        args, kwargs = self._told_of_steps(args, kwargs)
        try:
            self.observer.begin(run)
            samples = executor(noise, latent_image, *args, **kwargs)
            if self.reader.steps and not self.seen:
                run.note(BYPASSED)
            elif self.reader.steps and self.observer.needs_attention and not self.followed:
                run.note(REPLACED)
            return samples
        finally:
            self.run = self.attentions = None
            self.reader.end()
            self.observer.end(run, samples if isinstance(samples, Tensor) else None)

    def _told_of_steps(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let the observer hear of each step beside the sampler's own callback."""
        own = argument(args, kwargs, "callback")

        def callback(step: int, latents: Tensor, noised: Tensor, steps: int) -> None:
            self.observer.on_step(step + 1, steps, latents)
            if own is not None:
                own(step, latents, noised, steps)

        return with_argument(args, kwargs, "callback", callback)

    def predict(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Count what the sampler asks of the guider."""
        self.reader.begin_step(x)
        return executor(x, *args, **kwargs)

    def ask(self, executor: Any, model: Any, conds: Any, x: Tensor, timestep: Tensor, options: Any) -> Any:
        """Learn what the guider asks of the model."""
        if self.run is None:
            return executor(model, conds, x, timestep, options)
        before = self.reader.ask(conds, x, options)
        try:
            return executor(model, conds, x, timestep, options)
        finally:
            self.reader.restore(before)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hook the blocks for the duration of one call of the diffusion model."""
        # Compiled code does not notice hooks that come and go: torch._dynamo.config.skip_nnmodule_hook_guards is on as
        # a rule, so what was compiled for one hooked block would run on for another. Hence nothing below here is
        # compiled; and where nobody compiles, entering and leaving that state would only cost time.
        return self._uncompiled(*args, **kwargs) if torch.compiler.is_compiling() else self._hooked(*args, **kwargs)

    def _hooked(self, executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.run is None:
            return executor(x, timesteps, *args, **kwargs)
        options = kwargs.get("transformer_options") or (args[3] if len(args) > 3 else {})
        context = kwargs.get("context", args[0] if args else None)
        call = self.reader.read(x, timesteps, context, options)
        handles = []
        try:
            for path in self.observer.hookpoints:
                module = executor.class_obj.get_submodule(path)
                handles.append(module.register_forward_hook(self._block_hook(path, call)))
            if self.observer.wants_attention:
                hook = self._attention_hook(call)
                handles += [each.register_forward_hook(hook, with_kwargs=True) for each in self._attentions(executor)]
            return executor(x, timesteps, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
            self.observer.end_call(call)

    def _attentions(self, executor: Any) -> list[torch.nn.Module]:
        """Return the cross-attentions of a UNet; to look for them takes longer than many a step."""
        if self.attentions is None:
            named = executor.class_obj.named_modules()
            self.attentions = [module for path, module in named if path.endswith(CROSS_ATTENTION)]
        return self.attentions

    def _attention_hook(self, call: Call) -> Callable[..., Tensor]:
        def hook(module: torch.nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> Tensor:
            self.followed = True
            more = {"transformer_options": options["transformer_options"]} if "transformer_options" in options else {}

            def again(query: Tensor, context: Tensor) -> Tensor:
                # The module's own call would run this hook once more.
                found: Tensor = module.forward(query, context=context, **more)
                return found

            with lasting_memory():
                return self.observer.on_attention(again, inputs[0], output, call)

        return hook

    def _block_hook(self, path: str, call: Call) -> Callable[..., Tensor]:
        def hook(_module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            self.seen = True
            with lasting_memory():
                return self.observer.on_block(path, inputs[0], output, call)

        return hook


def _image_keys(noise: Tensor, latent_image: Tensor) -> tuple[int, ...]:
    """Name each image by the bits of its starting noise and latent, wherever in a batch it is."""
    start = torch.cat([noise.detach().float().cpu(), latent_image.detach().float().cpu()], 1)
    return tuple(zlib.crc32(image.contiguous().numpy().tobytes()) for image in start)
