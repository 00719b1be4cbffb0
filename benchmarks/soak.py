"""Does a server stay what it was? ``python dev/host benchmarks.soak --json docs/figures/soak.json``.

A real server runs 300 prompts: three workflows by turns, each SAE that ships, the model as it is and with a LoRA. Every
tenth is interrupted while it samples, every tenth ends in an error of another node in mid-sampling, and every
twenty-fifth time everything is unloaded. After each run the server's resident memory is noted.

Reported is by what a straight line through all that follows the warm-up rises, and whether the first prompt gives the
same pictures again at the end. ComfyUI's own history of what it ran is emptied after each run.
"""

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from live_server import LiveServer, failure
from load import ROOT
from safetensors.torch import save_file
from workflow import to_prompt

from ..demo_model import checkpoint
from ..demo_model.unet import UNET_CONFIG
from ..unet import blocks
from .framework import facts, storage

WORKFLOWS = ("quickstart", "detect_only", "compare_methods")
NODES = ROOT / "tests" / "support" / "server_nodes"
CHECKPOINT, LOADER, PATCHES = "ConceptErasureCanvasCheckpoint", "ConceptErasureSAELoader", "ConceptErasurePatchReplacer"
INTERRUPTED, FAILED, DONE = "interrupted", "failed", "done"
ENDLESS = 5000  # steps of a run that is interrupted
UNLOAD_EVERY = 25
MEBIBYTE = 2**20

Prompt = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """What one run of many is."""

    workflow: str
    sae: str
    lora: bool
    end: str


