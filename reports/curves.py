"""How training goes, as an image."""

from collections.abc import Sequence

from PIL import Image

from .chart import Line, line_chart
from .style import BLUE, GRAY, RED

SIZE = (768, 300)


def draw(title: str, history: Sequence[tuple[float, float, float]], steps: int) -> Image.Image:
    """Draw explained variance, loss (the unexplained share) and dead share over the steps.

    Args:
        title: one line above the curves.
        history: [step, unexplained share, dead share]; shares are 0..1, what exceeds 1 is cut off.
        steps: right end of the axis.
    """
    lines = [
        Line([(step, loss) for step, loss, _ in history], GRAY, "loss"),
        Line([(step, dead) for step, _, dead in history], RED, "dead features"),
        Line([(step, 1 - loss) for step, loss, _ in history], BLUE, "explained variance"),
    ]
    labels = [f"step {share * steps:.0f}" for share in (0.0, 0.5, 1.0)]
    levels = [(percent / 100, f"{percent} %") for percent in range(0, 101, 20)]
    return line_chart(SIZE, title, lines, labels, (0, steps), 1.0, levels)
