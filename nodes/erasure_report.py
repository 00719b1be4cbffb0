"""Erasure Report: one image that says what was erased and whether the model kept to its distribution."""

from typing import Any

import torch
from comfy_api.latest import io

from ..erasure.history import ErasureRecord
from ..reports.erasure_report import draw_report
from .checking import checked
from .showing import image_and_words, latent_input, latest_run, require_pictures_of, shown_run
from .sockets import ERASURE_RECORD, INSPECT

NAME = "Erasure Report"


class ErasureReport(io.ComfyNode):
    """Draw a report of an edited run, against an unedited one if there is one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureErasureReport",
            display_name=NAME,
            category=INSPECT,
            description="Sums up a run of a Patch Replacer or of Feature Steering in one image: before and after, "
            "where the concept was found, and how much was edited at each step. It warns if the model's inner values "
            "became unusually large or small.",
            is_output_node=True,
            inputs=[
                ERASURE_RECORD.Input(
                    "record", tooltip="From the Patch Replacer or Feature Steering whose model was sampled."
                ),
                io.Image.Input("image", tooltip="The decoded image of that run."),
                ERASURE_RECORD.Input(
                    "reference",
                    optional=True,
                    tooltip="Optional: the record of the same sampling without an edit, from a Patch Replacer with "
                    "'replacement' at none. Without it, the edited blocks are compared with their own output before "
                    "the edit.",
                ),
                io.Image.Input(
                    "image_before",
                    optional=True,
                    tooltip="Optional: the image of the unedited run, to show beside the other.",
                ),
                io.Int.Input(
                    "tiles",
                    default=6,
                    min=1,
                    max=16,
                    tooltip="How many steps to show with their mask, spread evenly over the run.",
                ),
                latent_input(),
            ],
            outputs=[
                io.Image.Output(display_name="report", tooltip="The report, one image for each image of the run."),
                io.String.Output(
                    display_name="verdict",
                    tooltip="Whether the model's inner values stayed as usual (in "
                    "distribution), with the figure; a line for each image.",
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
        reference: ErasureRecord | None = None,
        image_before: torch.Tensor | None = None,
        latent: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        run, doubts = shown_run(record, latent, image, NAME)
        # The unedited run that began with the same noise, wherever it was sampled.
        same_noise = None if reference is None else reference.sampled_from(run.image_keys)
        unedited = same_noise or (None if reference is None else latest_run(reference, NAME, "reference"))
        if image_before is not None:
            require_pictures_of(run, image_before, NAME, "image_before")
        if unedited is not None and unedited.images != run.images:
            raise ValueError(
                f"{NAME}: input 'reference' is of a run of {unedited.images} image(s), input 'record' of one of "
                f"{run.images}. Sample both with the same latent."
            )
        try:
            report, verdicts = draw_report(run, image, unedited, image_before, tiles)
        except ValueError as error:
            raise ValueError(
                f"{NAME}: {error}. Sample 'reference' with the same sampler, scheduler and steps as 'record', and let "
                "its detector read the same block over the whole range."
            ) from error
        warnings = [*doubts, *run.remarks()]
        sentences = [verdict.sentence() for verdict in verdicts]
        report, shown = image_and_words(report, "\n".join(sentences), cls, warnings, sentences)
        return io.NodeOutput(report, "\n".join([*warnings, *sentences]), ui=shown)
