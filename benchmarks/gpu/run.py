"""``python dev/host benchmarks.gpu``: measure all parts within a time, print a table, write a file; see README.md."""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ..framework.facts import facts
from .device import ROOT, machine
from .parts import TINY_TRAINING, Training, compiled, memory, steps, training, waiting
from .subjects import FULL, TINY, Subject
from .table import notes, rows, table

OUT = ROOT / "docs" / "figures" / "gpu.json"
COMPILED = "compiled"


@dataclass(frozen=True)
class Part:
    """Something to measure.

    Attributes:
        place: where it goes in the file.
        needs: seconds that must be left for it to begin.
        measure: what does it.
    """

    place: tuple[str, ...]
    needs: float
    measure: Callable[[], Any]

    @property
    def name(self) -> str:
        """What it is called."""
        return " ".join(self.place)


def parts(tiny: bool, device: torch.device) -> list[Part]:
    """Return what to measure, the most wanted first; what takes longest, or may fail, is last."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    subjects = [Subject(setting, device, dtype) for setting in (TINY if tiny else FULL)]
    # To build code for a GPU is the point there; on a CPU only that it runs, which one model shows.
    backend = "inductor" if device.type == "cuda" else "eager"
    limit = 1.0 if tiny else 25.0
    found, last = [], []
    for number, subject in enumerate(subjects, 1):
        kind, longer = subject.setting.kind, 0 if tiny else number
        found += [
            Part((kind, "steps"), 30 * longer, lambda subject=subject: steps(subject, limit)),
            Part((kind, "waiting"), 10 * longer, lambda subject=subject: waiting(subject)),
            Part((kind, "memory"), 10 * longer, lambda subject=subject: memory(subject)),
        ]
        last.append(Part((kind, COMPILED), 90 * longer, lambda subject=subject: compiled(subject, limit, backend)))
    learning = TINY_TRAINING if tiny else Training()
    found.append(Part(("training",), 0 if tiny else 40, lambda: training(learning, device, limit)))
    return [*found, *(last[:1] if tiny else last)]


def measure(todo: list[Part], minutes: float, result: dict[str, Any], keep: Callable[[], object]) -> None:
    """Measure parts one after the other, and call ``keep`` after each.

    Args:
        todo: what.
        minutes: a part that may not end within them is skipped.
        result: where it goes; what was skipped or failed is named in it.
        keep: writes the result down.
    """
    started = time.monotonic()
    for part in todo:
        left = 60 * minutes - (time.monotonic() - started)
        if left <= part.needs:
            result["skipped"].append(part.name)
            continue
        print(f"{part.name} ...", flush=True)
        try:
            found = part.measure()
        except Exception as error:  # one that fails, such as torch.compile without a compiler, leaves the others
            result["failed"][part.name] = f"{type(error).__name__}: {error}"[:500]
        else:
            inner = result["measured"]
            for name in part.place[:-1]:
                inner = inner.setdefault(name, {})
            inner[part.place[-1]] = found
        keep()
    result["seconds"] = round(time.monotonic() - started, 1)
    keep()


def described(tiny: bool, device: torch.device) -> dict[str, Any]:
    """Return the result before anything is measured: what, where and how."""
    dtype = "float16" if device.type == "cuda" else "float32"
    settings = {setting.kind: asdict(setting) for setting in (TINY if tiny else FULL)}
    return {
        **facts(),
        "what": "sampling steps, waiting, memory and SAE training with random weights" + (", tiny" if tiny else ""),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(device),
        "dtype": dtype,
        "of": "UNet, way",
        "settings": settings,
        "measured": {},
        "skipped": [],
        "failed": {},
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the file, with the table that pages show."""
    result |= {"rows": rows(result), "notes": notes(result)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def options() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", default=OUT, help="the file to write")
    parser.add_argument("--minutes", type=float, default=8.0, help="what does not fit is skipped, and named")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that all parts run; a CPU will do")
    return parser


def main() -> None:
    """Measure, print and write."""
    given = options().parse_args()
    device = comfy.model_management.get_torch_device()
    if not given.tiny and device.type != "cuda":
        raise SystemExit("There is no GPU that this torch can use. --tiny tries everything on the CPU.")
    if device.type == "cpu":
        # Tiny models gain nothing from more threads, and on a busy machine these wait for each other.
        torch.set_num_threads(1)
    result = described(given.tiny, device)
    measure(parts(given.tiny, device), given.minutes, result, lambda: write(given.json, result))
    print(table(result))
    print(f"Written to {given.json}")
