"""Load Concept: a concept file becomes a concept."""

from comfy_api.latest import io

from ..sae_models.formats.concept_files import describe
from ..sae_models.formats.native import SAEFileError
from . import files
from .checking import FileChoice, checked
from .showing import words_alone
from .sockets import CONCEPT, LOAD

NAME = "Load Concept"


class LoadConcept(io.ComfyNode):
    """Load a concept that was saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureLoadConcept",
            display_name=NAME,
            category=LOAD,
            description="Loads a concept that Save Concept wrote, for a Concept Detector or to combine it with "
            "others. The Concept Detector can also choose the file by itself.",
            inputs=[
                FileChoice(
                    "concept_file",
                    options=files.concept_file_names() or ["none"],
                    tooltip="A file from models/sae/concepts. Use it with the SAE that it was made with.",
                ),
            ],
            outputs=[
                CONCEPT.Output(
                    display_name="concept", tooltip="The concept, for a Concept Detector or for Concept Math."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, concept_file: str | None = None) -> bool | str:
        """Say what to do about a file that is gone, in place of ComfyUI's list of all that are there."""
        if concept_file is None or concept_file in files.concept_file_names():
            return True
        try:
            files.load_concept(concept_file)
        except ValueError as error:
            return f"{NAME}: {error} (input 'concept_file')."
        return True

    @classmethod
    def fingerprint_inputs(cls, concept_file: str) -> object:
        """Load again when the file has changed on disk."""
        return files.concept_fingerprint(concept_file)

    @classmethod
    @checked
    def execute(cls, concept_file: str) -> io.NodeOutput:
        try:
            concept = files.load_concept(concept_file)
        except SAEFileError as error:
            raise ValueError(f"{NAME}: {error} (input 'concept_file'). {error.advice}") from error
        except ValueError as error:
            raise ValueError(f"{NAME}: {error} (input 'concept_file').") from error
        return io.NodeOutput(concept, ui=words_alone(describe(concept), cls))
