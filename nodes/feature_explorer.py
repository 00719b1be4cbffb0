"""Feature Explorer: images of what single features mean."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..finding import prompts as prompt_lists
from ..finding.examples import generated_examples, noised_examples, strongest_in
from ..reports.explorer import feature_sheets
from ..sae_models.concepts import Concept
from ..sae_models.loaded import LoadedSAE
from ..sae_models.scoring import strongest_features
from ..unet.blocks import check_fit
from ..unet.calls import NonFiniteActivations
from ..unet.sampling import Sampling, generate
from . import folders
from .checking import checked
from .concept_detector import parse_features
from .finding_sockets import seed_input, size_input
from .showing import image_and_words
from .sockets import ADVANCED, CONCEPT, INSPECT, SAE, sampler_inputs

NAME = "Feature Explorer"
DEFAULT_PROMPTS = "\n".join(prompt_lists.object_prompts())


class FeatureExplorer(io.ComfyNode):
    """Show when and where features fire, and what activates them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureFeatureExplorer",
            display_name=NAME,
            category=INSPECT,
            description="Makes one image for each feature, so that you can say what it means: at which steps it is "
            "active, in which images most, and where in them. Give your names to Save Concept.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the SAE was made for."),
                io.Clip.Input("clip", tooltip="Its text encoder, for the prompts."),
                io.Vae.Input("vae", tooltip="Its VAE, for the images."),
                SAE.Input("sae", tooltip="The SAE whose features are shown."),
                size_input(),
                io.String.Input(
                    "features",
                    default="",
                    tooltip="Which features to show, such as '17, 204'. Empty: the most active ones of 'concept', "
                    "else of 'image', else of the generated images.",
                ),
                io.Int.Input(
                    "count", default=6, min=1, max=64, tooltip="How many features to show if none are typed in."
                ),
                io.String.Input(
                    "prompts",
                    default=DEFAULT_PROMPTS,
                    multiline=True,
                    tooltip="Prompts to try the features on, one a line; each is generated once. With an "
                    "'image_folder' you may leave it empty.",
                ),
                *sampler_inputs(),
                seed_input("Seed of the images and of the noise."),
                folders.folder_input(
                    "A folder of images in ComfyUI's input folder, to try the features on. A text file with the name "
                    "of an image is its caption.",
                ),
                io.Int.Input(
                    "folder_images",
                    default=64,
                    min=1,
                    max=100_000,
                    tooltip="The most images of the folder to use, evenly spread over their names.",
                    **ADVANCED,
                ),
                CONCEPT.Input(
                    "concept",
                    optional=True,
                    tooltip="Optional: a concept whose features to show, with the names that they have in it.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Optional: an image of your own, shown beside the others. Of a batch, only the first is "
                    "used.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="One image for each feature."),
                io.String.Output(display_name="summary", tooltip="One line for each feature."),
            ],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        clip: Any,
        vae: Any,
        sae: LoadedSAE,
        latent_image: dict[str, torch.Tensor],
        features: str,
        count: int,
        prompts: str,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        image_folder: str = folders.NO_FOLDER,
        folder_images: int = 64,
        concept: Concept | None = None,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        check_fit(model, sae, NAME)
        listed = prompt_lists.lines(prompts)
        chosen = [] if image_folder == folders.NO_FOLDER else folders.pictures_of(image_folder, NAME, folder_images)
        if not listed and not chosen:
            raise ValueError(
                f"{NAME}: input 'prompts' is empty. Write at least one prompt, one a line, or choose an 'image_folder'."
            )
        wanted = parse_features(features, sae, NAME)
        if concept is not None:
            try:
                wanted = wanted or [feature for feature, _ in strongest_features(sae.require_own(concept), count)]
            except ValueError as error:
                raise ValueError(f"{NAME}: input 'concept': {error}.") from error
        try:
            given = None
            if image is not None:
                (given,) = noised_examples(model, clip, vae, sae, [("your image", image[0], "")], 1, seed)
            empty = latent_image["samples"]
            examples = []
            if listed:
                seen = generate(model, clip, sae, listed, empty, Sampling(steps, cfg, sampler_name, scheduler, seed))
                examples = generated_examples(seen, vae.decode(seen.latents), listed)
            examples += noised_examples(model, clip, vae, sae, _read(chosen, empty, vae), len(empty), seed)
        except NonFiniteActivations as error:
            raise ValueError(f"{NAME}: {error} (input 'model').") from error
        size = sae.config.num_latents
        shown = wanted or strongest_in(examples, size, min(count, size), given)
        names = dict(concept.feature_names) if concept is not None else {}
        images, said = feature_sheets(examples, shown, names, size, given)
        text = "\n".join(said)
        images, shown_words = image_and_words(images, text, cls, each=said)
        return io.NodeOutput(images, text, ui=shown_words)

    @classmethod
    def validate_inputs(cls, image_folder: str | None = None) -> bool | str:
        """Say what to do about a folder that is gone, in place of ComfyUI's list of all that are there."""
        return folders.is_there(image_folder, NAME)

    @classmethod
    def fingerprint_inputs(cls, image_folder: str = folders.NO_FOLDER, **_: Any) -> object:
        """Look again when the folder has changed."""
        return folders.folder_fingerprint(image_folder)


def _read(paths: Sequence[Path], empty: torch.Tensor, vae: Any) -> Iterator[tuple[str, torch.Tensor, str]]:
    """Yield images of a folder in the size that a latent stands for: name, image, and what it shows."""
    height, width = (side * vae.spacial_compression_encode() for side in empty.shape[-2:])
    for path in paths:
        yield path.name, folders.read_picture(path, width, height, NAME), folders.caption_of(path, NAME)
