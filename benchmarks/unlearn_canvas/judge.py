"""Ask the classifiers, and perhaps a judge of damage, about the pictures of a folder, each picture once."""

import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .metrics import Answer
from .protocol import OBJECTS, STYLES, Picture

ARCHITECTURE = "vit_large_patch16_224.augreg_in21k"
SIDE = 224
ANSWERS, ARTEFACTS = "answers.json", "artefacts.json"

Classifier = Callable[[Tensor], Tensor]  # pictures [N, 3, 224, 224] in -1..1 to logits


def load_classifier(path: Path, outputs: int, device: str) -> nn.Module:
    """Load one of UnlearnCanvas's classifiers through timm.

    Args:
        path: the published checkpoint, a dictionary with ``model_state_dict``, or a safetensors file of the weights.
        outputs: 20 objects or 51 styles.
        device: for torch.

    Raises:
        RuntimeError: the weights are those of another network.
    """
    import timm

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["model_state_dict"]
    # Without memory of its own: filling 300 million weights at random only to replace them takes longer than all else.
    with torch.device("meta"):
        network = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=outputs)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False).to(device)


def pixels_of(path: Path) -> Tensor:
    """Return a picture as the classifiers take it, [3, 224, 224] in -1..1."""
    with Image.open(path) as file:
        small = file.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def unanswered(folder: Path, known: dict[str, object]) -> list[Path]:
    """Return the pictures of a folder of which nothing is known, in order."""
    return [path for path in sorted(folder.glob("*.jpg")) if path.name not in known]


def read(path: Path) -> dict[str, object]:
    """Return what a file of answers holds; nothing if it is not there."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write(path: Path, content: dict[str, object]) -> None:
    """Replace a file of answers as a whole."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content, indent=0))
    partial.replace(path)


@torch.inference_mode()
def classify(folder: Path, objects: Classifier, styles: Classifier, device: str, batch: int) -> int:
    """Classify a folder's new pictures into ``answers.json``; return how many."""
    known = read(folder / ANSWERS)
    new = unanswered(folder, known)
    for start in range(0, len(new), batch):
        part = new[start : start + batch]
        pixels = torch.stack([pixels_of(path) for path in part]).to(device)
        seen = zip(objects(pixels).argmax(1).tolist(), styles(pixels).argmax(1).tolist(), strict=True)
        for path, (thing, style) in zip(part, seen, strict=True):
            known[path.name] = [OBJECTS[thing], STYLES[style]]
        write(folder / ANSWERS, known)
    return len(new)


def ask_for_artefacts(folder: Path, command: str, batch: int) -> int:
    """Let a programme say which of a folder's new pictures are damaged, into ``artefacts.json``; return how many.

    Args:
        folder: with pictures.
        command: gets the pictures' paths on standard input, one a line, and answers each with a line 1 (damaged) or 0.
        batch: pictures a call.

    Raises:
        ValueError: the programme answers something else.
    """
    known = read(folder / ARTEFACTS)
    new = unanswered(folder, known)
    for start in range(0, len(new), batch):
        part = new[start : start + batch]
        lines = "".join(f"{path.resolve()}\n" for path in part)
        done = subprocess.run(shlex.split(command), input=lines, stdout=subprocess.PIPE, text=True, check=True)
        said = done.stdout.split()
        if len(said) != len(part) or not set(said) <= {"0", "1"}:
            raise ValueError(f"{command!r} must answer {len(part)} pictures with as many lines 0 or 1, not {said[:5]}")
        known |= {path.name: answer == "1" for path, answer in zip(part, said, strict=True)}
        write(folder / ARTEFACTS, known)
    return len(new)


def answers_of(folder: Path, wanted: Sequence[Picture]) -> dict[Picture, Answer]:
    """Return what is known of those wanted pictures that were classified."""
    seen, damage = read(folder / ANSWERS), read(folder / ARTEFACTS)
    return {
        picture: Answer(*seen[picture.file], damage.get(picture.file))  # type: ignore[misc, arg-type]
        for picture in wanted
        if picture.file in seen
    }
