"""Patch Replacer: attach a detection to a model, and replace what it finds."""

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..erasure.attach import attach
from ..erasure.detection import DetectionTree, blocks_read
from ..erasure.keep import Rest
from ..erasure.replacement import APPLY_TO, MODES, Replacement
from ..sae_models import hookpoints
from ..unet.blocks import text_width
from .checking import checked
from .live import LiveHeat
from .sockets import ADVANCED, DETECTION, EDIT, ERASURE_RECORD

DEFAULTS = Replacement()
KEEP, MAY_CHANGE = REST = ("keep exactly", "may change")
BACKGROUND, NEW_OBJECT = SHOWS = ("background", "new object")
Conditioning = list[list[Any]]
# The paper's method in one choice: any undetected patch, where the SAE reads.
PUBLISHED = "published"
MIDDLE_TOO, SAE_BLOCK, LISTED = REPLACE_AT = ("middle and SAE block", "SAE block", "listed blocks")


class PatchReplacer(io.ComfyNode):
    """Replace detected patches while the model samples."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasurePatchReplacer",
            display_name="Patch Replacer",
            category=EDIT,
            description="Erases what is detected, or swaps it for what a prompt at 'fill' says, and keeps the rest "
            "of the image exactly. Put it between the checkpoint (after LoRAs) and the sampler; several can follow "
            "each other. The sampler then works in two passes: the first finds the concept, the second edits only "
            "there.",
            inputs=[
                io.Model.Input("model", tooltip="The model to erase the concept from."),
                DETECTION.Input("detection", tooltip="What to erase, from a Concept Detector or a Mask Refiner."),
                io.Combo.Input(
                    "replacement",
                    options=[*MODES[:-1], PUBLISHED, MODES[-1]],
                    default=DEFAULTS.mode,
                    tooltip="Without a fill: which patch replaces a detected one. similar: the most similar one "
                    "without the concept; random: any; nearest: the closest in the image; published: the paper's "
                    "method, with 'may change'; none: only detect, also with a fill.",
                ),
                io.Combo.Input(
                    "rest",
                    options=list(REST),
                    default=KEEP,
                    tooltip="What happens to the rest of the image. keep exactly: it stays as it is without this "
                    "node, in two passes; may change: one pass, as in the paper.",
                ),
                io.Int.Input(
                    "attempts",
                    default=Rest().attempts,
                    min=1,
                    max=8,
                    tooltip="With 'keep exactly': how many second passes there are at most, while the concept is still "
                    "found. Each takes as long as one image; the best is kept.",
                ),
                io.Combo.Input(
                    "fill_shows",
                    options=list(SHOWS),
                    default=BACKGROUND,
                    tooltip="With a fill: what its prompt adds. background: colors from around the region continue "
                    "into it; new object: they do not, so that the object keeps its own.",
                ),
                io.Combo.Input(
                    "replace_at",
                    options=list(REPLACE_AT),
                    default=MIDDLE_TOO,
                    tooltip="Where in the model patches are replaced. SAE block: where the SAE reads, as in the "
                    "paper; middle and SAE block: also in the middle, which erases more thoroughly; listed blocks: "
                    "those at 'blocks'.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "source_share",
                    default=DEFAULTS.source_share,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    tooltip="Which share of the undetected patches may be copied: 1 is all, as in the paper. 0.25 is "
                    "the quarter least like the concept, so that a missed part of the object is not copied.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "apply_to",
                    options=list(APPLY_TO),
                    default=DEFAULTS.apply_to,
                    tooltip="Which prompts are edited: positive ones only, or both positive and negative ones.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "source_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="For patches that are copied at random: by random, by published, and by all choices from "
                    "the second attempt on. The same seed gives the same image.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    tooltip="For experts: the blocks for 'listed blocks', such as 'output_blocks.4.1, "
                    "mid_block.attentions.0'. One that runs before the SAE's takes the mask of the step before.",
                    **ADVANCED,
                ),
                io.Conditioning.Input(
                    "fill",
                    optional=True,
                    tooltip="Optional, with 'keep exactly': a prompt for what replaces the concept, such as yours "
                    "with another word for it, or one for the background. Without it, patches of the same image are "
                    "copied.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with erasure attached, for a sampler."),
                ERASURE_RECORD.Output(
                    display_name="record",
                    tooltip="What was detected and replaced while sampling, for the Detection Preview.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        detection: DetectionTree,
        replacement: str,
        replace_at: str,
        source_share: float,
        apply_to: str,
        source_seed: int,
        blocks: str,
        rest: str = KEEP,
        attempts: int = Rest().attempts,
        fill_shows: str = BACKGROUND,
        fill: Conditioning | None = None,
    ) -> io.NodeOutput:
        if replacement == PUBLISHED:
            replacement, replace_at, source_share = "random", SAE_BLOCK, 1.0
        chosen = Replacement(replacement, apply_to, source_seed, source_share)
        places = {MIDDLE_TOO: None, SAE_BLOCK: blocks_read(detection)}
        where = places[replace_at] if replace_at in places else _listed(blocks)
        embedding = None if fill is None else _embedding(fill, model)
        kept = Rest(attempts, embedding, fill_shows == BACKGROUND) if rest == KEEP else None
        return io.NodeOutput(*attach(model, detection, chosen, where, kept, LiveHeat.of(cls, model)))


def _embedding(fill: Conditioning, model: ModelPatcher) -> Tensor:
    """Return the text embedding of a fill, [1 or B, T, C].

    Raises:
        ValueError: it holds several prompts, or is of another kind of model.
    """
    if len(fill) > 1:
        raise ValueError(
            f"Patch Replacer: input 'fill' holds {len(fill)} prompts. Connect one prompt, as CLIP Text Encode gives it."
        )
    embedding: Tensor = fill[0][0]
    width = text_width(model)
    if embedding.ndim != 3 or (width is not None and embedding.shape[-1] != width):
        raise ValueError(
            f"Patch Replacer: input 'fill' is a text embedding of shape {tuple(embedding.shape)}, but the model at "
            f"input 'model' reads embeddings of width {width}. Encode it with the CLIP of the same checkpoint."
        )
    return embedding


def _listed(text: str) -> tuple[str, ...]:
    """Read names of blocks, in either spelling, separated by commas or spaces."""
    names = text.replace(",", " ").split()
    unknown = [name for name in names if not hookpoints.find(name)]
    if unknown or not names:
        said = f"{', '.join(unknown)} is no block's name" if unknown else "it is empty"
        raise ValueError(
            f"Patch Replacer: input 'blocks': {said}, but 'replace_at' is '{LISTED}'. Write names such as "
            "'output_blocks.4.1' or 'up_blocks.1.attentions.1', separated by commas."
        )
    return tuple(dict.fromkeys(hookpoints.find(name) for name in names))
