"""Save SAE: an SAE becomes a file of the pack's own format."""

import torch
from comfy_api.latest import io

from ..sae_models.formats import load_whole, native
from ..sae_models.loaded import LoadedSAE
from . import files, targets
from .checking import checked
from .showing import words_alone
from .sockets import ADVANCED, LOAD, SAE

AS_LOADED = "as in its file"
WEIGHTS = {AS_LOADED: None, "float16": torch.float16, "float32": torch.float32}


class SaveSAE(io.ComfyNode):
    """Save a sparse autoencoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureSaveSAE",
            display_name="Save SAE",
            category=LOAD,
            description="Saves an SAE of any format as one safetensors file in models/sae, with the block that it "
            "reads and its concepts. Such a file cannot run code, and the SAE Loader needs no settings for it.",
            inputs=[
                SAE.Input("sae", tooltip="The SAE to save, from the SAE Loader, with the block that was chosen there."),
                io.String.Input(
                    "name",
                    default="my_sae",
                    tooltip="What to call the file, without a folder. It appears in the SAE Loader's list after "
                    "pressing R.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="On: a file of the same name is replaced. Off: it is kept, and the node stops with a "
                    "message.",
                ),
                io.Combo.Input(
                    "weights",
                    options=list(WEIGHTS),
                    default=AS_LOADED,
                    tooltip="How precisely the numbers are stored. float16 halves the size of a float32 file; a few "
                    "patches may then be detected differently.",
                    **ADVANCED,
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, sae: LoadedSAE, name: str, weights: str = AS_LOADED, overwrite: bool = False) -> io.NodeOutput:
        # Encoder and decoder; four bytes a number unless half precision is asked for.
        numbers = 2 * sae.config.d_in * sae.config.num_latents
        path = files.new_file(name, overwrite, size=numbers * (4 if weights == "float32" else 2))
        known = sae.dictionary if sae.dictionary.concepts or sae.dictionary.feature_means is not None else None
        try:
            whole = load_whole(sae.file)
            native.save(path, whole, known, {**sae.file.facts, "saved_from": sae.name}, WEIGHTS[weights])
        except native.SAEFileError as error:
            raise ValueError(
                f"Save SAE: {error} (input 'sae'). Nothing was saved. Load the SAE again, or choose other 'weights'."
            ) from error
        except OSError as error:
            raise targets.unwritable(path, error, "Save SAE") from error
        parts = "encoder and decoder" if whole.decoder_weight is not None else "encoder"
        concepts = len(sae.dictionary.concepts)
        size = path.stat().st_size / 1e6
        return io.NodeOutput(ui=words_alone(f"Saved {path}: {parts}, {concepts} concepts, {size:.1f} MB", cls))
