"""Concept From Mask: a painted mask becomes a concept."""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..finding import prompts
from ..finding.search import Generation, MaskedImages, MaskSearch, find_in_mask
from ..reports.finder_report import finder_report
from ..sae_models.loaded import LoadedSAE
from ..unet.blocks import check_fit
from ..unet.calls import NonFiniteActivations
from ..unet.sampling import Conditioning, Sampling
from .checking import checked
from .finding_sockets import found_outputs, seed_input
from .showing import image_and_words
from .sockets import ADVANCED, FIND, SAE, sampler_inputs

NAME = "Concept From Mask"


class ConceptFromMask(io.ComfyNode):
    """Find the features of what somebody painted over."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureConceptFromMask",
            display_name=NAME,
            category=FIND,
            description="Finds the features that are active where you painted over an image, and not elsewhere. "
            "Paint in ComfyUI's mask editor, and connect clip, so that the model generates other images for contrast.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the SAE was made for."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt of the image, or a description of it, from CLIP Text Encode."
                ),
                io.Vae.Input("vae", tooltip="The model's VAE, to encode the image."),
                SAE.Input("sae", tooltip="The SAE whose features are searched."),
                io.MultiType.Input(
                    "image",
                    types=[io.Image, io.Latent],
                    tooltip="The image, or a batch of images of the same concept. Or their latents from a KSampler: "
                    "then nothing is lost by decoding and encoding.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="White where the concept is: one mask, or one for each image. Load Image gives it after "
                    "painting in the mask editor.",
                ),
                io.String.Input(
                    "name",
                    default="my concept",
                    tooltip="What to call the concept. If there is a plain word for it, use that: things of that name "
                    "are left out of the contrast images.",
                ),
                seed_input("Seed of the noise. The same seed finds the same features."),
                io.Int.Input(
                    "contrast_images",
                    default=32,
                    min=2,
                    max=1024,
                    tooltip="How many images without the concept to generate for contrast, if 'clip' is connected.",
                ),
                *sampler_inputs(),
                io.Int.Input(
                    "extra_images",
                    default=32,
                    min=0,
                    max=1024,
                    tooltip="How many more images like yours to generate, if 'clip' is connected, so that the "
                    "concept is learned in other shapes and places. 0: only your image is used.",
                ),
                io.String.Input(
                    "image_description",
                    default="",
                    multiline=True,
                    tooltip="Optional: what the image shows, without its style, such as 'a cat and a dog', with the "
                    "word at 'name' in it. More images are generated from it in several styles.",
                ),
                io.Int.Input(
                    "timestep_bands",
                    default=5,
                    min=1,
                    max=50,
                    tooltip="At how many noise levels the model looks at the image. Each level gets its own features.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "noise_samples",
                    default=6,
                    min=2,
                    max=100,
                    tooltip="How often the model looks at the image at each noise level, each time with new noise. "
                    "Every second time is held out, to measure how well it works.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "contrast_prompts",
                    default="",
                    multiline=True,
                    tooltip="Prompts for the contrast images, one a line, without the concept. Empty: common objects "
                    "in several styles.",
                    **ADVANCED,
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Optional: the model's text encoder, to generate other images for contrast. Without it, "
                    "only the rest of your image is contrast.",
                ),
            ],
            outputs=found_outputs(),
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        positive: Conditioning,
        vae: Any,
        sae: LoadedSAE,
        image: torch.Tensor | dict[str, Any],
        mask: torch.Tensor,
        name: str,
        timestep_bands: int,
        noise_samples: int,
        seed: int,
        contrast_images: int,
        contrast_prompts: str,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        extra_images: int,
        image_description: str = "",
        clip: Any = None,
    ) -> io.NodeOutput:
        check_fit(model, sae, NAME)
        if not name.strip():
            raise ValueError(f"{NAME}: input 'name' is empty. Type what you painted over, such as 'cat'.")
        given = image["samples"] if isinstance(image, dict) else image
        mask = mask[None] if mask.ndim == 2 else mask
        if mask.ndim != 3 or len(mask) not in (1, len(given)):
            raise ValueError(
                f"{NAME}: input 'mask' has shape {tuple(mask.shape)} for {len(given)} image(s). Connect one mask, "
                "or as many as there are images at input 'image'."
            )
        if isinstance(image, dict):
            picture, latents = vae.decode(given), given
        else:
            picture, latents = image, vae.encode(image[..., :3])
        masked = MaskedImages(name.strip(), picture, latents, mask, positive)
        generation = None
        if clip is not None:
            sampling = Sampling(steps, cfg, sampler_name, scheduler, seed)
            without, similar = prompts.around(masked.name, image_description, contrast_prompts)
            generation = Generation(clip, without, contrast_images, extra_images, sampling, similar)
        search = MaskSearch(masked, timestep_bands, noise_samples, seed, generation)
        try:
            finding, examples = find_in_mask(model, vae, sae, search)
        except NonFiniteActivations as error:
            raise ValueError(f"{NAME}: {error} (input 'model').") from error
        except ValueError as error:
            raise ValueError(f"{NAME}: {error} (input 'mask').") from error
        report = finder_report(finding, examples, sae.config.num_latents)
        warnings = [finding.warning] if finding.warning else []
        report, shown = image_and_words(report, finding.figures(), cls, warnings)
        return io.NodeOutput(finding.concept, report, finding.summary(), ui=shown)
