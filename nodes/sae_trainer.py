"""SAE Trainer: a model, and prompts or images, become an SAE."""

from pathlib import Path
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..finding.prompts import varied_prompts
from ..training.from_model.folder import Captioned
from ..training.from_model.request import Request
from ..training.from_model.run import UNFINISHED, train_for_model
from ..training.settings import RULES
from . import files, folders
from .checking import FileChoice, checked
from .showing import image_and_words
from .sockets import ADVANCED, SAE, TRAIN, part_inputs, sampler_inputs

NAME = "SAE Trainer"
NO_FILE = "none"
AUTOMATIC = "automatic"
PROMPTS = "\n".join(varied_prompts())


class SAETrainer(io.ComfyNode):
    """Train a sparse autoencoder for a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureSAETrainer",
            display_name=NAME,
            category=TRAIN,
            description="Trains a sparse autoencoder (SAE) for your checkpoint, from prompts or from a folder of "
            "images, and saves it in models/sae. You can cancel at any time: run again with the same settings to "
            "resume.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to train for, with the LoRAs that you will use it with."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Latent.Input(
                    "latent",
                    tooltip="An Empty Latent Image: the size of the images, and how many are sampled at once (more "
                    "is faster, if memory allows it). Images of 'image_folder' are cropped and scaled to this size.",
                ),
                io.String.Input(
                    "name",
                    default="my_sae",
                    tooltip="The name of the file in models/sae, without a folder. With several hookpoints the "
                    "block's name is added.",
                ),
                io.String.Input(
                    "prompts",
                    default=PROMPTS,
                    multiline=True,
                    tooltip="Prompts to sample, one a line, used in turn. They should show the things that you want "
                    "to find or erase, alone and together with others.",
                ),
                io.Int.Input(
                    "images",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="How many images to sample; those of 'image_folder' are repeated, each time with other "
                    "noise. 0: 400 for a small model such as the Canvas Checkpoint, 1000 for a large one. Raise it if "
                    "the explained variance stays low.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of the first image's noise, and of the training. The same seed gives the same SAE.",
                ),
                io.Int.Input(
                    "train_steps",
                    default=0,
                    min=0,
                    max=10_000_000,
                    tooltip="How many training steps, of 2048 patches each (4096 on a GPU). 0: 2000 for a small "
                    "model, 20000 for a large one.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="On: a file of the same name is replaced. Off: it is kept, and the node stops with a "
                    "message before it begins.",
                ),
                folders.folder_input(
                    "A folder of images in ComfyUI's input folder, used instead of prompts; noise is added to them. "
                    "A text file with the name of an image is its caption.",
                ),
                FileChoice(
                    "prompts_file",
                    options=[NO_FILE, *files.prompt_files()],
                    default=NO_FILE,
                    tooltip="A text file in ComfyUI's input folder with one prompt a line, used instead of 'prompts'.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "hookpoints",
                    default=AUTOMATIC,
                    tooltip="The blocks of the model to train for, separated by commas, in ComfyUI's or diffusers' "
                    "spelling; each gets its own SAE. automatic: a block that is known to hold objects.",
                    **ADVANCED,
                ),
                *sampler_inputs(
                    {
                        "steps": "Sampling steps, as in the KSampler. With 'image_folder': at how many noise levels "
                        "each image is used.",
                        "cfg": "Classifier-free guidance, as in the KSampler. Only the positive prompt is used for "
                        "training.",
                        "sampler_name": "As in the KSampler. Best choose the one that you will erase with.",
                        "scheduler": "As in the KSampler.",
                    },
                    **ADVANCED,
                ),
                io.Int.Input(
                    "features",
                    default=0,
                    min=0,
                    max=1_048_576,
                    tooltip="How many features the SAE gets. 0: 12 times the channels of a small block, 16 times "
                    "those of a large one.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "k",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="How many features may be active in one patch. 0: 16 for a small block, 32 for a large "
                    "one.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "activation",
                    options=list(RULES),
                    default=RULES[0],
                    tooltip="topk: k features are active in each patch. batchtopk: k on average, more in "
                    "patches that show more.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "guided_concepts",
                    default="",
                    tooltip="Words separated by commas, such as 'cat, dog'. Each gets one feature, which learns to "
                    "be active in images whose prompt has the word; empty: none.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "store_gb",
                    default=4.0,
                    min=0.01,
                    max=100_000.0,
                    step=0.1,
                    tooltip="The most disk space in GB for collected patches, in ComfyUI's output folder. If all "
                    "would not fit, fewer patches of each image are kept.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "keep_patches",
                    default=False,
                    tooltip="On: the collected patches stay on disk after training, to train again from the command "
                    "line.",
                    **ADVANCED,
                ),
                *part_inputs(
                    "When to begin collecting patches: 0 is the first, noisiest step.",
                    "When to stop collecting: 1 is the end of sampling. An SAE knows only the steps that it "
                    "was trained on.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="The model's VAE, needed only with 'image_folder'."),
            ],
            outputs=[
                SAE.Output(display_name="sae", tooltip="The SAE of the first hookpoint, for the Concept Detector."),
                io.Image.Output(
                    display_name="curves", tooltip="Loss, explained variance and dead features during training."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        clip: Any,
        latent: dict[str, Any],
        name: str,
        prompts: str,
        prompts_file: str,
        hookpoints: str,
        images: int,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        train_steps: int,
        features: int,
        k: int,
        activation: str,
        guided_concepts: str,
        store_gb: float,
        keep_patches: bool,
        overwrite: bool,
        image_folder: str = folders.NO_FOLDER,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        vae: Any = None,
    ) -> io.NodeOutput:
        _check_source(prompts_file, image_folder, vae)
        if not name.strip():
            raise ValueError(f"{NAME}: input 'name' is empty. Type what to call the file, such as 'my_sae'.")
        folder = () if image_folder == folders.NO_FOLDER else folders.captioned(image_folder, NAME)
        request = Request(
            prompts=prompts if prompts_file == NO_FILE else files.read_prompts(prompts_file),
            hookpoints="" if hookpoints.strip() == AUTOMATIC else hookpoints,
            pictures=images,
            latent=latent["samples"],
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler=sampler_name,
            scheduler=scheduler,
            train_steps=train_steps,
            latents=features,
            k=k,
            rule=activation,
            concepts=guided_concepts,
            limit=int(store_gb * 1e9),
            keep=keep_patches,
            folder=tuple(Captioned(path, caption) for path, caption in folder),
            part=(start_percent, end_percent),
        )

        def target(part: str) -> Path:
            return files.new_file(files.without_extension(name) + part, overwrite, NAME, ending=UNFINISHED)

        result = train_for_model(model, clip, request, target, files.training_folder, vae)
        curves, shown = image_and_words(result.curves, result.summary, cls)
        return io.NodeOutput(result.sae, curves, ui=shown)

    @classmethod
    def validate_inputs(cls, prompts_file: str | None = None, image_folder: str | None = None) -> bool | str:
        """Say what to do about a file or folder that is gone, in place of ComfyUI's list of all that are there."""
        if prompts_file not in (None, NO_FILE, *files.prompt_files()):
            return files.no_prompts(str(prompts_file))
        return folders.is_there(image_folder, NAME)

    @classmethod
    def fingerprint_inputs(cls, prompts_file: str = NO_FILE, image_folder: str = folders.NO_FOLDER, **_: Any) -> object:
        """Train again when the text file, or an image of the folder, has changed."""
        prompts = files.read_prompts(prompts_file) if prompts_file in files.prompt_files() else ""
        folder = folders.folder_fingerprint(image_folder)
        return prompts, folder


def _check_source(prompts_file: str, image_folder: str, vae: Any) -> None:
    """Check that there is one source of pictures, and what it needs.

    Raises:
        ValueError: there are two, or the VAE is missing.
    """
    if image_folder == folders.NO_FOLDER:
        return
    if prompts_file != NO_FILE:
        raise ValueError(
            f"{NAME}: both 'prompts_file' and 'image_folder' are chosen. Set one of them to '{NO_FILE}': prompts are "
            "sampled, images are noised."
        )
    if vae is None:
        raise ValueError(
            f"{NAME}: images of a folder must be encoded (input 'image_folder'), which needs the model's VAE. "
            "Connect it to input 'vae'."
        )
