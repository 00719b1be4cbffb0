"""Measure whether a server that runs one prompt after the other keeps memory.

``python dev/host benchmarks.queued_runs --runs 200`` prints what it keeps.

A real server runs workflows/quickstart.json over HTTP, each time with another seed and every tenth time with another
setting of the Patch Replacer too, so that a new patch is made while ComfyUI's cache still holds the old one. Printed is
the server's resident memory after a warm-up and at the end, and by what a straight line through all that lies between
rises over the whole. ``--without`` leaves all of the graph out that is not needed for the unedited image: what
grows there is ComfyUI's, which keeps a history of what it ran.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
from live_server import LiveServer
from load import ROOT
from workflow import to_prompt

WORKFLOW = ROOT / "workflows" / "quickstart.json"
UNEDITED, PATCH = "Without erasure", "ConceptErasurePatchReplacer"
CHANGES = 10
MEBIBYTE = 2**20

Prompt = dict[str, Any]


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=20, help="runs before those that count")
    parser.add_argument("--steps", type=int, default=20, help="of every KSampler")
    parser.add_argument("--without", action="store_true", help="run the graph without the pack's patch")
    parser.add_argument("--forget", action="store_true", help="let ComfyUI forget its history after each run")
    arguments = parser.parse_args()
    with LiveServer() as server:
        prompt = to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.object_info())
        if arguments.without:
            prompt = needed_for(prompt, UNEDITED)
        process, resident = psutil.Process(server.pid), []
        for number, variant in enumerate(variants(prompt, arguments.warm_up + arguments.runs, arguments.steps)):
            server.images(server.wait(server.submit(variant)))
            if arguments.forget:
                server.post("/history", {"clear": True})
            resident.append(process.memory_info().rss / MEBIBYTE)
            if number % CHANGES == 0:
                print(f"  run {number}: {resident[-1]:.1f} MiB", flush=True)
    report(resident, arguments.warm_up)


def needed_for(prompt: Prompt, title: str) -> Prompt:
    """Return the part of a prompt that the node of this title needs, itself included."""
    waiting = [node for node, found in prompt.items() if found["_meta"]["title"] == title]
    needed: Prompt = {}
    while waiting:
        node = waiting.pop()
        needed[node] = prompt[node]
        waiting += [value[0] for value in prompt[node]["inputs"].values() if isinstance(value, list)]
    return needed


def variants(prompt: Prompt, count: int, steps: int) -> Iterator[Prompt]:
    """Yield prompts, each with a seed of its own; every tenth brings another seed of the source patches too."""
    for number in range(count):
        for node in prompt.values():
            if node["class_type"] == "KSampler":
                node["inputs"] |= {"seed": number, "steps": steps}
            if node["class_type"] == PATCH:
                node["inputs"]["source_seed"] = number // CHANGES
        yield prompt


def report(resident: list[float], warm_up: int) -> None:
    """Print what resident memory did, in MiB a run; the first ``warm_up`` runs do not count."""
    counted = resident[warm_up - 1 :]
    slope = np.polyfit(np.arange(len(counted)), counted, 1)[0]
    print(
        f"{resident[0]:.1f} MiB after the first run, {counted[0]:.1f} after {warm_up}, {counted[-1]:.1f} after "
        f"{len(counted) - 1} more: {counted[-1] - counted[0]:+.1f} MiB (between {min(counted):.1f} and "
        f"{max(counted):.1f}; a straight line rises by {slope * (len(counted) - 1):+.1f})"
    )


if __name__ == "__main__":
    main()
