"""Concept Math: two concepts become one."""

from comfy_api.latest import io

from ..sae_models.arithmetic import OPERATIONS, difference, union
from ..sae_models.concepts import Concept
from ..sae_models.formats.concept_files import describe
from .checking import checked
from .showing import words_alone
from .sockets import CONCEPT, FIND

NAME = "Concept Math"


class ConceptMath(io.ComfyNode):
    """Join two concepts, or take one from the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureConceptMath",
            display_name=NAME,
            category=FIND,
            description="Makes one concept out of two of the same SAE: what is either, or what is the first but not "
            "the second (cat but not dog).",
            inputs=[
                CONCEPT.Input("first", tooltip="A concept, from any node that gives one."),
                CONCEPT.Input("second", tooltip="Another concept of the same SAE."),
                io.Combo.Input(
                    "operation",
                    options=list(OPERATIONS),
                    tooltip="union: find what either finds. difference: find the first, but leave out what looks as "
                    "much like the second.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="What to call the result. Empty: 'cat or dog', or 'cat but not dog'.",
                ),
            ],
            outputs=[
                CONCEPT.Output(display_name="concept", tooltip="The result, for a Concept Detector or Save Concept."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, first: Concept, second: Concept, operation: str, name: str = "") -> io.NodeOutput:
        combine = union if operation == "union" else difference
        try:
            concept = combine(first, second, name.strip())
        except ValueError as error:
            raise ValueError(f"{NAME}: {error} (inputs 'first' and 'second').") from error
        return io.NodeOutput(concept, ui=words_alone(describe(concept), cls))
