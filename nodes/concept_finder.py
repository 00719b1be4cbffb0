"""Concept Finder: a word, or some prompts, become a concept."""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..finding import prompts
from ..finding.fitting import WAYS
from ..finding.search import Search, find_by_prompts
from ..reports.finder_report import finder_report
from ..sae_models.loaded import LoadedSAE
from ..unet.blocks import check_fit
from ..unet.calls import NonFiniteActivations
from ..unet.sampling import Sampling
from .checking import checked
from .finding_sockets import found_outputs, seed_input, size_input
from .showing import image_and_words
from .sockets import ADVANCED, FIND, SAE, sampler_inputs

NAME = "Concept Finder"
STYLE = (
    "Warning: a style is in every patch, so there is none to replace it by, and the Patch Replacer cannot erase it. "
    "Leave its word out of the prompt. Feature Steering can turn it down, but few SAE files "
    "hold the mean activations that it needs; the shipped ones do."
)


class ConceptFinder(io.ComfyNode):
    """Find the features of a concept by generating it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureConceptFinder",
            display_name=NAME,
            category=FIND,
            description="Finds which features of an SAE stand for a concept. The model generates images with and "
            "without it, and the features that tell them apart are kept. Type a word and press Run; the image shows "
            "how well it worked.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the SAE was made for."),
                io.Clip.Input("clip", tooltip="Its text encoder, for the prompts."),
                io.Vae.Input("vae", tooltip="Its VAE, for the images in the report."),
                SAE.Input("sae", tooltip="The SAE whose features are searched."),
                size_input(),
                io.String.Input("word", default="cat", tooltip="The word for the concept, such as 'cat'."),
                io.String.Input(
                    "target_prompts",
                    default="",
                    multiline=True,
                    tooltip="Prompts with the concept, one a line. Empty: made from the word.",
                ),
                io.Int.Input(
                    "images",
                    default=32,
                    min=4,
                    max=1024,
                    tooltip="How many images with the concept to generate; twice as many without it are added. More "
                    "find better features, and take longer.",
                ),
                *sampler_inputs(),
                seed_input("Seed of the images. The same seed finds the same features."),
                io.Combo.Input(
                    "kind",
                    options=list(prompts.KINDS),
                    tooltip="Whether the word names an object or a style. Prompts that you leave empty are made to "
                    "fit.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "contrast_prompts",
                    default="",
                    multiline=True,
                    tooltip="Prompts without the concept, one a line: the same styles, other objects. Empty: made "
                    "from a list of common objects and styles.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "timestep_bands",
                    default=5,
                    min=1,
                    max=50,
                    tooltip="Into how many parts the steps are divided. Each part gets its own features: one that "
                    "means 'cat' late may mean nothing in the noise of the first steps.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "select",
                    options=list(WAYS),
                    tooltip="How many features are kept. held-out detection: as many as detect the concept best in "
                    "images that were not searched; percentile (paper): those that score above 'percentile'.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "percentile",
                    default=99.99,
                    min=0.0,
                    max=100.0,
                    step=0.001,
                    tooltip="Only for percentile (paper): 99.99 keeps 2 of 20480 features, and always at least one.",
                    **ADVANCED,
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
        clip: Any,
        vae: Any,
        sae: LoadedSAE,
        latent_image: dict[str, torch.Tensor],
        word: str,
        kind: str,
        target_prompts: str,
        contrast_prompts: str,
        images: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        timestep_bands: int,
        select: str,
        percentile: float,
    ) -> io.NodeOutput:
        check_fit(model, sae, NAME)
        targets, contrasts = prompts.lines(target_prompts), prompts.lines(contrast_prompts)
        name = word.strip() or (targets[0] if targets else "")
        if not name:
            raise ValueError(f"{NAME}: type a word at input 'word', or prompts at input 'target_prompts'.")
        made = prompts.default_prompts(name, kind)
        search = Search(name, targets or made[0], contrasts or made[1], images, timestep_bands, select, percentile)
        both = set(search.targets) & set(search.contrasts)
        if both:
            raise ValueError(
                f"{NAME}: '{min(both)}' is in both 'target_prompts' and 'contrast_prompts'. The concept must be "
                "missing from the latter."
            )
        sampling = Sampling(steps, cfg, sampler_name, scheduler, seed)
        try:
            finding, examples = find_by_prompts(model, clip, vae, sae, search, latent_image["samples"], sampling)
        except NonFiniteActivations as error:
            raise ValueError(f"{NAME}: {error} (input 'model').") from error
        report = finder_report(finding, examples, sae.config.num_latents)
        warnings = [*([finding.warning] if finding.warning else []), *([STYLE] if kind == prompts.STYLE else [])]
        report, shown = image_and_words(report, finding.figures(), cls, warnings)
        return io.NodeOutput(finding.concept, report, "\n".join([*warnings, finding.figures()]), ui=shown)
