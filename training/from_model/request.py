"""What the artist asked the SAE Trainer for, checked before anything begins."""

from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sae_models import hookpoints as names
from ...sae_models import shipped
from ...unet.blocks import hookpoints
from .alternating import SMALL
from .collection import Pictures
from .folder import Captioned

NODE = "SAE Trainer"
# Blocks that hold objects: SAeUron's of SD1.5, sdxl-unbox's of SDXL, and the demo model's best; the first that fits.
USUAL = (("output_blocks.4.1", 1280), ("output_blocks.0.1", 1280), (shipped.DEFAULT, shipped.DEFAULT_WIDTH))
# Pictures and training steps for a small model on a processor, and for a large one on a GPU.
USUAL_WORK = ((400, 2000), (1000, 20_000))


@dataclass(frozen=True, eq=False)
class Request:
    """What the artist asked for, as the node's inputs have it.

    Attributes:
        prompts: one a line.
        hookpoints: separated by commas; "" for the usual one.
        concepts: separated by commas.
        limit: bytes for collected patches.
        keep: whether they stay.
        pictures, latent, seed, steps, cfg, sampler, scheduler, part: see Pictures; 0 pictures for the usual number.
        train_steps, rule, latents, k: see TrainingSettings and Size; 0 for the usual.
        folder: pictures to be noised instead of prompts to be sampled.
    """

    prompts: str
    hookpoints: str
    pictures: int
    latent: Tensor
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    train_steps: int
    latents: int
    k: int
    rule: str
    concepts: str
    limit: int
    keep: bool
    folder: tuple[Captioned, ...] = ()
    part: tuple[float, float] = (0.0, 1.0)

    def usual(self, width: int) -> tuple[int, int]:
        """Return how many images and training steps a block of some width gets."""
        pictures, steps = USUAL_WORK[width > SMALL]
        return self.pictures or pictures, self.train_steps or steps

    def to_sample(self, width: int) -> Pictures:
        """Return what to sample, or to look at, for a block of some width.

        Raises:
            ValueError: there is no prompt, or a guided concept that no prompt or every prompt has.
        """
        prompts = tuple(line.strip() for line in self.prompts.splitlines() if line.strip())
        if self.folder:
            prompts = tuple(picture.caption for picture in self.folder)
        if not prompts:
            raise ValueError(f"{NODE}: there is no prompt (input 'prompts'). Write at least one line.")
        concepts = tuple(dict.fromkeys(c.strip() for c in self.concepts.split(",") if c.strip()))
        pictures = Pictures(
            prompts,
            self.usual(width)[0],
            self.latent,
            self.seed,
            self.steps,
            self.cfg,
            self.sampler,
            self.scheduler,
            self.part,
            concepts,
            tuple(picture.path for picture in self.folder),
        )
        for column, concept in enumerate(concepts):
            if len({pictures.labels(prompt)[column] for prompt in prompts}) < 2:
                raise ValueError(
                    f"{NODE}: all prompts (or captions) or none have the word '{concept}' (input 'guided_concepts'). "
                    "Some must have it and some not, for a feature to learn the difference."
                )
        return pictures


def chosen(model: ModelPatcher, asked: str) -> dict[str, int]:
    """Return the hookpoints to train for, with their widths.

    Args:
        model: at the node's input 'model'.
        asked: names in either spelling, separated by commas; "" for the usual one.

    Raises:
        ValueError: the model has no such block.
    """
    available = hookpoints(model)
    if not available:
        kind = type(model.get_model_object("diffusion_model")).__name__
        raise ValueError(
            f"{NODE}: the model at input 'model' is a {kind}, which has no transformer blocks of a Stable Diffusion "
            "UNet. Connect an SD1.5, SD2.x, SDXL or Canvas checkpoint."
        )
    if not asked.strip(" ,"):
        fitting = [path for path, width in USUAL if available.get(path) == width]
        first = (fitting or list(available))[0]
        return {first: available[first]}
    found = {}
    for part in filter(None, map(str.strip, asked.split(","))):
        path = part if part in available else names.find(part)
        if path not in available:
            raise ValueError(
                f"{NODE}: the model at input 'model' has no block '{part}' (input 'hookpoints'). Its blocks: "
                f"{', '.join(available)}."
            )
        found[path] = available[path]
    return found
