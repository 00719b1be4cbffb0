"""Detection Preview: show where and when a concept was detected."""

from typing import Any

import torch
from comfy_api.latest import io

from ..erasure.history import ErasureRecord
from ..reports.preview import heat_overlay, image_mask, region_mask, step_tiles
from .checking import checked
from .showing import image_and_words, latent_input, shown_run
from .sockets import ADVANCED, ERASURE_RECORD, INSPECT

NAME = "Detection Preview"
MASKS = ANY_STEP, SHARE, REGION = ("any step", "share of steps", "region")


class DetectionPreview(io.ComfyNode):
    """Draw the record of a Patch Replacer over an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureDetectionPreview",
            display_name=NAME,
            category=INSPECT,
            description="Shows where a Patch Replacer detected the concept: a heat map over the image, small images "
            "of single steps, and a mask that any other node can use.",
            is_output_node=True,
            inputs=[
                ERASURE_RECORD.Input(
                    "record", tooltip="From the Patch Replacer or Feature Steering whose model was sampled."
                ),
                io.Image.Input("image", tooltip="The decoded image of that run. It is not changed."),
                io.Int.Input(
                    "tiles",
                    default=4,
                    min=0,
                    max=16,
                    tooltip="How many steps to show beside the heat map, spread evenly over the run; 0 shows the "
                    "heat map alone.",
                ),
                io.Combo.Input(
                    "mask_from",
                    options=list(MASKS),
                    tooltip="What the mask output shows. any step: where the concept was ever detected; share of "
                    "steps: the brighter, the more steps; region: where the image may have changed.",
                    **ADVANCED,
                ),
                latent_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="preview",
                    tooltip="The heat map over the image, and images of single steps to its right.",
                ),
                io.Mask.Output(display_name="mask", tooltip="Where the concept was detected, at image size."),
                io.Boolean.Output(
                    display_name="remaining",
                    tooltip="True if the concept is still found in an image of the run. Nodes of other packs can act "
                    "on it.",
                ),
                io.String.Output(
                    display_name="report", tooltip="In words: in which images it was found, and where it remains."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        record: ErasureRecord,
        image: torch.Tensor,
        tiles: int,
        mask_from: str,
        latent: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        run, doubts = shown_run(record, latent, image, NAME)
        size = int(image.shape[1]), int(image.shape[2])
        mask = region_mask(run, size) if mask_from == REGION else image_mask(run, size, mask_from == ANY_STEP)
        preview = torch.cat([heat_overlay(run, image), *step_tiles(run, image, tiles)], dim=2)
        preview, shown = image_and_words(preview, run.figures(), cls, [*doubts, *run.remarks()])
        return io.NodeOutput(preview, mask, any(run.remaining), " ".join([*doubts, run.summary()]), ui=shown)
