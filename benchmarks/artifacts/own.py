"""A judge of the user's own.

``--judge`` of ``benchmarks.comparison`` takes ``module:function``, called with a list of image files and returning a
score for each, or a command that gets the files as arguments and prints a score a line. Above 0.5 there are artifacts.
"""

import importlib
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...reports.preview import to_pil
from ..framework.runs import ArtifactJudge

NAME = "own judge"

OwnJudge = Callable[[list[Path]], list[float]]


def own_judge(spelled: str) -> OwnJudge:
    """Return a judge of image files out of ``module:function`` or a command."""
    module, _, name = spelled.partition(":")
    if name and module.replace(".", "").replace("_", "").isalnum():
        function: OwnJudge = getattr(importlib.import_module(module), name)
        return function

    def ask(paths: list[Path]) -> list[float]:
        command = [*shlex.split(spelled), *map(str, paths)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        if len(said) != len(paths):
            raise ValueError(f"the judge {spelled!r} gave {len(said)} scores for {len(paths)} images")
        return [float(score) for score in said]

    return ask


def found(spelled: str, images: Tensor, folder: Path) -> list[bool]:
    """Return which images a judge finds artifacts in; they are written into a folder as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}.png" for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        to_pil(image).save(path)
    return [score > 0.5 for score in own_judge(spelled)(paths)]


@dataclass(frozen=True)
class _Also:
    judge: ArtifactJudge
    spelled: str
    folder: Path

    def found(self, images: Tensor, styles: Sequence[str | None]) -> dict[str, list[bool]]:
        return {**self.judge.found(images, styles), NAME: found(self.spelled, images, self.folder)}


def also(judge: ArtifactJudge, spelled: str, folder: Path) -> ArtifactJudge:
    """Return a judge of artifacts that asks the user's own as well, if there is one.

    Args:
        judge: the measures of this project.
        spelled: see ``own_judge``; "" for none.
        folder: where its images are written.
    """
    return _Also(judge, spelled, folder) if spelled else judge
