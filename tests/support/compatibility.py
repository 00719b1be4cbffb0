"""What else artists put on the same model, each through ComfyUI's own nodes and on the shipped model.

A case is a function from the model, as loaded or with the pack on it, to a `Setup`: what to sample with.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.running import whole_layers

from .demo_model import MIDDLE, SMALL, SMALL_SIDE, latents

CUSTOM = "comfy_extras.nodes_custom_sampler"
PROMPT, SECOND, NEGATIVE = "A cat image in photo style", "A dog image in photo style", "A tree image in comic style"


@dataclass
class Setup:
    """Arguments of a sampler node.

    With ``sigmas`` it is SamplerCustom, with a ``guider`` SamplerCustomAdvanced, else KSampler. ``sampler`` is the
    name of one of ComfyUI's, or with ``sigmas`` a SAMPLER of any node.
    """

    model: Any
    positive: Any
    negative: Any
    cfg: float = 4.5
    sampler: Any = "euler"
    scheduler: str = "normal"
    batch: int = 1
    guider: Any = None
    steps: int = 4
    sigmas: Any = None


class Workbench:
    """The shipped model's prompts, synthetic files, and the nodes of ComfyUI by their class names."""

    def __init__(self, canvas: tuple[Any, Any, Any], folder: Path) -> None:
        self.model, self.clip, _ = canvas
        self.folder = folder
        self.positive, self.second, self.negative = (self.encode(text) for text in (PROMPT, SECOND, NEGATIVE))
        self._files()

    def encode(self, text: str) -> Any:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def node(self, module: str, name: str, **inputs: Any) -> Any:
        """Run a node of ``comfy_extras`` or, with module "nodes", of ComfyUI itself; return its first output."""
        __import__(module)
        found = getattr(sys.modules[module], name)
        if hasattr(found, "define_schema"):
            # A newer ComfyUI may have inputs that an older one lacks.
            defaults = {one.id: getattr(one, "default", None) for one in found.define_schema().inputs}
            return found.execute(**{key: value for key, value in defaults.items() if value is not None} | inputs)[0]
        return getattr(found(), found.FUNCTION)(**inputs)[0]

    def sample(self, setup: Setup, seed: int = 7) -> torch.Tensor:
        """Sample through the node that a setup asks for."""
        # Token merging and HyperTile draw from the global generator.
        torch.manual_seed(0)
        latent = {"samples": latents(setup.batch)}
        with torch.inference_mode():
            if setup.sigmas is not None:
                named = isinstance(setup.sampler, str)
                return self.node(
                    CUSTOM, "SamplerCustom", model=setup.model, add_noise=True, noise_seed=seed, cfg=setup.cfg,
                    positive=setup.positive, negative=setup.negative, sigmas=setup.sigmas, latent_image=latent,
                    sampler=self.node(CUSTOM, "KSamplerSelect", sampler_name=setup.sampler) if named else setup.sampler,
                )["samples"]  # fmt: skip
            if setup.guider is None:
                return self.node(
                    "nodes", "KSampler", model=setup.model, seed=seed, steps=setup.steps, cfg=setup.cfg,
                    sampler_name=setup.sampler, scheduler=setup.scheduler, positive=setup.positive,
                    negative=setup.negative, latent_image=latent,
                )["samples"]  # fmt: skip
            schedule = {"scheduler": setup.scheduler, "steps": setup.steps, "denoise": 1.0}
            return self.node(
                CUSTOM,
                "SamplerCustomAdvanced",
                guider=setup.guider,
                latent_image=latent,
                noise=self.node(CUSTOM, "RandomNoise", noise_seed=seed),
                sampler=self.node(CUSTOM, "KSamplerSelect", sampler_name=setup.sampler),
                sigmas=self.node(CUSTOM, "BasicScheduler", model=setup.model, **schedule),
            )["samples"]

    def _files(self) -> None:
        """Write a LoRA and a ControlNet of random weights, of the layout that their nodes read."""
        from comfy.cldm.cldm import ControlNet
        from concept_erasure.demo_model.unet import UNET_CONFIG

        made = torch.Generator().manual_seed(3)
        attention = self.model.model.diffusion_model.get_submodule(f"{MIDDLE}.transformer_blocks.0.attn2")
        width = attention.to_q.in_features
        lora = {}
        for layer in ("to_q", "to_v"):
            key = f"lora_unet_{MIDDLE.replace('.', '_')}_transformer_blocks_0_attn2_{layer}"
            source = width if layer == "to_q" else UNET_CONFIG["context_dim"]
            lora[f"{key}.lora_down.weight"] = torch.randn(4, source, generator=made)
            lora[f"{key}.lora_up.weight"] = torch.randn(width, 4, generator=made)
            lora[f"{key}.alpha"] = torch.tensor(4.0)
        save_file(lora, self.folder / "lora.safetensors")
        config = {key: value for key, value in UNET_CONFIG.items() if key not in ("out_channels", "image_size")}
        torch.manual_seed(4)
        control = ControlNet(image_size=SMALL[0], hint_channels=3, operations=whole_layers(), **config)
        weights = {key: 0.05 * torch.randn(value.shape, generator=made) for key, value in control.state_dict().items()}
        save_file(weights, self.folder / "control.safetensors")


