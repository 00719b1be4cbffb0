"""Drawn scenes of the demo model, looked at through its UNet: patches of which it is known what they show."""

from itertools import islice

import torch

from .demo_model import GRID


def patches_of_scenes(canvas, hookpoint, names, count=24, timestep=300.0):
    """Patch embeddings at a timestep of scenes with one of two objects, and which patches each covers."""
    import numpy as np
    from concept_erasure.dev.demo_model import scenes
    from concept_erasure.dev.demo_model.sampling import denoise_once
    from concept_erasure.unet.capture import Capture
    from concept_erasure.unet.hooks import attach_observer

    model, clip, vae = canvas
    rendered = map(scenes.render, scenes.HELD_OUT)
    drawn = list(islice((scene for scene in rendered if set(names) & set(scene.objects)), count))
    capture = Capture([hookpoint])
    latents = vae.encode(torch.from_numpy(np.stack([scene.image for scene in drawn])).float() / 255)
    captions = [scene.caption for scene in drawn]
    denoise_once(attach_observer(model, capture), clip, latents, captions, timestep, seed=0)
    (seen,) = capture.take()
    empty = np.zeros((GRID, GRID), np.float32)
    cover = [torch.from_numpy(np.stack([s.masks.get(name, empty) for s in drawn])) for name in names]
    covered = [torch.nn.functional.adaptive_avg_pool2d(mask, seen.grid).flatten() > 0.5 for mask in cover]
    return seen.embeddings.flatten(0, 1).float(), *covered
