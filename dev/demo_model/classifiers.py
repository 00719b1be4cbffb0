"""The judges of the small world: which objects a picture shows, and in which style."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ...demo_model.vocabulary import OBJECTS, STYLES

FORMAT = "sae-concept-erasure-classifiers/1"
DEFAULT_PATH = Path(__file__).parent / "weights" / "classifiers.safetensors"
CHANNELS = (32, 64, 128, 192)


class Block(nn.Module):
    """A residual pair of 3 x 3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))


class CanvasClassifier(nn.Module):
    """One network with two heads; pictures [B, 3, 128, 128] in -1..1.

    Objects are found by the best place of the picture, styles by the picture as a whole.
    """

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.PixelUnshuffle(4), nn.Conv2d(48, CHANNELS[0], 3, padding=1)]
        for i, channels in enumerate(CHANNELS):
            if i:
                stages.append(nn.Conv2d(CHANNELS[i - 1], channels, 3, stride=2, padding=1))
            stages.append(Block(channels))
        self.body = nn.Sequential(*stages)
        self.objects = nn.Linear(2 * CHANNELS[-1], len(OBJECTS))
        self.styles = nn.Linear(2 * CHANNELS[-1], len(STYLES))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of objects [B, 20] (each on its own) and of styles [B, 8] (one of them)."""
        x = self.body(pixels)
        pooled = torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)
        return self.objects(pooled), self.styles(pooled)


class Classifiers:
    """The shipped judges.

    Attributes:
        threshold: probability above which an object counts as shown; chosen on validation scenes.
    """

    def __init__(self, network: CanvasClassifier, threshold: float) -> None:
        self.network = network.eval().requires_grad_(False)
        self.threshold = threshold

    @torch.inference_mode()
    def classify(self, images: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
        """Judge pictures.

        Args:
            images: [B, H, W, 3] in 0..1, any size; they are judged at 128 x 128.

        Returns:
            probability of each object [B, 20] and of each style [B, 8].
        """
        objects, styles = [], []
        for part in images.float().movedim(-1, 1).split(batch):
            if part.shape[-2:] != (128, 128):
                part = F.interpolate(part, (128, 128), mode="bilinear", antialias=True)
            found, style = self.network(part * 2 - 1)
            objects.append(found.sigmoid())
            styles.append(style.softmax(-1))
        return torch.cat(objects), torch.cat(styles)


def load(path: str | Path | None = None) -> Classifiers:
    """Load the judges.

    Args:
        path: a file that ``train_classifiers.py`` wrote; None for the shipped one.
    """
    with safe_open(path or DEFAULT_PATH, "pt") as file:
        metadata: dict[str, Any] = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path or DEFAULT_PATH} holds no classifiers of this version")
    network = CanvasClassifier()
    network.load_state_dict({key: v.float() if v.is_floating_point() else v for key, v in tensors.items()})
    return Classifiers(network, json.loads(metadata["facts"])["threshold"])
