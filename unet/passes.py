"""Understand one call of the UNet from what ComfyUI passes along; nothing about its layout is assumed."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import comfy.model_sampling
from torch import Tensor

from .calls import CONDITIONAL, UNCONDITIONAL, Forward

# Below this the largest timestep of a model cannot be one of the 1000 that concepts are known at.
FEWEST_TIMESTEPS = 100.0


class PassReader:
    """Reads the passes of one sampling run after the other; knows what only the run as a whole tells."""

    def __init__(self) -> None:
        self._negative: set[Hashable] = set()
        self._schedule: Any = None

    def begin(self, sampling: Any, conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Start a run.

        Args:
            sampling: the model_sampling of the model.
            conds: the prompts of the guider by their role, each with its uuid.
        """
        names = {role: {cond.get("uuid") for cond in prompts} for role, prompts in conds.items()}
        others = (found for role, found in names.items() if role != "negative")
        # A positive prompt with an area lends its uuid to a copy of the negative one.
        self._negative = names.get("negative", set()).difference(*others)
        # EDM models count noise in their own unit; the same noise has a timestep on Stable Diffusion's schedule.
        foreign = float(sampling.timestep(sampling.sigma_max)) < FEWEST_TIMESTEPS
        self._schedule = comfy.model_sampling.ModelSamplingDiscrete() if foreign else None

    def read(self, x: Tensor, timesteps: Tensor, options: dict[str, Any]) -> Forward:
        """Describe a call.

        Args:
            x: the latents that go in, [chunks * B, C, H, W].
            timesteps: [chunks * B].
            options: ComfyUI's transformer_options.
        """
        places = tuple(options.get("cond_or_uncond") or (CONDITIONAL,))
        names: tuple[Hashable, ...] = tuple(options.get("uuids") or ())
        if len(names) != len(places):
            names = tuple(range(len(places)))
        # A guidance node may ask again for the negative prompt alone, which then stands in the first place.
        halves = tuple(
            UNCONDITIONAL if name in self._negative else place for name, place in zip(names, places, strict=True)
        )
        window = options.get("context_window")
        # Each window holds other images, so what was seen in one says nothing about the next.
        images = None if window is None else tuple(window.index_list)
        streams = tuple((name, half, images) for name, half in zip(names, halves, strict=True))
        sigmas = options.get("sigmas")
        timestep = float(timesteps.flatten()[0])
        sigma = timestep if sigmas is None else float(sigmas.flatten()[0])
        if self._schedule is not None and sigmas is not None:
            timestep = float(self._schedule.timestep(sigmas.flatten()[:1].float().cpu()))
        return Forward(halves, streams, sigma, timestep, (int(x.shape[-2]), int(x.shape[-1])))
