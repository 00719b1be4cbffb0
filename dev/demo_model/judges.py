"""The judges of the demo model: which objects an image shows, where each of them is, and in which style."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ...demo_model.sizes import GRID
from ...demo_model.sizes import SIDE as FULL_SIDE
from ...demo_model.vocabulary import OBJECTS, STYLES

FORMAT = "sae-concept-erasure-judges/1"
DEFAULT_PATH = Path(__file__).parent / "weights" / "judges.safetensors"
SIDE = FULL_SIDE // 2  # images are judged at half their size; masks are as fine as the latent
CHANNELS = (48, 96, 160, 192)


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


class JudgeNetwork(nn.Module):
    """One network with three heads; images [B, 3, 128, 128] in -1..1.

    Objects are found by the best place of the image, styles by the image as a whole, areas cell by cell.
    """

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for i, channels in enumerate(CHANNELS):
            if i:
                into: list[nn.Module] = [nn.Conv2d(CHANNELS[i - 1], channels, 3, stride=2, padding=1)]
            else:
                into = [nn.PixelUnshuffle(4), nn.Conv2d(48, channels, 3, padding=1)]
            stages.append(nn.Sequential(*into, Block(channels)))
        self.stages = nn.ModuleList(stages)
        self.objects = nn.Linear(2 * CHANNELS[-1], len(OBJECTS))
        self.styles = nn.Linear(2 * CHANNELS[-1], len(STYLES))
        self.areas = nn.Sequential(
            nn.Conv2d(sum(CHANNELS), 96, 1),
            nn.SiLU(),
            nn.Conv2d(96, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, len(OBJECTS), 1),
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of objects [B, 20] (each on its own), styles [B, 8] (one of them) and areas [B, 20, 32, 32]."""
        x, features = pixels, []
        for stage in self.stages:
            x = stage(x)
            features.append(F.interpolate(x, (GRID, GRID), mode="bilinear"))
        pooled = torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)
        return self.objects(pooled), self.styles(pooled), self.areas(torch.cat(features, 1))


class Judges:
    """The trained judges.

    Attributes:
        threshold: probability above which an object counts as shown; chosen on validation scenes.
        area_threshold: probability above which a cell counts as an object's; chosen on validation scenes.
    """

    def __init__(self, network: JudgeNetwork, threshold: float, area_threshold: float = 0.5) -> None:
        self.network = network.eval().requires_grad_(False)
        self.threshold, self.area_threshold = threshold, area_threshold

    @torch.inference_mode()
    def look(self, images: Tensor, batch: int = 64) -> tuple[Tensor, Tensor, Tensor]:
        """Judge images.

        Args:
            images: [B, H, W, 3] in 0..1, any size; they are judged at 128 x 128.

        Returns:
            probability of each object [B, 20], of each style [B, 8], and of each object in each cell [B, 20, 32, 32].
        """
        parts = []
        for part in images.float().movedim(-1, 1).split(batch):
            if part.shape[-2:] != (SIDE, SIDE):
                part = F.interpolate(part, (SIDE, SIDE), mode="bilinear", antialias=True)
            objects, styles, areas = self.network(part * 2 - 1)
            parts.append((objects.sigmoid(), styles.softmax(-1), areas.sigmoid()))
        objects, styles, areas = (torch.cat(judged) for judged in zip(*parts, strict=True))
        return objects, styles, areas

    def classify(self, images: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
        """Return probability of each object [B, 20] and of each style [B, 8]; see `look`."""
        objects, styles, _ = self.look(images, batch)
        return objects, styles

    def masks(self, images: Tensor, target: str) -> Tensor:
        """Return which cells of images [B, H, W, 3] show an object, bool [B, 32, 32]."""
        return self.look(images)[2][:, OBJECTS.index(target)] > self.area_threshold


def load(path: str | Path | None = None) -> Judges:
    """Load the judges.

    Args:
        path: a file that ``train_judges.py`` wrote; None for the one that is kept with the code.

    Raises:
        ValueError: the file holds something else.
    """
    with safe_open(path or DEFAULT_PATH, "pt") as file:
        metadata: dict[str, Any] = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path or DEFAULT_PATH} holds no judges of this version")
    network = JudgeNetwork()
    network.load_state_dict({key: v.float() if v.is_floating_point() else v for key, v in tensors.items()})
    facts = json.loads(metadata["facts"])
    return Judges(network, facts["threshold"], facts["area_threshold"])
