"""The shipped model, its judges and SAEs, each loaded when it is first asked for."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
from torch import Tensor

from ...demo_model import checkpoint
from ...demo_model.vocabulary import OBJECTS
from ...dev.demo_model import judges
from ...dev.demo_model.sampling import CFG, SAMPLER, SCHEDULER, STEPS, generate, sample
from ...dev.demo_model.train_sae import file_of
from ...erasure.attach import attach
from ...erasure.detection import DetectionTree, Detector, Join, Refine
from ...erasure.history import ErasureRecord
from ...erasure.keep import Rest
from ...sae_models.loaded import LoadedSAE
from ...steering.attach import steer
from ...steering.steerer import SteeredConcept
from ...unet.loading import load_sae
from .settings import SWAP, Setting, best_features, span_of

PathOf = Callable[[str], Path]


@dataclass(frozen=True)
class Condition:
    """How images are sampled, and what else is on the model.

    Attributes:
        steps, sampler, scheduler, cfg: as in KSampler.
        lora: a LoRA file in ComfyUI's format, at strength 1; "" for none.
    """

    steps: int = STEPS
    sampler: str = SAMPLER
    scheduler: str = SCHEDULER
    cfg: float = CFG
    lora: str = ""

    def stamp(self) -> list[Any]:
        """Return what results depend on; nothing for the usual condition."""
        if self == Condition():
            return []
        return [asdict(replace(self, lora="")), zlib.crc32(Path(self.lora).read_bytes()) if self.lora else 0]


class World:
    """The shipped model under a condition.

    Args:
        condition: how images are sampled.
        path_of: returns the SAE file of a site; sites are hookpoints of shipped SAEs if left out.
    """

    def __init__(self, condition: Condition = Condition(), path_of: PathOf = file_of) -> None:
        self.condition, self.path_of = condition, path_of
        self._saes: dict[str, LoadedSAE] = {}

    @cached_property
    def unedited(self) -> tuple[Any, Any, Any]:
        """The shipped model, its text encoder and its VAE."""
        return checkpoint.load()

    @cached_property
    def model(self) -> Any:
        """The model, with the condition's LoRA on it."""
        if not self.condition.lora:
            return self.unedited[0]
        lora = comfy.utils.load_torch_file(self.condition.lora, safe_load=True)
        return comfy.sd.load_lora_for_models(self.unedited[0], None, lora, 1.0, 0.0)[0]

    @property
    def clip(self) -> Any:
        """The text encoder."""
        return self.unedited[1]

    @property
    def vae(self) -> Any:
        """The VAE."""
        return self.unedited[2]

    @cached_property
    def judge(self) -> judges.Judges:
        """Tells objects, where they are, and styles."""
        return judges.load()

    def sae(self, site: str) -> LoadedSAE:
        """Return the SAE of a site."""
        if site not in self._saes:
            path = self.path_of(site)
            self._saes[site] = load_sae(str(path), path.name)
        return self._saes[site]

    def edited(self, setting: Setting, target: str, fill: Tensor | None = None) -> tuple[Any, ErasureRecord]:
        """Return the model with one target erased, and the record.

        Args:
            setting: how.
            target: what.
            fill: text embedding of what comes instead where the rest is kept, [1 or B, T, C]; None for patches.
        """
        if setting.steering is None:
            tree = self.tree(setting, target)
            rest = Rest(setting.attempts, fill, setting.fill != SWAP) if setting.attempts else None
            return attach(self.model, tree, setting.replacement, setting.blocks(tree), rest)
        return steer(self.model, self.steered(setting, target), setting.steering)

    def steered(self, setting: Setting, target: str) -> SteeredConcept:
        """Return what a setting steers."""
        sae = self.sae(setting.sites[0])
        return SteeredConcept(sae, best_features(sae.concept(target), setting.latents), setting.start, setting.end)

    def tree(self, setting: Setting, target: str) -> DetectionTree:
        """Join one detector for each site of a setting."""
        joined: DetectionTree | None = None
        for spelled in setting.sites:
            site, _, span = spelled.partition("@")
            start, end = span_of(span) if span else (setting.start, setting.end)
            sae = self.sae(site)
            detector = Detector(sae, sae.concept(target), setting.sensitivity, start, end)
            joined = detector if joined is None else Join("union", joined, detector)
        assert joined is not None
        return joined if setting.refinement.is_neutral else Refine(joined, setting.refinement)

    def images(self, model: Any, texts: Sequence[str], seeds: Sequence[int], batch: int, negative: str = "") -> Tensor:
        """Generate an image for each text."""
        how = {name: getattr(self.condition, name) for name in ("steps", "cfg", "sampler", "scheduler")}
        return generate(model, self.clip, self.vae, texts, seeds, batch=batch, negative=negative, **how)

    def latents(self, model: Any, texts: Sequence[str], seeds: Sequence[int], negative: str = "") -> Tensor:
        """Sample latents of texts at once, [N, C, h, w]."""
        how = {name: getattr(self.condition, name) for name in ("steps", "cfg", "sampler", "scheduler")}
        return sample(model, self.clip, texts, seeds, negative=negative, **how)

    def shows(self, images: Tensor, target: str) -> list[bool]:
        """Tell which images show an object."""
        objects, _ = self.judge.classify(images)
        return (objects[:, OBJECTS.index(target)] > self.judge.threshold).tolist()
