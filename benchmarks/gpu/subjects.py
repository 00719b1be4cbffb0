"""The models that are measured, and the ways to sample with them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch import Tensor

from ...erasure.attach import attach
from ...erasure.detection import Detector
from ...erasure.history import ErasureRecord
from ...erasure.replacement import Replacement
from ...sae_models.concepts import Concept
from ...sae_models.loaded import LoadedSAE
from ...sae_models.sae import SAEConfig
from ...unet.blocks import hookpoints
from ...unet.capture import Capture
from ...unet.hooks import attach_observer
from ..full_size.models import Seen, conditioning, denoise, loaded, plant_concept, random_model, random_sae
from ..published import FullReconstruction

BARE, NONE, SIMILAR, PUBLISHED = WAYS = ("bare", "none", "similar", "published")
SHARE = 0.15


@dataclass(frozen=True)
class Setting:
    """A model, an SAE for it, and what is sampled.

    Attributes:
        kind: ``sd15`` or ``sdxl``.
        pixels: side of the image.
        steps: of a run.
        hookpoint, reads, features, k: of the SAE, see SAEConfig.
        changed: settings of the UNet that are not those of the kind.
    """

    kind: str
    pixels: int
    steps: int
    hookpoint: str
    reads: str
    features: int
    k: int
    changed: Mapping[str, Any] = field(default_factory=dict)


FULL = (
    Setting("sd15", 512, 20, "output_blocks.4.1", "output", 20480, 32),
    Setting("sdxl", 1024, 10, "middle_block.1", "output_minus_input", 5120, 10),
)
_SMALL_SD15 = {
    "model_channels": 32,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
}
_SMALL_SDXL = {
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 2],
    "transformer_depth_output": [0, 0, 2, 2],
    "transformer_depth_middle": 2,
}
TINY = (
    Setting("sd15", 128, 2, "output_blocks.1.1", "output", 256, 8, _SMALL_SD15),
    Setting("sdxl", 128, 2, "middle_block.1", "output_minus_input", 256, 8, _SMALL_SDXL),
)


class Subject:
    """A model with an SAE and a concept. All is made when it is first asked for.

    Args:
        setting: which.
        device: where it runs.
        dtype: of the UNet.
    """

    def __init__(self, setting: Setting, device: torch.device, dtype: torch.dtype) -> None:
        self.setting, self.device, self.dtype = setting, device, dtype
        side = setting.pixels // 8
        self._noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1))
        self._prompts = conditioning(setting.kind, 1), conditioning(setting.kind, 2)
        self.record: ErasureRecord | None = None

    @cached_property
    def model(self) -> ModelPatcher:
        """The model alone."""
        return random_model(self.setting.kind, self.dtype, None, self.device, **self.setting.changed)

    @cached_property
    def _saes(self) -> tuple[LoadedSAE, LoadedSAE]:
        """The SAE without its decoder, which is all that the pack needs, and with it."""
        made = self.setting
        width = hookpoints(self.model)[made.hookpoint]
        config = SAEConfig(width, made.features, made.k, made.hookpoint, made.reads)
        return loaded(random_sae(config), self.device), loaded(random_sae(config, True), self.device)

    @cached_property
    def _concept(self) -> Concept:
        capture = Capture([self.setting.hookpoint], self.setting.reads)
        self.sample(attach_observer(self.model, capture))
        seen = [Seen(each.timestep, each.embeddings[0].to(self.device).float()) for each in capture.take()]
        return plant_concept([sae.module for sae in self._saes], seen, SHARE)

    def ways(self, model: ModelPatcher) -> dict[str, ModelPatcher]:
        """Return the model without and with what is measured, by name of ``WAYS``."""
        concept, (sae, whole) = self._concept, self._saes
        detector = Detector(sae, concept)
        similar, self.record = attach(model, detector, Replacement())
        published = FullReconstruction(whole.module, concept.features())
        return {
            BARE: model,
            NONE: attach(model, detector, Replacement("none"))[0],
            SIMILAR: similar,
            PUBLISHED: attach_observer(model, published, [whole.patcher]),
        }

    def compiled(self, backend: str) -> ModelPatcher:
        """Return the model as the node TorchCompileModel makes it."""
        model = self.model.clone()
        set_torch_compile_wrapper(model=model, backend=backend)
        return model

    def sample(self, model: ModelPatcher, steps: int = 0) -> Tensor:
        """Sample an image; 0 takes the usual number of steps."""
        return denoise(model, self._noise, *self._prompts, steps or self.setting.steps)

    def sampling(self, model: ModelPatcher, steps: int = 0) -> Callable[[], object]:
        """Return what samples an image."""
        return lambda: self.sample(model, steps)

    def detected_share(self) -> float | None:
        """Return the share of patches that the last run of ``similar`` detected, None before the first."""
        run = None if self.record is None else self.record.latest
        return None if run is None or not run.entries else float(run.heat().mean())
