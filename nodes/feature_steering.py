"""Feature Steering: the published alternative to replacement, for comparison."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..erasure.replacement import APPLY_TO
from ..sae_models.concepts import Concept
from ..sae_models.loaded import LoadedSAE
from ..steering.attach import steer
from ..steering.steerer import SteeredConcept
from ..steering.steering import ERRORS, METHODS, Steering
from .checking import checked
from .sockets import ADVANCED, CONCEPT, EDIT, ERASURE_RECORD, SAE, part_inputs

NAME = "Feature Steering"


class FeatureSteering(io.ComfyNode):
    """Steer a concept's features while the model samples."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureFeatureSteering",
            display_name=NAME,
            category=EDIT,
            description="Turns a concept down or up by changing the SAE's features. This is the older way, here for "
            "comparison: it must be tuned, and strong settings make artifacts. To erase, prefer the Patch Replacer.",
            inputs=[
                io.Model.Input("model", tooltip="The model to steer."),
                SAE.Input(
                    "sae",
                    tooltip="The SAE whose features are changed. Its file must hold the decoder and mean "
                    "activations, as the shipped ones do.",
                ),
                CONCEPT.Input("concept", tooltip="The concept whose features to change, from a Concept Detector."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    tooltip="SAeUron: multiply the features where they are stronger than their mean. G-SAE: add the "
                    "concept's direction to every patch, as a share of the size of its values. additive: add the "
                    "concept's mean activation, times strength, to every patch.",
                ),
                io.Float.Input(
                    "strength",
                    default=-5.0,
                    min=-1000.0,
                    max=1000.0,
                    step=0.05,
                    tooltip="Negative removes the concept, positive strengthens it. Usual: -1 to -30 for SAeUron, "
                    "where 0 switches the features off; -0.1 to -1 for G-SAE; -40 to 40 for additive. What removes "
                    "well also makes artifacts.",
                ),
                io.Combo.Input(
                    "error",
                    options=list(ERRORS),
                    tooltip="Only for SAeUron. Leave it at exact: what the SAE does not describe stays as it is; "
                    "reference does as the published code, which changes patches without the concept too.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "apply_to",
                    options=list(APPLY_TO),
                    default="both",
                    tooltip="Which prompts are steered: positive ones only, or both positive and negative ones, as "
                    "the published methods do.",
                    **ADVANCED,
                ),
                *part_inputs(
                    "When to begin: 0 is the first, noisiest step.",
                    "When to stop: 1 is the end of sampling.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with steering attached, for a sampler."),
                ERASURE_RECORD.Output(
                    display_name="record",
                    tooltip="Which patches were changed in the last sampling runs, for the Detection Preview.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        sae: LoadedSAE,
        concept: Concept,
        method: str,
        strength: float,
        error: str,
        apply_to: str,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        try:
            sae.require_own(concept)
        except ValueError as reason:
            raise ValueError(f"{NAME}: input 'concept': {reason}, or connect another concept.") from reason
        target = SteeredConcept(sae, concept, start_percent, end_percent)
        return io.NodeOutput(*steer(model, target, Steering(method, strength, error, apply_to)))