def turn(number: int, saes: Sequence[str]) -> Turn:
    """Return what a run is; any three neighbours have three workflows, and SAEs and models meet all of them."""
    end = {3: INTERRUPTED, 7: FAILED}.get(number % 10, DONE)
    sae = saes[number // len(WORKFLOWS) % len(saes)]
    return Turn(WORKFLOWS[number % len(WORKFLOWS)], sae, bool(number // 2 % 2), end)


def arranged(prompt: Prompt, what: Turn, seed: int, steps: int) -> Prompt:
    """Return a workflow's prompt, changed to what a run is."""
    changed: Prompt = json.loads(json.dumps(prompt))
    samplers = [node for node in changed.values() if node["class_type"] == "KSampler"]
    edited = [node for node in samplers if changed[node["inputs"]["model"][0]]["class_type"] == PATCHES]
    for node in changed.values():
        if node["class_type"] == LOADER:
            node["inputs"]["sae_file"] = what.sae
    for node in samplers:
        node["inputs"] |= {"seed": seed, "steps": steps}
    if what.lora:
        _put_between(changed, _only(changed, CHECKPOINT), "LoraLoaderModelOnly", lora_name="soak.safetensors")
    if what.end == INTERRUPTED:
        edited[-1]["inputs"]["steps"] = ENDLESS
    if what.end == FAILED:
        failing = {"model": edited[-1]["inputs"]["model"], "step": max(1, steps // 2)}
        changed["fails"] = {"class_type": "TestFailsAtAStep", "inputs": failing}
        edited[-1]["inputs"]["model"] = ["fails", 0]
    return changed


def _only(prompt: Prompt, kind: str) -> str:
    (found,) = (number for number, node in prompt.items() if node["class_type"] == kind)
    return found


def _put_between(prompt: Prompt, source: str, kind: str, **inputs: Any) -> None:
    """Put a node of a model behind the first output of another, for all that take it."""
    for node in prompt.values():
        taken = node["inputs"]
        taken.update({name: ["between", 0] for name, link in taken.items() if link == [source, 0]})
    prompt["between"] = {"class_type": kind, "inputs": {"model": [source, 0], "strength_model": 1.0, **inputs}}


def write_lora(path: Path) -> None:
    """Write a LoRA of random weights for the model that ships."""
    model, _, _ = checkpoint.load()
    name, width = next(iter(blocks.hookpoints(model).items()))
    made = torch.Generator().manual_seed(3)
    key = f"lora_unet_{name.replace('.', '_')}_transformer_blocks_0_attn2_to_k"
    lora = {
        f"{key}.lora_down.weight": torch.randn(4, UNET_CONFIG["context_dim"], generator=made),
        f"{key}.lora_up.weight": torch.randn(width, 4, generator=made),
        f"{key}.alpha": torch.tensor(4.0),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(lora, path)


class Soak:
    """A server, and what became of what it was given.

    Args:
        server: it runs, with the nodes of the tests and the LoRA.
        steps: of every sampler that ends.
    """

    def __init__(self, server: LiveServer, steps: int) -> None:
        self.server, self.steps = server, steps
        info = server.object_info()
        self.saes = [
            name for name in info[LOADER]["input"]["required"]["sae_file"][1]["options"] if name.startswith("shipped/")
        ]
        self.prompts = {
            name: to_prompt(json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8")), info)
            for name in WORKFLOWS
        }
        self.process = psutil.Process(server.pid)
        self.resident: list[float] = []
        self.ends: Counter[str] = Counter()

    def run(self, number: int) -> None:
        """Run a prompt and see that it ends as it should.

        Raises:
            RuntimeError: it ends otherwise.
        """
        what = turn(number, self.saes)
        prompt = self.server.submit(arranged(self.prompts[what.workflow], what, number, self.steps))
        if what.end == INTERRUPTED:
            # The progress bar of a sampler is written over one line: " 3%| ... | 61/5000".
            begun = len(self.server.log())
            sampling = re.compile(rf"[1-9]\d*/{ENDLESS}")
            self.server.wait_until(lambda: bool(sampling.search(self.server.log(), begun)), f"run {number} samples")
            self.server.post("/interrupt", {"prompt_id": prompt})
        entry = self.server.wait(prompt)
        end = DONE if entry["status"]["status_str"] == "success" else failure(entry)
        expected = {DONE: DONE, INTERRUPTED: "Interrupted in KSampler", FAILED: "KSampler"}[what.end]
        if not end.startswith(expected) or (what.end == FAILED and "made to fail" not in end):
            raise RuntimeError(f"run {number} ({what}) ended otherwise: {end}")
        self.ends[what.end] += 1
        self.server.post("/history", {"clear": True})
        if number % UNLOAD_EVERY == UNLOAD_EVERY - 1:
            self.server.forget()
        self.resident.append(self.process.memory_info().rss / MEBIBYTE)

    def pictures(self) -> str:
        """Return a digest of the first workflow's pictures, computed anew."""
        self.server.forget()
        first = turn(0, self.saes)
        shown = self.server.run(arranged(self.prompts[first.workflow], first, 0, self.steps))
        return hashlib.sha256(b"".join(png for node in sorted(shown) for png in shown[node])).hexdigest()


def report(soak: Soak, warm_up: int, before: str, after: str) -> dict[str, Any]:
    """Return what there is to say, as a file of figures holds it; see ``dev/figures``."""
    counted = soak.resident[warm_up:]
    slope = float(np.polyfit(np.arange(len(counted)), counted, 1)[0]) if len(counted) > 1 else 0.0
    columns = {
        **{end: soak.ends[end] for end in (DONE, INTERRUPTED, FAILED)},
        "least MiB": round(min(counted)),
        "most MiB": round(max(counted)),
        "line rises, MiB": round(slope * (len(counted) - 1), 1),
        "same pictures at the end": "yes" if before == after else "no",
    }
    return {
        "of": "prompts",
        "rows": [{"setting": str(len(soak.resident)), "columns": columns}],
        "notes": [f"Memory of the server, of the runs after the first {warm_up}; {soak.steps} steps a sampler."],
        "workflows": WORKFLOWS,
        "saes": soak.saes,
        "resident": [round(value, 1) for value in soak.resident],
    }


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=60, help="runs before those that count")
    parser.add_argument("--steps", type=int, default=4, help="of every sampler")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    made_by = facts.facts()  # before, so that what is edited meanwhile is not named
    with serving() as server:
        soak = Soak(server, given.steps)
        before = soak.pictures()
        for number in range(given.runs):
            soak.run(number)
            if number % 10 == 9:
                print(f"{number + 1} runs: {soak.resident[-1]:.1f} MiB", flush=True)
        found = report(soak, given.warm_up, before, soak.pictures())
    print(found["rows"][0]["columns"])
    if given.json:
        storage.write_json(given.json, {**made_by, **found})


def serving() -> LiveServer:
    """Return a server, not yet started, that has the tests' nodes and finds the LoRA."""
    folder = storage.folder("soak")
    write_lora(folder / "loras" / "soak.safetensors")
    paths = folder / "paths.yaml"
    # JSON is YAML, whatever the folder is called.
    paths.write_text(json.dumps({"soak": {"custom_nodes": str(NODES), "loras": str(folder / "loras")}}))
    return LiveServer("--extra-model-paths-config", str(paths))


if __name__ == "__main__":
    main()