def patched(module: str, name: str, **inputs: Any) -> Callable[[Workbench, Any], Setup]:
    """A case that is one node between model and sampler."""

    def case(bench: Workbench, model: Any) -> Setup:
        return Setup(bench.node(module, name, model=model, **inputs), bench.positive, bench.negative)

    return case


def sampled(**options: Any) -> Callable[[Workbench, Any], Setup]:
    """A case that is a setting of the sampler."""
    return lambda bench, model: Setup(model, bench.positive, bench.negative, **options)


def lora(bench: Workbench, model: Any) -> Setup:
    loaded = bench.node("nodes", "LoraLoaderModelOnly", model=model, lora_name="lora.safetensors", strength_model=1.0)
    return Setup(loaded, bench.positive, bench.negative)


def hooked_lora(bench: Workbench, model: Any) -> Setup:
    """A LoRA on the positive prompt alone, fading in over the steps."""
    extra = "comfy_extras.nodes_hooks"
    hooks = bench.node(extra, "CreateHookLoraModelOnly", lora_name="lora.safetensors", strength_model=1.0)
    frames = bench.node(
        extra, "CreateHookKeyframesInterpolated", strength_start=0.0, strength_end=1.0, interpolation="linear",
        start_percent=0.0, end_percent=1.0, keyframes_count=4,
    )  # fmt: skip
    hooks = bench.node(extra, "SetHookKeyframes", hooks=hooks, hook_kf=frames)
    positive = bench.node(
        extra, "ConditioningSetProperties", cond_NEW=bench.positive, strength=1.0, set_cond_area="default", hooks=hooks
    )
    return Setup(model, positive, bench.negative)


def controlnet(bench: Workbench, model: Any) -> Setup:
    network = bench.node("nodes", "ControlNetLoader", control_net_name="control.safetensors")
    image = torch.rand(1, SMALL_SIDE, SMALL_SIDE, 3, generator=torch.Generator().manual_seed(1))
    positive, negative = sys.modules["nodes"].ControlNetApplyAdvanced().apply_controlnet(
        bench.positive, bench.negative, network, image, 1.0, 0.0, 1.0
    )  # fmt: skip
    return Setup(model, positive, negative)


def combined(bench: Workbench, model: Any) -> Setup:
    both = bench.node("nodes", "ConditioningCombine", conditioning_1=bench.positive, conditioning_2=bench.second)
    return Setup(model, both, bench.negative)


def areas(bench: Workbench, model: Any) -> Setup:
    """The cat over the whole picture, a dog in its right half."""
    half = SMALL_SIDE // 2
    right = bench.node(
        "nodes", "ConditioningSetArea", conditioning=bench.second, width=half, height=SMALL_SIDE, x=half, y=0,
        strength=1.0,
    )  # fmt: skip
    return Setup(
        model,
        bench.node("nodes", "ConditioningCombine", conditioning_1=bench.positive, conditioning_2=right),
        bench.negative,
    )


