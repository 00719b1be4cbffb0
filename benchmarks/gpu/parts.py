"""What is measured: each part returns what goes into the file."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...sae_models.sae import SAEConfig
from ...training.settings import TrainingSettings
from ...training.team import Team
from ...training.trainer import Trainer
from ..timing import alternate, ratios
from .device import clock_of, peak_memory, synchronizations
from .subjects import BARE, Subject

ROUNDS = 15
UNCOMPILED = (
    "With the pack or the published hooks attached, a UNet from TorchCompileModel runs uncompiled (unet/hooks.py says "
    "why), so only 'bare' is compiled here."
)


def described(samples: Sequence[float]) -> dict[str, Any]:
    """Return samples with their median and quartiles."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return {"samples": list(samples), "median": middle, "quartiles": [low, high]}


def steps(subject: Subject, seconds: float, backend: str = "") -> dict[str, Any]:
    """Measure a sampling step in each way, in turn.

    Args:
        subject: which model.
        seconds: after which no further round begins.
        backend: of torch.compile; "" leaves the model as it is.
    """
    ways = subject.ways(subject.compiled(backend) if backend else subject.model)
    actions = {name: subject.sampling(model) for name, model in ways.items()}
    times = alternate(actions, ROUNDS, clock_of(subject.device), seconds)
    found: dict[str, Any] = {}
    for name, values in times.items():
        milliseconds = [1000 * value / subject.setting.steps for value in values]
        found[name] = {"milliseconds": described(milliseconds), "to_bare": described(ratios(values, times[BARE]))}
    return found | {"detected_share": subject.detected_share()}


def compiled(subject: Subject, seconds: float, backend: str) -> dict[str, Any]:
    """Measure the same with a model that goes through torch.compile."""
    return steps(subject, seconds, backend) | {"note": UNCOMPILED}


def waiting(subject: Subject) -> dict[str, Any]:
    """Count how often the CPU waits for the GPU in each way, a step and once a run; None on a CPU.

    The lines of code are those that wait more often than without the pack.
    """
    found: dict[str, Any] = {}
    usual, bare = subject.setting.steps, Counter[str]()
    for name, model in subject.ways(subject.model).items():
        subject.sample(model)
        first, second = (_waits(subject, model, count) for count in (usual, 2 * usual))
        if name == BARE:
            bare = first
        if subject.device.type != "cuda":
            found[name] = {"a_step": None, "once": None, "lines": None}
            continue
        one, two = first.total(), second.total()
        found[name] = {"a_step": (two - one) / usual, "once": 2 * one - two, "lines": dict(first - bare)}
    return found


def _waits(subject: Subject, model: Any, count: int) -> Counter[str]:
    with synchronizations(subject.device) as found:
        subject.sample(model, count)
    return found


def memory(subject: Subject) -> dict[str, Any]:
    """Measure the most memory in use in each way, MiB; None on a CPU."""
    ways = subject.ways(subject.model)
    return {name: peak_memory(subject.device, subject.sampling(model, 2)) for name, model in ways.items()}


@dataclass(frozen=True)
class Training:
    """An SAE to train, and by how many patches a step."""

    width: int = 1280
    features: int = 20480
    k: int = 32
    batch: int = 4096
    patches: int = 65536
    steps: int = 10


TINY_TRAINING = Training(64, 256, 8, 128, 1024, 2)


def training(setting: Training, device: torch.device, seconds: float) -> dict[str, Any]:
    """Measure how many patches a second the pack's trainer takes, on random activations that are on the device."""
    made = torch.Generator(device).manual_seed(0)
    patches = torch.randn(setting.patches, setting.width, generator=made, device=device).half()
    config = SAEConfig(setting.width, setting.features, setting.k, "output_blocks.4.1")
    settings = TrainingSettings(
        steps=20_000, batch=setting.batch, learning_rate=0.0, aux_k=256, dead_after=1_000_000, bfloat16=True
    )
    trainer = Trainer(config, settings, patches[: setting.batch].cpu(), Team(device))

    def advance() -> None:
        for _ in range(setting.steps):
            rows = torch.randint(len(patches), (setting.batch,), generator=made, device=device)
            trainer.advance(patches[rows])

    times: list[float] = []
    peak = peak_memory(device, lambda: times.extend(alternate({"": advance}, ROUNDS, clock_of(device), seconds)[""]))
    return {
        "setting": asdict(setting) | {"dtype": "bfloat16"},
        "patches_a_second": described([setting.steps * setting.batch / each for each in times]),
        "peak_mib": peak,
    }
