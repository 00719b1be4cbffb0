"""The result as a table for people."""

from collections.abc import Iterator, Mapping
from typing import Any


def table(result: Mapping[str, Any]) -> str:
    """Return the result of ``run`` in Markdown."""
    machine, measured = result["host"], result["measured"]
    lines = [
        f"{machine['gpu'] or 'CPU'}, torch {machine['torch']}, ComfyUI {machine['comfyui']}, {result['dtype']}",
        "",
    ]
    for kind in result["settings"]:
        for part in ("steps", "compiled"):
            if part in measured.get(kind, {}):
                lines += [*_steps(f"{kind}, {part}", measured[kind][part]), ""]
        if {"waiting", "memory"} & measured.get(kind, {}).keys():
            lines += [*_device(kind, measured[kind]), ""]
    if "training" in measured:
        found = measured["training"]
        lines += [f"SAE training, patches a second: {_spread(found['patches_a_second'], 0)}", ""]
    lines += [f"Skipped for lack of time: {name}" for name in result["skipped"]]
    lines += [f"Failed: {name}: {why}" for name, why in result["failed"].items()]
    return "\n".join(lines)


def _steps(title: str, found: Mapping[str, Any]) -> Iterator[str]:
    yield f"| {title} | milliseconds a step: median (quartiles) | x bare (quartiles) |"
    yield "|---|---|---|"
    for way, each in found.items():
        if isinstance(each, dict):
            yield f"| {way} | {_spread(each['milliseconds'], 2)} | {_spread(each['to_bare'], 3)} |"
    if found["detected_share"] is not None:
        yield f"\n{found['detected_share']:.1%} of all patches are detected. {found.get('note', '')}".rstrip()


def _device(kind: str, found: Mapping[str, Any]) -> Iterator[str]:
    yield f"| {kind} | waits for the GPU a step | and once a run | peak memory, MiB |"
    yield "|---|---|---|---|"
    waiting, memory = found.get("waiting", {}), found.get("memory", {})
    for way in waiting or memory:
        waits = waiting.get(way, {})
        cells = [_number(waits.get("a_step")), _number(waits.get("once")), _number(memory.get(way))]
        yield f"| {way} | {' | '.join(cells)} |"


def _spread(found: Mapping[str, Any], places: int) -> str:
    low, high = found["quartiles"]
    return f"{found['median']:.{places}f} ({low:.{places}f} to {high:.{places}f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