def masks(bench: Workbench, model: Any) -> Setup:
    """The cat in the left half and the dog in the right one, by masks; the dog's also bounds its area."""
    left = torch.zeros(1, SMALL_SIDE, SMALL_SIDE)
    left[:, :, : SMALL_SIDE // 2] = 1
    parts = [
        bench.node("nodes", "ConditioningSetMask", conditioning=part, mask=mask, set_cond_area=area, strength=1.0)
        for part, mask, area in ((bench.positive, left, "default"), (bench.second, 1 - left, "mask bounds"))
    ]
    both = bench.node("nodes", "ConditioningCombine", conditioning_1=parts[0], conditioning_2=parts[1])
    return Setup(model, both, bench.negative)


def context_windows(bench: Workbench, model: Any) -> Setup:
    """A batch of five in overlapping windows of three."""
    windowed = bench.node(
        "comfy_extras.nodes_context_windows", "ContextWindowsManualNode", model=model, context_length=3,
        context_overlap=1, context_schedule="standard_static", context_stride=1, closed_loop=False,
        fuse_method="pyramid", dim=0,
    )  # fmt: skip
    return Setup(windowed, bench.positive, bench.negative, batch=5)


def tome(bench: Workbench, model: Any) -> Setup:
    """Its node merges tokens only in blocks as large as the latent. The shipped model has no transformer there, so that
    the node is told of a latent of half the sides, as large as its largest block.
    """
    merging = bench.node("comfy_extras.nodes_tomesd", "TomePatchModel", model=model, ratio=0.5)

    def told(patch: Callable[..., Any]) -> Callable[..., Any]:
        def halved(*given: Any) -> Any:
            *tensors, extra = given
            *rest, height, width = extra["original_shape"]
            return patch(*tensors, {**extra, "original_shape": [*rest, height // 2, width // 2]})

        return halved

    patches = merging.model_options["transformer_options"]["patches"]
    for kind in ("attn1_patch", "attn1_output_patch"):
        patches[kind] = [told(patch) for patch in patches[kind]]
    return Setup(merging, bench.positive, bench.negative)


def perp_neg_guider(bench: Workbench, model: Any) -> Setup:
    empty = bench.encode("")
    guider = bench.node(
        "comfy_extras.nodes_perpneg", "PerpNegGuider", model=model, positive=bench.positive, negative=bench.negative,
        empty_conditioning=empty, cfg=4.5, neg_scale=1.0,
    )  # fmt: skip
    return Setup(model, bench.positive, bench.negative, guider=guider)


def perp_neg(bench: Workbench, model: Any) -> Setup:
    return patched("comfy_extras.nodes_perpneg", "PerpNeg", empty_conditioning=bench.encode(""), neg_scale=1.0)(
        bench, model
    )


def lcm(bench: Workbench, model: Any) -> Setup:
    distilled = bench.node(
        "comfy_extras.nodes_model_advanced", "ModelSamplingDiscrete", model=model, sampling="lcm", zsnr=False
    )
    return Setup(distilled, bench.positive, bench.negative, cfg=1.5, sampler="lcm", scheduler="sgm_uniform")


def turbo(steps: int, sampler: str = "euler_ancestral") -> Callable[[Workbench, Any], Setup]:
    """A case sampled as SD Turbo and SDXL Turbo are: their own noise levels, without guidance."""

    def case(bench: Workbench, model: Any) -> Setup:
        sigmas = bench.node(CUSTOM, "SDTurboScheduler", model=model, steps=steps, denoise=1.0)
        return Setup(model, bench.positive, bench.negative, cfg=1.0, sampler=sampler, steps=steps, sigmas=sigmas)

    return case


def sampler_object(make: Callable[[Workbench], Any]) -> Callable[[Workbench, Any], Setup]:
    """A case whose sampler is an object, as sampler nodes and other packs give it."""

    def case(bench: Workbench, model: Any) -> Setup:
        sigmas = bench.node(CUSTOM, "BasicScheduler", model=model, scheduler="sgm_uniform", steps=4, denoise=1.0)
        return Setup(model, bench.positive, bench.negative, cfg=2.0, sampler=make(bench), sigmas=sigmas)

    return case


def advanced(name: str, **inputs: Any) -> Callable[[Workbench, Any], Setup]:
    """A case with one of ComfyUI's advanced samplers."""
    return sampler_object(lambda bench: bench.node("comfy_extras.nodes_advanced_samplers", name, **inputs))


def sample_tcd(model: Any, x: Any, sigmas: Any, extra_args: Any = None, gamma: float = 0.3, **_: Any) -> Any:
    """Sample with strategic stochastic steps (Zheng et al. 2024, arXiv 2402.19159, algorithm 4), for which ComfyUI has
    no node: go down to a share of the next noise level, and up to that level with fresh noise.
    """
    for now, after in itertools.pairwise(sigmas):
        denoised = model(x, now * x.new_ones(len(x)), **(extra_args or {}))
        below = (1 - gamma) * after
        x = denoised + below / now * (x - denoised) + (after**2 - below**2).sqrt() * torch.randn_like(x)
    return x


def tcd(_: Workbench) -> Any:
    import comfy.samplers

    return comfy.samplers.KSAMPLER(sample_tcd)


DOWNSCALE = {
    "block_number": 1,
    "downscale_factor": 2.0,
    "start_percent": 0.0,
    "end_percent": 0.5,
    "downscale_after_skip": True,
    "downscale_method": "bicubic",
    "upscale_method": "bicubic",
}
CASES: dict[str, Callable[[Workbench, Any], Setup]] = {
    "LoRA": lora,
    "LoRA scheduled by hooks": hooked_lora,
    "ControlNet": controlnet,
    "FreeU": patched("comfy_extras.nodes_freelunch", "FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2),
    "FreeU V2": patched("comfy_extras.nodes_freelunch", "FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "PerturbedAttention": patched("comfy_extras.nodes_pag", "PerturbedAttentionGuidance", scale=3.0),
    "SAG": patched("comfy_extras.nodes_sag", "SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "PerpNeg (old node)": perp_neg,
    "PerpNegGuider": perp_neg_guider,
    "HyperTile": patched(
        "comfy_extras.nodes_hypertile", "HyperTile", tile_size=32, swap_size=2, max_depth=1, scale_depth=False
    ),
    "ToMe": tome,
    "Deep Shrink": patched("comfy_extras.nodes_model_downscale", "PatchModelAddDownscale", **DOWNSCALE),
    "RescaleCFG": patched("comfy_extras.nodes_model_advanced", "RescaleCFG", multiplier=0.7),
    "LCM": lcm,
    "TCD": sampler_object(tcd),
    "LCM that grows": advanced("SamplerLCMUpscale", scale_ratio=2.0, scale_steps=-1, upscale_method="bislerp"),
    "Euler CFG++": advanced("SamplerEulerCFGpp", version="regular"),
    "turbo, 1 step": turbo(1),
    "turbo, 4 steps": turbo(4),
    "lightning": sampled(cfg=1.0, scheduler="sgm_uniform"),
    "ModelSamplingContinuousEDM": patched(
        "comfy_extras.nodes_model_advanced",
        "ModelSamplingContinuousEDM",
        sampling="eps",
        sigma_max=14.0,
        sigma_min=0.03,
    ),
    "ConditioningCombine": combined,
    "regional prompts by area": areas,
    "regional prompts by mask": masks,
    "context windows": context_windows,
    "cfg 1.0": sampled(cfg=1.0),
    "batch 2": sampled(batch=2),
    "batch 5": sampled(batch=5),
}
# Where the model itself is patched, the order of the nodes could matter.
PATCHES = (
    "LoRA",
    "FreeU",
    "FreeU V2",
    "PerturbedAttention",
    "SAG",
    "HyperTile",
    "ToMe",
    "Deep Shrink",
    "RescaleCFG",
    "LCM",
    "PerpNeg (old node)",
)
