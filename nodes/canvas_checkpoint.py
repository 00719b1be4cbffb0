"""Canvas Checkpoint: the demo model that ships with the pack."""

from comfy_api.latest import io

from ..demo_model import checkpoint
from ..demo_model.sizes import SIDE
from ..demo_model.vocabulary import OBJECTS, STYLES
from .checking import checked
from .sockets import LOAD


class CanvasCheckpoint(io.ComfyNode):
    """Load the shipped text-to-image model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureCanvasCheckpoint",
            display_name="Canvas Checkpoint",
            category=LOAD,
            description="A tiny text-to-image model that comes with this pack, to learn and to test with: it generates "
            f"{SIDE} x {SIDE} images in seconds, also without a GPU. Prompts look like 'A cat and a dog image in photo "
            f"style'. It knows the objects {', '.join(OBJECTS)} and the styles {', '.join(STYLES)}; other words "
            "are ignored.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model, for the Patch Replacer or a sampler."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="The VAE, for VAE Decode and VAE Encode."),
            ],
        )

    @classmethod
    @checked
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*checkpoint.load())
