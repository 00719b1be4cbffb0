"""Detect In Image: where a concept is in an image that exists already."""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..erasure.detection import DetectionTree
from ..erasure.in_image import detect_in_image
from ..reports.images import enlarged, outlined, tinted
from ..unet.calls import NonFiniteActivations
from ..unet.sampling import Conditioning
from .checking import checked
from .finding_sockets import seed_input
from .showing import image_and_words
from .sockets import ADVANCED, DETECTION, INSPECT

NAME = "Detect In Image"
NOT_ACTIVE = (
    "No detector looks at this much noise. Set 'end_percent' of the Concept Detector to 1, or choose another "
    "'timestep'."
)


class DetectInImage(io.ComfyNode):
    """Show where a concept is in an image, without generating anything."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureDetectInImage",
            display_name=NAME,
            category=INSPECT,
            description="Finds a concept in an image that you have: a photo, or a finished render. A little noise is "
            "added, the model looks at it, and nothing is generated. Use the mask for inpainting or compositing.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that the SAE was made for."),
                io.Vae.Input("vae", tooltip="Its VAE, to encode the image, or to decode a latent for the heat map."),
                DETECTION.Input("detection", tooltip="What to find, from a Concept Detector or a Mask Refiner."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt of the image, or a description of it, from CLIP Text Encode. An "
                    "empty prompt works too.",
                ),
                io.MultiType.Input(
                    "image", types=[io.Image, io.Latent], tooltip="The image or a batch of images, or their latents."
                ),
                io.Float.Input(
                    "min_share",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="In what share of the noise samples a patch must be detected to be in the mask: 0.5 is "
                    "half of them.",
                ),
                io.Int.Input(
                    "timestep",
                    default=100,
                    min=0,
                    max=999,
                    tooltip="How much noise is added: 0 is none, 999 leaves nothing of the image. Concepts are found "
                    "best with little noise.",
                ),
                seed_input("Seed of the noise."),
                io.Int.Input(
                    "noise_samples",
                    default=4,
                    min=1,
                    max=100,
                    tooltip="How often the model looks at the image, each time with other noise. More give a "
                    "smoother heat map.",
                    **ADVANCED,
                ),
            ],
            outputs=[
                io.Image.Output(display_name="heat_map", tooltip="The image, tinted where the concept was found."),
                io.Mask.Output(display_name="mask", tooltip="White where the concept was found, at image size."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        vae: Any,
        detection: DetectionTree,
        positive: Conditioning,
        image: torch.Tensor | dict[str, Any],
        min_share: float,
        timestep: int,
        noise_samples: int,
        seed: int,
    ) -> io.NodeOutput:
        if isinstance(image, dict):
            latents = image["samples"]
            shown = vae.decode(latents)
        else:
            shown = image[..., :3]
            latents = vae.encode(shown)
        try:
            heat, run = detect_in_image(model, detection, latents, positive, timestep, noise_samples, seed)
        except NonFiniteActivations as error:
            raise ValueError(f"{NAME}: {error} (input 'model').") from error
        found = heat >= min_share
        size = int(shown.shape[1]), int(shown.shape[2])
        text = f"{float(found.float().mean()):.1%} of all patches detected at timestep {timestep}.{run.found_each()}"
        warnings = [*([] if run.entries else [NOT_ACTIVE]), *run.warnings()]
        heated = outlined(tinted(shown.cpu(), heat), found)
        written, words = image_and_words(heated, text, cls, warnings)
        return io.NodeOutput(written, enlarged(found.float(), size), ui=words)
