"""Detection Preview: show where and when a concept was detected."""

from typing import Any

import torch
from comfy_api.latest import io

from ..erasure.history import ErasureRecord
from ..reports.preview import heat_overlay, image_mask, region_mask, step_tiles, with_words
from .checking import checked
from .showing import latent_input, picture_and_words, shown_run
from .sockets import CATEGORY, ERASURE_RECORD

NAME = "Detection Preview"
MASKS = ANY_STEP, SHARE, REGION = ("any step", "share of steps", "region")


class DetectionPreview(io.ComfyNode):
    """Draw the record of a Patch Replacer over a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureDetectionPreview",
            display_name=NAME,
            category=CATEGORY,
            description="Shows where a Patch Replacer detected the concept: a heat map over the image, a tile for "
            "chosen steps, and a mask that any other node can use.",
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
                    tooltip="The mask output. any step: white where it was ever detected. share of steps: the "
                    "brighter, the more steps detected it. region: where the image may have changed.",
                ),
                latent_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="preview",
                    tooltip="The heat map over the picture, and the tiles to its right.",
                ),
                io.Mask.Output(display_name="mask", tooltip="Where the concept was detected, at image size."),
                io.Boolean.Output(
                    display_name="remaining",
                    tooltip="True if the concept is still found in an image of the run, for a node that branches.",
                ),
                io.String.Output(display_name="report", tooltip="In which images it was found, and where it remains."),
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
        run, doubt = shown_run(record, latent, image, NAME)
        size = int(image.shape[1]), int(image.shape[2])
        mask = region_mask(run, size) if mask_from == REGION else image_mask(run, size, mask_from == ANY_STEP)
        preview = torch.cat([heat_overlay(run, image), *step_tiles(run, image, tiles)], dim=2)
        # What could not be done must be seen, and a node's image is what every frontend shows.
        preview = with_words(preview, [*([doubt] if doubt else []), *run.leftovers(), *run.warnings()])
        text = " ".join([*([doubt] if doubt else []), run.summary()])
        return io.NodeOutput(preview, mask, any(run.remaining), text, ui=picture_and_words(preview, text, cls))
