"""What the Concept Finder found, as an image: how well, which features, and where they fire on example images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..finding.examples import Example
from ..finding.fitting import Finding
from ..sae_models.scoring import strongest_features
from .heat import caption_row, concept_heat, feature_heat, image_row
from .images import batch, sheet

SHOWN_FEATURES = 8


def finder_report(finding: Finding, examples: Sequence[Example], num_features: int) -> Tensor:
    """Draw the report of the Concept Finder, or of Concept From Mask.

    Args:
        finding: what was found.
        examples: images to show it in, at least one.
        num_features: of the SAE.

    Returns:
        [1, H, W, 3].
    """
    concept = finding.concept
    rows = [image_row("images", examples)]
    if any(example.caption for example in examples):
        rows.append(caption_row([example.caption for example in examples]))
    if any(example.masked is not None for example in examples):
        masked = [torch.zeros(1, 1) if example.masked is None else example.masked for example in examples]
        rows.append(image_row("your mask, on the model's grid", examples, masked))
    if any(band.features for band in concept.bands):
        heats = [concept_heat(example.calls, concept, num_features) for example in examples]
        rows.append(image_row(f"{concept.name}\nshare of steps in which it is detected", examples, heats))
    for feature, score in strongest_features(concept, SHOWN_FEATURES):
        heats = [feature_heat(example.calls, feature, num_features) for example in examples]
        highest = max(float(heat.max()) for heat in heats)
        text = f"feature {feature}\nscore {score:.4f}\nhighest {highest:.2f}"
        rows.append(image_row(text, examples, [heat / (highest or 1.0) for heat in heats]))
    return batch([sheet(rows)])
