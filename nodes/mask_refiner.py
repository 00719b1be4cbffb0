"""Mask Refiner: shape the mask of a detection while sampling goes on."""

import torch
from comfy_api.latest import io

from ..erasure.detection import DetectionTree, Refine
from ..erasure.refinement import Refinement
from .checking import checked
from .sockets import ADVANCED, DETECTION, EDIT

NAME = "Mask Refiner"


class MaskRefiner(io.ComfyNode):
    """Grow, clean, hold or confine what a detector finds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureMaskRefiner",
            display_name=NAME,
            category=EDIT,
            description="Shapes the detected mask at every step: grow or shrink it, close holes, limit it to a "
            "region. Sizes are in patches, the grid that the SAE reads. With everything at 0 and no region it "
            "changes nothing.",
            inputs=[
                DETECTION.Input(
                    "detection", tooltip="The detection to shape, from a Concept Detector or another Mask Refiner."
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-8,
                    max=8,
                    tooltip="Grow the mask by this many patches on every side. Negative numbers shrink it.",
                ),
                io.Int.Input(
                    "close_holes",
                    default=0,
                    min=0,
                    max=8,
                    tooltip="Fill holes and gaps in the mask, up to about twice this many patches wide.",
                ),
                io.Float.Input(
                    "min_area",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Leave an image alone until this share of it is detected at one step: 0.1 is a tenth, 0 "
                    "turns it off. It prevents edits from a few false detections; smaller objects then stay.",
                ),
                io.Int.Input(
                    "min_patches",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Remove connected groups of fewer patches than this.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "persistence",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="A patch that was detected in this many steps stays detected in all later ones. 0 turns "
                    "it off.",
                    **ADVANCED,
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="Optional: detect only inside this mask (white), of any size. One mask, or one for each "
                    "image of the batch.",
                ),
            ],
            outputs=[DETECTION.Output(display_name="detection", tooltip="The shaped detection.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        detection: DetectionTree,
        grow: int,
        close_holes: int,
        min_patches: int,
        persistence: int,
        region: torch.Tensor | None = None,
        min_area: float = 0.0,
    ) -> io.NodeOutput:
        refinement = Refinement(persistence, close_holes, min_patches, grow, _checked(region), min_area)
        return io.NodeOutput(detection if refinement.is_neutral else Refine(detection, refinement))


def _checked(region: torch.Tensor | None) -> torch.Tensor | None:
    """Bring a MASK to [M, h, w] on the CPU."""
    if region is None:
        return None
    if region.ndim == 2:
        region = region[None]
    if region.ndim != 3 or region.numel() == 0:
        raise ValueError(
            f"{NAME}: input 'region' is no usable mask (shape {tuple(region.shape)}). Connect a MASK, for example "
            "from Load Image or the mask editor."
        )
    if not torch.isfinite(region).all():
        raise ValueError(f"{NAME}: input 'region' holds NaN or infinity. Connect another mask.")
    return region.detach().float().cpu()
