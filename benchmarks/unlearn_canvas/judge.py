"""Ask the classifiers, and perhaps a judge of artifacts, about the images of a folder, each image once."""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ..framework.storage import read_json, write_json
from .metrics import Answer
from .protocol import OBJECTS, STYLES, ProtocolImage

ARCHITECTURE = "vit_large_patch16_224.augreg_in21k"
SIDE = 224
ANSWERS, ARTIFACTS = "answers.json", "artifacts.json"

Classifier = Callable[[Tensor], Tensor]  # images [N, 3, 224, 224] in -1..1 to logits


def load_classifier(path: Path, outputs: int, device: str) -> nn.Module:
    """Load one of UnlearnCanvas's classifiers through timm.

    Args:
        path: the published checkpoint, a dictionary with ``model_state_dict``, or a safetensors file of the weights.
        outputs: 20 objects or 51 styles.
        device: for torch.

    Raises:
        RuntimeError: the weights are those of another network.
    """
    import timm  # only this program's environment has it

    if path.suffix == ".safetensors":
        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["model_state_dict"]
    # Without memory of its own: filling 300 million weights at random only to replace them takes longer than all else.
    with torch.device("meta"):
        network = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=outputs)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False).to(device)


def pixels_of(path: Path) -> Tensor:
    """Return an image as the classifiers take it, [3, 224, 224] in -1..1."""
    with Image.open(path) as file:
        small = file.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def unanswered(folder: Path, known: dict[str, Any]) -> list[Path]:
    """Return the images of a folder of which nothing is known, in order."""
    return [path for path in sorted(folder.glob("*.jpg")) if path.name not in known]


@torch.inference_mode()
def classify(folder: Path, objects: Classifier, styles: Classifier, device: str, batch: int) -> int:
    """Classify a folder's new images into ``answers.json``; return how many."""
    known = read_json(folder / ANSWERS)
    new = unanswered(folder, known)
    for start in range(0, len(new), batch):
        part = new[start : start + batch]
        pixels = torch.stack([pixels_of(path) for path in part]).to(device)
        seen = zip(objects(pixels).argmax(1).tolist(), styles(pixels).argmax(1).tolist(), strict=True)
        for path, (thing, style) in zip(part, seen, strict=True):
            known[path.name] = [OBJECTS[thing], STYLES[style]]
        write_json(folder / ANSWERS, known)
    return len(new)


def ask_for_artifacts(folder: Path, command: str, batch: int) -> int:
    """Let a program say which of a folder's new images show artifacts, into ``artifacts.json``; return how many.

    Args:
        folder: with images.
        command: gets the images' paths on standard input, one a line, and answers each with a line: 1 or 0.
        batch: images a call.

    Raises:
        ValueError: the program answers something else.
    """
    known = read_json(folder / ARTIFACTS)
    new = unanswered(folder, known)
    for start in range(0, len(new), batch):
        part = new[start : start + batch]
        lines = "".join(f"{path.resolve()}\n" for path in part)
        done = subprocess.run(shlex.split(command), input=lines, stdout=subprocess.PIPE, text=True, check=True)
        said = done.stdout.split()
        if len(said) != len(part) or not set(said) <= {"0", "1"}:
            raise ValueError(f"{command!r} must answer {len(part)} images with as many lines 0 or 1, not {said[:5]}")
        known |= {path.name: answer == "1" for path, answer in zip(part, said, strict=True)}
        write_json(folder / ARTIFACTS, known)
    return len(new)


def answers_of(folder: Path, wanted: Sequence[ProtocolImage]) -> dict[ProtocolImage, Answer]:
    """Return what is known of those wanted images that were classified."""
    seen, damaged = read_json(folder / ANSWERS), read_json(folder / ARTIFACTS)
    return {image: Answer(*seen[image.file], damaged.get(image.file)) for image in wanted if image.file in seen}
