"""What opening a published SAE costs: peak memory and time, against reading the file whole.

``nox -s run -- benchmarks.loading`` writes files of SAeUron's size (1280 x 20480) with random weights and opens each in
fresh processes, the ways in turn. Times are with the file in the system's cache, as after a download. It reads Linux's
accounts of memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
WIDTH, LATENTS = 1280, 20480
BLOCK = "unet.up_blocks.1.attentions.1"

# What a loader does that builds the whole module, then copies all tensors of the file into it.
WHOLE = """
module = torch.nn.Module()
module.encoder = torch.nn.Linear({width}, {latents}, dtype=dtype)
module.W_dec = torch.nn.Parameter(module.encoder.weight.data.clone())
module.b_dec = torch.nn.Parameter(torch.zeros({width}, dtype=dtype))
module.load_state_dict(read(weights))
"""
MEASURE = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import load_file
from sae_models.formats import open_sae
torch.empty(1).half().float().aminmax()
weights, dtype = Path(sys.argv[2]), getattr(torch, sys.argv[3])

def read(path):
    if path.suffix == ".safetensors":
        return load_file(path)
    held = torch.load(path, weights_only=True)["state_dict"]
    names = {{"latent_bias": "encoder.bias", "pre_bias": "b_dec", "decoder.weight": "W_dec"}}
    return {{names.get(key, key): value.T if key == "decoder.weight" else value for key, value in held.items()
            if key != "stats_last_nonzero"}}

def memory(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(kind)))

# The highest mark so far is that of importing torch; begin a new one.
Path("/proc/self/clear_refs").write_text("5")
now, own, started = memory("VmRSS"), memory("RssAnon"), time.perf_counter()
{action}
seconds = time.perf_counter() - started
print(json.dumps([seconds, memory("VmHWM") - now, memory("RssAnon") - own]))
"""


def write(folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write the same weights as SAeUron and as sdxl-unbox lay them out; return the two files of weights."""
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(LATENTS, WIDTH, generator=generator).to(dtype) for _ in range(2))
    zeros = {"encoder.bias": torch.zeros(LATENTS, dtype=dtype), "b_dec": torch.zeros(WIDTH, dtype=dtype)}
    first, second = folder / "saeuron" / BLOCK, folder / "unbox" / BLOCK
    for path in (first, second):
        path.mkdir(parents=True)
    save_file({"encoder.weight": encoder, "W_dec": decoder, **zeros}, first / "sae.safetensors")
    (first / "cfg.json").write_text(json.dumps({"k": 32, "d_in": WIDTH, "num_latents": LATENTS}))
    held = {"encoder.weight": encoder, "decoder.weight": decoder.T.contiguous(), "pre_bias": zeros["b_dec"]}
    held |= {"latent_bias": zeros["encoder.bias"], "stats_last_nonzero": torch.zeros(LATENTS, dtype=torch.long)}
    torch.save({"state_dict": held}, second / "state_dict.pth")
    (second / "config.json").write_text(json.dumps({"k": 10, "d_model": WIDTH, "n_dirs_local": LATENTS}))
    return [first / "sae.safetensors", second / "state_dict.pth"]


def measure(weights: Path, dtype: str, action: str) -> tuple[float, float, float]:
    """Return seconds, peak MiB, and MiB of the process's own that remain, of one way in a fresh process."""
    code = MEASURE.format(action=action.format(width=WIDTH, latents=LATENTS))
    command = [sys.executable, "-c", code, str(ROOT), str(weights), dtype]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, peak, own = json.loads(done.stdout)
    return seconds, peak / 1024, own / 1024


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    # On a CPU ComfyUI's loader asks for float32; on a GPU it leaves the file's type.
    ways = {
        "whole file": WHOLE,
        "encoder": "sae = open_sae(weights.parent, 'output_blocks.4.1').load()",
        "encoder, widened": "sae = open_sae(weights.parent, 'output_blocks.4.1').load(dtype=torch.float32)",
    }
    print(f"{WIDTH} x {LATENTS}, median (least to most) of {rounds}. Peak includes pages mapped from the file.")
    print("| file | way | seconds | peak MiB | kept MiB |\n|---|---|---|---|---|")
    for dtype in ("float32", "float16"):
        with tempfile.TemporaryDirectory() as folder:
            for weights in write(Path(folder), getattr(torch, dtype)):
                results: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
                for _ in range(rounds):
                    for way, action in ways.items():
                        results[way].append(measure(weights, dtype, action))
                for way, rows in results.items():
                    cells = [
                        f"{statistics.median(column):.{digits}f} ({min(column):.{digits}f} to {max(column):.{digits}f})"
                        for column, digits in zip(zip(*rows, strict=True), (2, 0, 0), strict=True)
                    ]
                    size = weights.stat().st_size / 2**20
                    print(f"| {weights.name}, {dtype}, {size:.0f} MiB | {way} | {' | '.join(cells)} |", flush=True)
