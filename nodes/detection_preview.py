"""Detection Preview: show where and when a concept was detected."""

import torch
from comfy_api.latest import io

from ..erasure.record import ErasureRecord
from ..reports.preview import heat_overlay, image_mask, step_tiles
from .showing import latest_run, picture_and_words, require_pictures_of
from .sockets import CATEGORY, ERASURE_RECORD

NAME = "Detection Preview"
MASKS = ("any step", "share of steps")


class DetectionPreview(io.ComfyNode):
    """Draw the record of a Patch Replacer over a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureDetectionPreview",
            display_name=NAME,
            category=CATEGORY,
            description="Shows where a Patch Replacer detected the concept in the latest sampling run: a heat map "
            "over the picture, a tile for chosen steps, and a mask that any other node can use.",
            is_output_node=True,
            inputs=[
                ERASURE_RECORD.Input("record", tooltip="From the Patch Replacer whose model was sampled."),
                io.Image.Input("image", tooltip="The decoded picture of that run. It is drawn over, not changed."),
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
                    tooltip="The mask output. any step: white where the concept was ever detected. share of "
                    "steps: the brighter, the more steps detected it.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="preview",
                    tooltip="The heat map over the picture, and the tiles to its right.",
                ),
                io.Mask.Output(display_name="mask", tooltip="Where the concept was detected, at image size."),
            ],
        )

    @classmethod
    def execute(cls, record: ErasureRecord, image: torch.Tensor, tiles: int, mask_from: str) -> io.NodeOutput:
        run = latest_run(record, NAME, "record")
        require_pictures_of(run, image, NAME, "image")
        mask = image_mask(run, (image.shape[1], image.shape[2]), any_step=mask_from == MASKS[0])
        preview = torch.cat([heat_overlay(run, image), *step_tiles(run, image, tiles)], dim=2)
        return io.NodeOutput(preview, mask, ui=picture_and_words(preview, run.summary(), cls))
