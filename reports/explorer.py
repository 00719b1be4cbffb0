"""Single features, as images: at which steps they fire, where, and which examples activate them most."""

from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from ..finding.examples import Example
from .chart import Line, line_chart
from .heat import LABEL, TILE, caption_row, feature_heat, image_row
from .images import GAP, batch, sheet, words
from .style import RED

SHOWN_IMAGES = 4


def feature_sheets(
    examples: Sequence[Example],
    features: Sequence[int],
    names: Mapping[int, str],
    num_features: int,
    given: Example | None = None,
) -> tuple[Tensor, list[str]]:
    """Draw one image a feature, and say the same in a line.

    Args:
        examples: images to try the features on, at least one.
        features: indices.
        names: what people call some of them.
        num_features: of the SAE.
        given: an image to show first, if there is one.

    Returns:
        [n, H, W, 3], and n lines.
    """
    sheets, lines = [], []
    for feature in features:
        heats = [feature_heat(example.calls, feature, num_features) for example in examples]
        order = sorted(range(len(examples)), key=lambda i: -float(heats[i].mean()))
        title = f"feature {feature}" + (f": {names[feature]}" if feature in names else "")
        share = sum(float((heat > 0).float().mean()) for heat in heats) / len(heats)
        best = order[0]
        lines.append(
            f"{title}: most in '{examples[best].caption}' (mean {float(heats[best].mean()):.3g}); "
            f"in {share:.1%} of the patches"
        )
        shown, maps = [examples[i] for i in order[:SHOWN_IMAGES]], [heats[i] for i in order[:SHOWN_IMAGES]]
        captions = [f"{example.caption}: {float(heat.mean()):.3g}" for example, heat in zip(shown, maps, strict=True)]
        if given is not None:
            shown, captions = [given, *shown], [given.caption, *captions]
            maps = [feature_heat(given.calls, feature, num_features), *maps]
        highest = max(float(heat.max()) for heat in maps) or 1.0
        rows = [
            [words(f"{title}\n\nactive in {share:.1%} of all patches", LABEL), _curve(examples, feature, num_features)],
            image_row("images that activate it most", shown),
            image_row("where", shown, [heat / highest for heat in maps]),
            caption_row(captions),
        ]
        sheets.append(sheet(rows))
    return batch(sheets), lines


def _curve(examples: Sequence[Example], feature: int, num_features: int) -> Image.Image:
    timesteps, means = over_steps(examples, feature, num_features)
    points = list(zip(timesteps, means, strict=True))[::-1]
    title = f"mean activation (highest {max(means):.3g})"
    size = (2 * TILE + GAP, TILE)
    return line_chart(size, title, [Line(points, RED)], ("t = 1000 (noise)", "0"), (1000.0, 0.0), dots=True)


def over_steps(examples: Sequence[Example], feature: int, num_features: int) -> tuple[list[float], list[float]]:
    """Return timesteps and a feature's mean activation at each.

    Over the generated examples, since the others were looked at elsewhere; over all if none was generated.
    """
    total: dict[float, list[float]] = {}
    for example in [each for each in examples if each.generated] or examples:
        for call in example.calls:
            total.setdefault(call.timestep, []).append(float(feature_heat([call], feature, num_features).mean()))
    timesteps = sorted(total)
    return timesteps, [sum(total[t]) / len(total[t]) for t in timesteps]
