"""The protocol end to end without the published files: ``nox -s comparison -- unlearn_canvas stand-in --out FOLDER``.

The demo model that ships with the pack takes the place of Stable Diffusion, in the same graphs, on a ComfyUI server
that is started for it. Its judges take the place of the classifiers, so that the figures mean something; after that two
vision transformers of the published size with random weights are written to files, read back through timm and asked
about some of the images, which proves only that this path works.
"""

import argparse
import sys
from pathlib import Path

import torch
from live_server import LiveServer
from torch import Tensor
from torch.nn import functional as F

from ...demo_model import vocabulary
from ...demo_model.sizes import SIDE
from ...dev.demo_model.judges import SIDE as JUDGED_SIDE
from ...dev.demo_model.judges import load
from ...nodes.files import SHIPPED_PREFIX
from ...sae_models.shipped import file_name
from .generate import UNEDITED, Graph, folder_of, generate, read_graph
from .judge import ARCHITECTURE, Classifier, answers_of, classify, load_classifier
from .metrics import add_row, table
from .protocol import OBJECTS, PHOTO, STYLES, ProtocolImage, images

# Styles of the protocol that the demo model knows, by its own names. It knows Mosaic too, but its tiles do not outlive
# the scaling to the 224 pixels that the classifiers take.
KNOWN = {PHOTO: "photo", "Neon_Lines": "neon", "Sketch": "sketch", "Watercolor": "watercolor"}
SAE = SHIPPED_PREFIX + file_name()
RUNS = (UNEDITED, "replaced", "published", "steered")


def adapted(graph: Graph) -> Graph:
    """Return one of the protocol's graphs with the demo model in it, at its own size and guidance and 20 steps."""
    changes = {
        "CheckpointLoaderSimple": {"class_type": "ConceptErasureCanvasCheckpoint", "inputs": {}},
        "EmptyLatentImage": {"inputs": {"width": SIDE, "height": SIDE, "batch_size": 1}},
    }
    changed = {node: {**content, **changes.get(content["class_type"], {})} for node, content in graph.items()}
    for content in changed.values():
        if content["class_type"] == "KSampler":
            content["inputs"] = {**content["inputs"], "steps": 20, "cfg": 4.5}
    return changed


def values_of(target: str | None) -> dict[str, object]:
    """Return what the graphs' placeholders stand for; both worlds list the same objects in the same order."""
    return {"SAE": SAE, "STRENGTH": -15, "TARGET": target and vocabulary.OBJECTS[OBJECTS.index(target)]}


def judges() -> tuple[Classifier, Classifier]:
    """Return the demo model's judges in the shape of the published classifiers: logits of 20 objects and 51 styles."""
    network = load().network

    def looked_at(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return network(F.interpolate(pixels, (JUDGED_SIDE, JUDGED_SIDE), mode="bilinear", antialias=True))

    def objects(pixels: Tensor) -> Tensor:
        return looked_at(pixels)[0]

    def styles(pixels: Tensor) -> Tensor:
        found = looked_at(pixels)[1]
        placed = torch.full((len(found), len(STYLES)), float("-inf"))
        for style, name in KNOWN.items():
            placed[:, STYLES.index(style)] = found[:, vocabulary.STYLES.index(name)]
        return placed

    return objects, styles


def random_classifiers(folder: Path) -> tuple[Classifier, Classifier]:
    """Write two networks of the published size with random weights, laid out as published, and load them again."""
    import timm  # only this program's environment has it

    loaded = []
    for outputs in (len(OBJECTS), len(STYLES)):
        path = folder / f"random_{outputs}.pth"
        if not path.exists():
            torch.manual_seed(outputs)
            with torch.device("meta"):
                shapes = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=outputs).state_dict()
            torch.save({"model_state_dict": {name: 0.02 * torch.randn(t.shape) for name, t in shapes.items()}}, path)
        loaded.append(load_classifier(path, outputs, "cpu"))
    return loaded[0], loaded[1]


def main() -> None:
    """Run the protocol on the demo model."""
    parser = argparse.ArgumentParser(prog="nox -s comparison -- unlearn_canvas stand-in", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", choices=OBJECTS, default=OBJECTS[4::10], metavar="OBJECT")
    parser.add_argument("--styles", nargs="+", choices=KNOWN, default=list(KNOWN), metavar="STYLE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[188])
    parser.add_argument("--random", type=int, default=4, help="images for the random transformers; 0 for none")
    given = parser.parse_args()
    wanted = images(OBJECTS, given.styles, given.seeds)
    make(given, wanted)
    objects, styles = judges()
    printed = table()
    for run in RUNS:
        answers = {}
        for target in given.targets:
            folder = folder_of(given.out, run, None if run == UNEDITED else target)
            classify(folder, objects, styles, "cpu", 32)
            answers[target] = answers_of(folder, wanted)
        add_row(printed, run, answers)
    if given.random:
        ask_random(given, wanted[: given.random])


def make(given: argparse.Namespace, wanted: list[ProtocolImage]) -> None:
    """Make all images on a server of our own."""
    with LiveServer() as server:
        for run in RUNS:
            for target in [None] if run == UNEDITED else given.targets:
                folder = folder_of(given.out, run, target)
                made = generate(server, adapted(read_graph(run)), values_of(target), wanted, folder)
                print(f"{run}, {target}: {made} made", file=sys.stderr, flush=True)


def ask_random(given: argparse.Namespace, some: list[ProtocolImage]) -> None:
    """Ask transformers of the published size about copies of some unedited images, and print what they say."""
    folder = given.out / "random"
    folder.mkdir(exist_ok=True)
    for image in some:
        (folder / image.file).write_bytes((given.out / UNEDITED / image.file).read_bytes())
    classify(folder, *random_classifiers(given.out), "cpu", 4)
    for image, answer in answers_of(folder, some).items():
        print(f"{ARCHITECTURE}, random weights: {image.file} -> {answer.object}, {answer.style}")
