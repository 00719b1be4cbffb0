"""``nox -s comparison -- unlearn_canvas generate | judge | report | stand-in``; see README.md beside this file."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from live_server import Server

from ..framework.tables import add_json
from . import stand_in
from .generate import UNEDITED, folder_of, generate, read_graph
from .judge import answers_of, ask_for_artifacts, classify, load_classifier
from .metrics import add_row, table
from .protocol import OBJECTS, SEEDS, STYLES, ProtocolImage, images

MEANT = "In percent: mean and standard deviation over targets."


def wanted(given: argparse.Namespace) -> list[ProtocolImage]:
    """Return the images of the chosen subset; ``--limit`` takes an even share of each object."""
    chosen = images(given.objects, given.styles, given.seeds)
    return chosen if given.limit is None else chosen[: given.limit * len(given.objects)]


def targets(given: argparse.Namespace, run: str) -> list[str | None]:
    """Return what is erased in turn; once nothing for the unedited run."""
    return [None] if run == UNEDITED else list(given.targets or given.objects)


def folders(given: argparse.Namespace) -> Iterator[tuple[str, str | None, Path]]:
    """Yield run, target and folder of all that was asked for."""
    for run in given.runs:
        for target in targets(given, run):
            yield run, target, folder_of(given.out, run, target)


def make(given: argparse.Namespace) -> None:
    """Make the images."""
    server = Server(given.server)
    fill = {name: number(value) for name, value in (item.split("=", 1) for item in given.fill)}
    for run, target, folder in folders(given):
        values = {"TARGET": target, **fill}
        made = generate(server, read_graph(given.graph or run), values, wanted(given), folder)
        print(f"{run}, {target}: {made} images made, {len(wanted(given)) - made} were there", flush=True)


def number(text: str) -> str | int | float:
    """Return a number where a text is one: a graph's inputs have types."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def judge(given: argparse.Namespace) -> None:
    """Classify the images that were made."""
    ready = [(run, target, folder) for run, target, folder in folders(given) if folder.is_dir()]
    objects = load_classifier(given.object_weights, len(OBJECTS), given.device)
    styles = load_classifier(given.style_weights, len(STYLES), given.device)
    for run, target, folder in ready:
        print(f"{run}, {target}: {classify(folder, objects, styles, given.device, given.batch)} classified", flush=True)
        if given.artifacts:
            print(f"{run}, {target}: {ask_for_artifacts(folder, given.artifacts, given.batch)} asked for artifacts")


def report(given: argparse.Namespace) -> None:
    """Print the table, and write it if a file was named."""
    chosen = wanted(given)
    found = table()
    for run in given.runs:
        erased = list(given.targets or given.objects)
        every = {t: answers_of(folder_of(given.out, run, t if run != UNEDITED else None), chosen) for t in erased}
        answered = {target: answers for target, answers in every.items() if answers}
        for target, answers in answered.items():
            if len(answers) < len(chosen):
                print(f"{run}, {target}: {len(answers)} of {len(chosen)} images judged", file=sys.stderr)
        if answered:
            add_row(found, run, answered)
    subset = {"objects": given.objects, "styles": given.styles, "seeds": given.seeds, "limit": given.limit}
    # The number format is that of the server that made the images, which does not say it.
    found.write(given.json, MEANT, subset=subset, dtype="")


def options() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    parser = argparse.ArgumentParser(prog="nox -s comparison -- unlearn_canvas", description=__doc__)
    parser.add_argument("step", choices=["generate", "judge", "report"])
    parser.add_argument("--out", type=Path, required=True, help="folder for images and answers")
    parser.add_argument("--runs", nargs="+", default=["plain", "replaced", "steered"], help="their graphs, or --graph")
    parser.add_argument("--objects", nargs="+", choices=OBJECTS, default=OBJECTS, metavar="OBJECT")
    parser.add_argument("--targets", nargs="+", choices=OBJECTS, metavar="OBJECT", help="to erase; default: all")
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=STYLES, metavar="STYLE")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--limit", type=int, help="images an object, the first seeds and styles")
    making = parser.add_argument_group("generate")
    making.add_argument("--server", default="http://127.0.0.1:8188", help="a running ComfyUI with the pack")
    making.add_argument("--graph", help="a workflow of your own, saved in API format, for all --runs")
    making.add_argument("--fill", nargs="*", default=[], metavar="NAME=VALUE", help="what $NAME in it stands for")
    asking = parser.add_argument_group("judge")
    asking.add_argument("--object-weights", type=Path, help="the classifier of 20 objects")
    asking.add_argument("--style-weights", type=Path, help="the classifier of 51 styles")
    asking.add_argument("--artifacts", metavar="COMMAND", help="says which images show artifacts; see README.md")
    asking.add_argument("--device", default="cpu")
    asking.add_argument("--batch", type=int, default=32)
    add_json(parser.add_argument_group("report"))
    return parser


def main() -> None:
    """Run one step."""
    if sys.argv[1:2] == ["stand-in"]:
        sys.argv.pop(1)
        return stand_in.main()
    parser = options()
    given = parser.parse_args()
    if given.step == "judge" and not (given.object_weights and given.style_weights):
        parser.error("judge needs --object-weights and --style-weights")
    {"generate": make, "judge": judge, "report": report}[given.step](given)
