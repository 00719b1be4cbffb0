"""What the live heat of a Patch Replacer costs: a run with previews on, of the same run with previews off.

``python dev/host benchmarks.previews`` lets runs take turns in one process and divides times pair by pair. A second run
with previews off stands beside it: its ratio differs from 1 by chance alone. The sampler has no preview of its own
here, so that the heat is all that differs; its images are encoded as ComfyUI's server does before it sends them.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import comfy.cli_args
from comfy.cli_args import LatentPreviewMethod
from comfy_execution import progress
from comfy_execution.graph import DynamicPrompt

from ..demo_model import checkpoint
from ..demo_model.vocabulary import caption
from ..dev.demo_model.sampling import CFG, sample
from ..erasure.attach import attach
from ..erasure.detection import Detector
from ..erasure.keep import Rest
from ..erasure.replacement import Replacement
from ..nodes import PatchReplacer, files
from ..nodes.live import LiveHeat
from ..unet.loading import load_sae
from .framework.tables import Table, add_json
from .timing import alternate, median_interval, ratios

NODE = "1"
OFF, AGAIN, ON = "previews off", "previews off again", "previews on"
METHODS = {
    OFF: LatentPreviewMethod.NoPreviews,
    AGAIN: LatentPreviewMethod.NoPreviews,
    ON: LatentPreviewMethod.Latent2RGB,
}
QUALITY = 95  # of the server's JPEG files


class Sent(progress.ProgressHandler):
    """Encodes each image as ComfyUI's server does, and counts them."""

    def __init__(self) -> None:
        super().__init__("benchmark")
        self.images = 0

    def update_handler(
        self,
        node_id: str,
        value: float,
        max_value: float,
        state: progress.NodeProgressState,
        prompt_id: str,
        image: Any = None,
    ) -> None:
        """Encode what is shown, if anything is."""
        if image is not None:
            image[1].save(io.BytesIO(), format=image[0], quality=QUALITY)
            self.images += 1


def erased(kind: str) -> tuple[object, object]:
    """Return the demo model with a Patch Replacer at its defaults, which is a node of a prompt, and its CLIP."""
    model, clip, _ = checkpoint.load()
    name = files.names()[0]
    sae = load_sae(files.resolve(name), name)
    detector = Detector(sae, sae.concept("cat"))
    return attach(model, detector, Replacement(), rest=Rest(), show=LiveHeat(model, NODE, kind))[0], clip


def compare(table: Table, rounds: int, steps: int) -> float:
    """Add the ratios to a table; return how many images a run with previews on has shown.

    Raises:
        SystemExit: nothing was shown with previews on, or something with previews off.
    """
    kind = PatchReplacer.define_schema().node_id
    progress.reset_progress_state("benchmark", DynamicPrompt({NODE: {"class_type": kind}}))
    sent, counts = Sent(), dict.fromkeys(METHODS, 0)
    progress.add_progress_handler(sent)
    model, clip = erased(kind)

    def runner(setting: str) -> Callable[[], None]:
        def run() -> None:
            comfy.cli_args.args.preview_method, before = METHODS[setting], sent.images
            sample(model, clip, [caption(("cat",), "photo")], [0], steps=steps)
            counts[setting] += sent.images - before

        return run

    times = alternate({setting: runner(setting) for setting in METHODS}, rounds, time.perf_counter)
    if not counts[ON] or counts[OFF] or counts[AGAIN]:
        raise SystemExit(f"Images were shown where they should not be, or none were: {counts}")
    for setting in (AGAIN, ON):
        values = ratios(times[setting], times[OFF])
        ratio = {"value": statistics.median(values), "interval": median_interval(values), "samples": rounds}
        table.add(setting, {**ratio, "digits": 3})
    return counts[ON] / (rounds + 1)


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=20)
    add_json(parser)
    arguments = parser.parse_args()
    files.register_folder()
    table = Table("previews", (f"of a run with {OFF}",))
    shown = compare(table, arguments.rounds, arguments.steps)
    notes = (
        "Median ratio and half of its 95 % interval.",
        f"cfg {CFG}, {arguments.steps} steps, one image, {shown:.0f} images of heat shown a run.",
    )
    table.write(arguments.json, *notes)
