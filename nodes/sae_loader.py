"""SAE Loader: a file becomes an SAE."""

from comfy_api.latest import io

from ..sae_models import hookpoints
from ..sae_models.formats.native import SAEFileError
from ..unet.loading import load_sae
from . import files
from .checking import FileChoice, checked
from .sockets import ADVANCED, LOAD, SAE

AUTOMATIC = "automatic"
# What is chosen -> what a configuration calls it.
INPUTS = {AUTOMATIC: "", "output": "output", "residual": "output_minus_input"}


def block_names() -> list[str]:
    """Return the blocks to choose from, each spelled both ways: ``output_blocks.4.1 = up_blocks.1.attentions.1``."""
    names = {block: hookpoints.diffusers_name(block) for block in hookpoints.known()}
    return [f"{block} = {name}" if name else block for block, name in names.items()]


class SAELoader(io.ComfyNode):
    """Load a sparse autoencoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureSAELoader",
            display_name="SAE Loader",
            category=LOAD,
            description="Loads a sparse autoencoder (SAE), the detector that recognizes concepts inside the model "
            "while it generates. Use one that was trained for your checkpoint.",
            inputs=[
                FileChoice(
                    "sae_file",
                    options=files.names(),
                    tooltip="An SAE file or folder from models/sae, as it was downloaded, or one that comes with "
                    "this pack ('shipped/', for the Canvas Checkpoint). SAEs of SAeUron, SAEmnesia, sdxl-unbox, "
                    "G-SAE, EleutherAI sparsify, SAELens, dictionary_learning and overcomplete can be read.",
                ),
                io.Combo.Input(
                    "hookpoint",
                    options=[AUTOMATIC, *block_names()],
                    default=AUTOMATIC,
                    optional=True,
                    tooltip="The block of the model that the SAE reads. automatic: as the file or its folder says; "
                    "choose a block if an error asks for it.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "sae_input",
                    options=list(INPUTS),
                    default=AUTOMATIC,
                    optional=True,
                    tooltip="For experts: whether the SAE reads the block's output, or the residual, which is output "
                    "minus input. automatic: as usual for the file's format (residual for sdxl-unbox, else output).",
                    **ADVANCED,
                ),
            ],
            outputs=[
                SAE.Output(display_name="sae", tooltip="The SAE, for the Concept Detector."),
            ],
        )

    @classmethod
    def validate_inputs(cls, sae_file: str | None = None) -> bool | str:
        """Say what to do about a file that is gone, in place of ComfyUI's list of all that are there."""
        try:
            return sae_file is None or bool(files.resolve(sae_file))
        except ValueError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, sae_file: str, hookpoint: str = AUTOMATIC, sae_input: str = AUTOMATIC) -> object:
        """Load again when a file has changed on disk."""
        return files.fingerprint(sae_file), hookpoint, sae_input

    @classmethod
    @checked
    def execute(cls, sae_file: str, hookpoint: str = AUTOMATIC, sae_input: str = AUTOMATIC) -> io.NodeOutput:
        path = files.resolve(sae_file)
        block = "" if hookpoint == AUTOMATIC else hookpoint.partition(" = ")[0]
        try:
            return io.NodeOutput(load_sae(path, sae_file, block, INPUTS[sae_input], files.listed_in(path)))
        except SAEFileError as error:
            raise ValueError(f"SAE Loader: {error} (input 'sae_file'). {error.advice}") from error
