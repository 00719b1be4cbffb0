"""The result as the rows of a table: for people, and for the pages that show ``docs/figures/``."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...dev.figures.entries import heading, line, shown

STEP, TO_BARE, WAITS, WAITS_ONCE = "ms a step", "of bare", "waits a step", "waits once a run"
MEMORY, TRAINED = "peak memory, MiB", "patches a second"
COLUMNS = (STEP, TO_BARE, WAITS, WAITS_ONCE, MEMORY, TRAINED)


def rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of what ``run`` measured, as the files of ``docs/figures/`` have them."""
    measured = result["measured"]
    found: list[dict[str, Any]] = []
    for kind in result["settings"]:
        for way, columns in _ways(measured.get(kind, {})).items():
            found.append({"setting": f"{kind}, {way}", "columns": columns})
    if "training" in measured:
        found.append({"setting": "SAE training", "columns": _spread(TRAINED, measured["training"]["patches_a_second"])})
    return found


def table(result: Mapping[str, Any]) -> str:
    """Return the result of ``run`` in Markdown."""
    lines = [heading(result["of"], *COLUMNS)]
    for row in result["rows"]:
        lines.append(line(row["setting"], *(shown(row["columns"].get(column)) for column in COLUMNS)))
    return "\n".join([*lines, "", *result["notes"]])


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return what must stand below the table, a sentence each."""
    machine = result["machine"]
    gpu = f"{machine['gpu']}, driver {machine['driver']}" if machine["gpu"] else "No GPU, models of tiny size"
    said = [f"{gpu}. Medians, with quartiles in brackets."]
    for kind in result["settings"]:
        share = result["measured"].get(kind, {}).get("steps", {}).get("detected_share")
        said += [] if share is None else [f"{kind}: {share:.1%} of all patches are detected."]
    said += [f"Skipped for lack of time: {name}." for name in result["skipped"]]
    return said + [f"Failed: {name}: {why}." for name, why in result["failed"].items()]


def _ways(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was measured of one UNet in each way; compiled ways are ways of their own."""
    ways: dict[str, dict[str, Any]] = {}
    for part, prefix in (("steps", ""), ("compiled", "compiled, ")):
        for way, times in _times(found.get(part, {})):
            columns = _spread(STEP, times["milliseconds"]) | _spread(TO_BARE, times["to_bare"])
            ways.setdefault(f"{prefix}{way}", {}).update(columns)
    for way, waits in found.get("waiting", {}).items():
        ways.setdefault(way, {}).update({WAITS: waits["a_step"], WAITS_ONCE: waits["once"]})
    for way, peak in found.get("memory", {}).items():
        ways.setdefault(way, {})[MEMORY] = None if peak is None else round(peak)
    return ways


def _times(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each way of a part that has times, and leave out what else the part says."""
    return ((way, each) for way, each in found.items() if isinstance(each, dict))


def _spread(column: str, found: Mapping[str, Any]) -> dict[str, str]:
    """Return a column's cell: median and quartiles of samples."""
    low, high = found["quartiles"]
    return {column: f"{found['median']:.4g} ({low:.4g} to {high:.4g})"}
