"""Progress, curves and time left in the node, while ComfyUI may interrupt."""

import time

import comfy.model_management
import comfy.utils
from PIL import Image

from ...reports import curves
from ...reports.images import sheet
from ...unet.preview import previews_are_on
from .alternating import SAETraining

DRAW_EVERY = 2.0  # seconds
TICKS = 1000  # of the progress bar


class Display:
    """Shows progress and curves in the node, and lets ComfyUI interrupt."""

    def __init__(self, training: SAETraining) -> None:
        self.training = training
        self._bar = comfy.utils.ProgressBar(TICKS)
        self._drawn = self._shown = 0.0
        self._start: tuple[float, float] | None = None

    def __call__(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        now, share = time.monotonic(), self.training.share
        if now - self._shown < 0.1 and share < 1:
            return
        self._shown = now
        preview = None
        if previews_are_on() and now - self._drawn > DRAW_EVERY:
            self._drawn = now
            preview = ("JPEG", draw(self.training, self._left(now, share)), None)
        self._bar.update_absolute(int(share * TICKS), TICKS, preview)

    def _left(self, now: float, share: float) -> str:
        self._start = self._start or (now, share)
        done = share - self._start[1]
        return f"{(now - self._start[0]) / done * (1 - share) / 60:.1f} min left" if done > 0.01 else ""


def draw(training: SAETraining, note: str = "") -> Image.Image:
    """Draw the curves of all hookpoints below each other."""
    charts = []
    for hookpoint in training.widths:
        session = training.sessions.get(hookpoint)
        history = session.history if session else []
        said = f"explained variance {1 - history[-1][1]:.3f}, dead {history[-1][2]:.1%}" if history else "collecting"
        charts.append([curves.draw(f"{hookpoint}   {said}   {note}", history, training.settings.steps)])
    return sheet(charts)
