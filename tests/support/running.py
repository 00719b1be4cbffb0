"""The pack's nodes and ComfyUI's sampler, run in this process with few words."""

from typing import Any

import torch

from .demo_model import SMALL, latents

IMAGES = 12
PROMPTS = "A cat image in photo style\nA dog image in photo style\nAn image of a cat and a tree in neon style"


def detect(nodes, sae, **inputs):
    """Run the Concept Detector with its defaults and some changes."""
    defaults = {
        "concept": "cat",
        "sensitivity": 1.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "features": "",
        "join_mode": "union",
    }
    return nodes.ConceptDetector.execute(sae, **{**defaults, **inputs}).args


def train(nodes, canvas, **changed):
    """Run the SAE Trainer as ComfyUI does, small."""
    inputs = {spec.id: getattr(spec, "default", None) for spec in nodes.SAETrainer.define_schema().inputs}
    latent = {"samples": latents(4)}
    small = {"images": IMAGES, "steps": 4, "train_steps": 30, "features": 256, "k": 8, "prompts": PROMPTS}
    with torch.inference_mode():
        return nodes.SAETrainer.execute(
            **{**inputs, "model": canvas[0], "clip": canvas[1], "latent": latent, **small, **changed}
        )


def sample(canvas, model, count=1, size=SMALL):
    """Sample through ComfyUI's own KSampler node."""
    import comfy.sample

    encode = canvas[1].encode_from_tokens_scheduled
    positive, negative = (encode(canvas[1].tokenize(text)) for text in ("A cat image in photo style", ""))
    latent = latents(count, size)
    noise = comfy.sample.prepare_noise(latent, 5)
    return comfy.sample.sample(
        model, noise, 4, 4.5, "euler", "normal", positive, negative, latent, seed=5, disable_pbar=True
    )


def whole_layers() -> Any:
    """ComfyUI's layers, each with its weights: its own Linear has none before they are loaded, with dynamic memory."""
    import comfy.ops

    class Layers(comfy.ops.disable_weight_init):
        Linear = torch.nn.Linear

    return Layers
