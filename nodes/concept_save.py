"""Save Concept: a concept becomes a small file."""

from dataclasses import replace

from comfy_api.latest import io

from ..sae_models.concepts import Concept
from ..sae_models.formats import concept_files
from . import files, targets
from .checking import checked
from .showing import words_alone
from .sockets import CONCEPT, FIND

NAME = "Save Concept"


class SaveConcept(io.ComfyNode):
    """Save a concept, and what its features are called."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureSaveConcept",
            display_name=NAME,
            category=FIND,
            description="Saves a concept as a small file in models/sae/concepts, for the SAE that it was found with. "
            "After pressing R the Concept Detector lists it.",
            inputs=[
                CONCEPT.Input("concept", tooltip="The concept to save, from any node that gives one."),
                io.String.Input(
                    "name",
                    default="my_concept",
                    tooltip="What to call the file, without a folder. It appears as 'concepts/...' in lists.",
                ),
                io.String.Input(
                    "feature_names",
                    default="",
                    multiline=True,
                    tooltip="Optional: your names for its features, one a line, such as '17: whiskers'. Other "
                    "features keep the names that they have.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="On: a file of the same name is replaced. Off: it is kept, and the node stops with a "
                    "message.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, concept: Concept, name: str, feature_names: str = "", overwrite: bool = False) -> io.NodeOutput:
        path = files.new_file(name, overwrite, NAME, files.CONCEPTS)
        named = replace(concept, feature_names=_merged_names(concept, feature_names))
        try:
            concept_files.save(path, named)
        except OSError as error:
            raise targets.unwritable(path, error, NAME) from error
        except ValueError as error:
            raise ValueError(
                f"{NAME}: {error} (input 'concept'). Connect one from another node of this pack."
            ) from error
        return io.NodeOutput(ui=words_alone(f"Saved {path}. {concept_files.describe(named)}", cls))


def _merged_names(concept: Concept, text: str) -> tuple[tuple[int, str], ...]:
    """Return the names of a concept's features, those that were typed in before those it came with."""
    try:
        typed = concept_files.parse_feature_names(text)
    except ValueError as error:
        raise ValueError(f"{NAME}: input 'feature_names': {error}. Write one name a line.") from error
    used = concept.features()
    foreign = [index for index, _ in typed if index not in used]
    if foreign:
        raise ValueError(
            f"{NAME}: input 'feature_names': the concept '{concept.name}' does not use feature {foreign[0]}. It uses "
            f"{', '.join(map(str, used))}."
        )
    return tuple(sorted({**dict(concept.feature_names), **dict(typed)}.items()))
