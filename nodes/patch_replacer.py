"""Patch Replacer: attach a detection to a model, and replace what it finds."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..erasure.detection import Detection
from ..erasure.model_patcher import attach
from ..erasure.replacement import HALVES, MODES, Replacement
from .sockets import CATEGORY, DETECTION, ERASURE_RECORD


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
                    default="random",
                    tooltip="What comes in place of a detected patch. random: any undetected patch of the same "
                    "picture. nearest: the closest undetected one. mean of k nearest: the average of the k "
                    "closest. unconditional: the same place as the model draws it without your prompt. none: "
                    "replace nothing, only record what is detected.",
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
                    tooltip="Seed of the random choice of donors. The same seed gives the same picture.",
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
        cls, model: ModelPatcher, detection: Detection, replacement: str, halves: str, k: int, donor_seed: int
    ) -> io.NodeOutput:
        return io.NodeOutput(*attach(model, detection, Replacement(replacement, halves, k, donor_seed)))
