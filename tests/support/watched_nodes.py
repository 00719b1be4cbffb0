"""Load, save, sample, show and train through the nodes, and print what Python reported of it to an audit hook.

``python watched_nodes.py FOLDER DEV_HOST``; such a hook cannot be taken off again, hence a process of its own. FOLDER
has ``sae/``, ``input/``, ``output/`` and ``temp/``; printed is JSON: what was ``seen`` that must not be, and the files
that were ``written``.
"""

import json
import os
import sys
from pathlib import Path

base = Path(sys.argv[1])
sys.path.append(sys.argv[2])

import load  # noqa: E402

load.load_pack()

import comfy.sample  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from concept_erasure import nodes  # noqa: E402
from concept_erasure.dev.demo_model.sampling import empty_latents  # noqa: E402
from concept_erasure.nodes import files  # noqa: E402

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = (
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "pickle.find_class",
    "urllib.Request",
)
seen: list[list[str]] = []
watching = False
SMALL = (16, 16)  # cells of a latent: enough to run every node


def inside(path: object) -> bool:
    return not isinstance(path, (str, bytes, Path)) or Path(os.fsdecode(path)).resolve().is_relative_to(base)


def watch(event: str, args: tuple) -> None:
    """Note what the pack must not do."""
    if not watching:
        return
    bad = event.startswith(FORBIDDEN) or (event in CHANGES and not all(map(inside, args[:2])))
    if event == "open" and isinstance(args[2], int) and args[2] & WRITES:
        bad = args[0] != os.devnull and not inside(args[0])
    if bad:
        seen.append([event, repr(args)[:200]])


def work() -> None:
    """Use every node that reads or writes files, and sample."""
    model, clip, vae = nodes.CanvasCheckpoint.execute().args
    for name in files.names():
        sae = nodes.SAELoader.execute(name).args[0]
        nodes.SaveSAE.execute(sae, "saved " + name.replace("/", " ").removesuffix(".safetensors"))
    sae = nodes.SAELoader.execute(files.names()[0]).args[0]
    detection, concept = nodes.ConceptDetector.execute(sae, "cat", 1.0, 0.0, 1.0, "", "union").args
    nodes.SaveConcept.execute(concept, "cat")
    folder_paths.filename_list_cache.clear()
    nodes.LoadConcept.execute("concepts/cat.safetensors")
    settings = ("similar", "middle and SAE block", 0.25, "positive", 0, "")
    patched, record = nodes.PatchReplacer.execute(model, detection, *settings).args
    prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("A cat image", "")]
    latent = empty_latents(1, SMALL)
    samples = comfy.sample.sample(
        patched, torch.randn(latent.shape), 2, 4.5, "euler", "normal", *prompts, latent, seed=1, disable_pbar=True
    )
    image = vae.decode(samples)
    nodes.DetectionPreview.execute(record, image, 1, "any step")
    nodes.ErasureReport.execute(record, image, 1)
    inputs = {spec.id: getattr(spec, "default", None) for spec in nodes.SAETrainer.define_schema().inputs}
    inputs |= {"model": model, "clip": clip, "latent": {"samples": empty_latents(4, SMALL)}, "name": "trained"}
    inputs |= {
        "prompts": "A cat image\nA dog image",
        "images": 12,
        "steps": 4,
        "train_steps": 10,
        "features": 256,
        "k": 8,
    }
    with torch.inference_mode():
        nodes.SAETrainer.execute(**inputs)


folder_paths.folder_names_and_paths["sae"] = ([str(base / "sae")], set(files.EXTENSIONS))
folder_paths.set_output_directory(str(base / "output"))
folder_paths.set_temp_directory(str(base / "temp"))
folder_paths.set_input_directory(str(base / "input"))
# What torch loads of itself when it is first used is none of the pack's doing.
torch.optim.SGD([torch.zeros(1, requires_grad=True)]).step()
sys.addaudithook(watch)
watching = True
work()
watching = False
written = sorted(path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file())
print(json.dumps({"seen": seen, "written": written}))
