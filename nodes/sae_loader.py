"""SAE Loader: a file becomes an SAE."""

from pathlib import Path

from comfy_api.latest import io

from ..erasure.model_patcher import load_sae
from ..sae_models.native import SAEFileError
from . import files
from .sockets import CATEGORY, SAE


class SAELoader(io.ComfyNode):
    """Load a sparse autoencoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureSAELoader",
            display_name="SAE Loader",
            category=CATEGORY,
            description="Loads a sparse autoencoder (SAE), the detector that recognises concepts inside the model "
            "while it draws. It must belong to the checkpoint in use.",
            inputs=[
                io.Combo.Input(
                    "sae_file",
                    options=files.names(),
                    tooltip="An SAE file from models/sae, or one that comes with this pack ('shipped/', made for "
                    "the Canvas Checkpoint).",
                ),
            ],
            outputs=[
                SAE.Output(display_name="sae", tooltip="The SAE, for the Concept Detector."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, sae_file: str) -> tuple[int, int]:
        """Load again when the file has changed on disk."""
        facts = Path(files.resolve(sae_file)).stat()
        return facts.st_size, facts.st_mtime_ns

    @classmethod
    def execute(cls, sae_file: str) -> io.NodeOutput:
        path = files.resolve(sae_file)
        try:
            return io.NodeOutput(load_sae(path, sae_file))
        except SAEFileError as error:
            raise ValueError(
                f"SAE Loader: {error} (input 'sae_file'). Choose another file, or download this one again."
            ) from error
