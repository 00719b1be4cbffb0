"""Patch Replacer: attach a detection to a model, and replace what it finds."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..erasure.attach import attach
from ..erasure.detection import Detection
from ..erasure.replacement import HALVES, LISTED, MODES, WHERE, Replacement
from ..sae_models import hookpoints
from .sockets import CATEGORY, DETECTION, ERASURE_RECORD

DEFAULTS = Replacement()


class PatchReplacer(io.ComfyNode):
    """Replace detected patches while the model samples."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasurePatchReplacer",
            display_name="Patch Replacer",
            category=CATEGORY,
            description="Erases what is detected: at every step, each detected patch of the model's inner picture "
            "is replaced by one from elsewhere in the same picture. Everything else keeps its exact values. Put "
            "it between the checkpoint (after LoRAs) and the sampler; several can follow each other.",
            inputs=[
                io.Model.Input("model", tooltip="The model to erase the concept from."),
                DETECTION.Input("detection", tooltip="What to erase, from a Concept Detector or a Mask Refiner."),
                io.Combo.Input(
                    "replacement",
                    options=list(MODES),
                    default=DEFAULTS.mode,
                    tooltip="What comes in place of a detected patch. alike: the undetected patch of the same picture "
                    "that is most like it but for the concept. random: any undetected one, as published. nearest: the "
                    "closest undetected one. mean of k nearest: the average of the k closest. unconditional: the same "
                    "place as the model draws it without your prompt. none: replace nothing, only record what is "
                    "detected.",
                ),
                io.Combo.Input(
                    "halves",
                    options=list(HALVES),
                    default="conditional",
                    tooltip="Which half of classifier-free guidance is edited: only the one that follows your "
                    "positive prompt, or both.",
                ),
                io.Int.Input(
                    "k",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="How many neighbours 'mean of k nearest' averages. Unused otherwise.",
                ),
                io.Int.Input(
                    "donor_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Seed of the draw of 'random'; the same seed gives the same picture. Unused otherwise.",
                ),
                io.Float.Input(
                    "donor_share",
                    default=DEFAULTS.donor_share,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Which undetected patches may be taken: 1 is all of them, 0.5 the half that is least like "
                    "the concept, so that a part of it that was missed is not copied.",
                ),
                io.Combo.Input(
                    "replace_at",
                    options=list(WHERE),
                    default=DEFAULTS.where,
                    optional=True,
                    tooltip="Where in the model patches are replaced. SAE block: where the SAE reads, as published. "
                    "middle and SAE block: also in the model's middle, which erases more thoroughly. listed blocks: "
                    "those named at 'blocks'.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    optional=True,
                    tooltip="For experts: the blocks for 'listed blocks', such as 'output_blocks.4.1, "
                    "mid_block.attentions.0'. One that runs before the SAE's takes the mask of the step before.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with erasure attached, for a sampler."),
                ERASURE_RECORD.Output(
                    display_name="record",
                    tooltip="What was detected and replaced in the latest sampling run, for the Detection Preview.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        detection: Detection,
        replacement: str,
        halves: str,
        k: int,
        donor_seed: int,
        donor_share: float = DEFAULTS.donor_share,
        replace_at: str = DEFAULTS.where,
        blocks: str = "",
    ) -> io.NodeOutput:
        at = _listed(blocks) if replace_at == LISTED else ()
        chosen = Replacement(replacement, halves, k, donor_seed, donor_share, replace_at, at)
        return io.NodeOutput(*attach(model, detection, chosen))


def _listed(text: str) -> tuple[str, ...]:
    """Read names of blocks, in either spelling, separated by commas or spaces."""
    names = text.replace(",", " ").split()
    unknown = [name for name in names if not hookpoints.find(name)]
    if unknown or not names:
        said = f"{', '.join(unknown)} is no block's name" if unknown else "it is empty"
        raise ValueError(
            f"Patch Replacer: input 'blocks': {said}, but 'replace_at' is '{LISTED}'. Write names such as "
            "'output_blocks.4.1' or 'up_blocks.1.attentions.1', separated by commas."
        )
    return tuple(dict.fromkeys(hookpoints.find(name) for name in names))
