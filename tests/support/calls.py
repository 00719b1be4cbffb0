"""Sampling runs and calls of a UNet, made by hand, and an observer that writes down what it sees."""

from types import SimpleNamespace

import torch

from .demo_model import SMALL


def run_of(images=1, size=SMALL):
    """A run whose share of the sampling range is counted backwards in sigma: 0 is sigma 10, 1 is sigma 0."""
    from concept_erasure.unet.calls import Run

    return Run(7, tuple(range(images)), size, lambda percent: 10.0 * (1 - percent), 10.0)


def call_of(
    run, sigma=5.0, timestep=500.0, step=1, device="cpu", roles=("negative", "positive"), key="s", size=(16, 16)
):
    """A call that holds all images of a run once for each role."""
    from concept_erasure.unet.calls import Call, Chunk

    images = tuple(range(run.images))
    chunks = [
        Chunk(slice(i * run.images, (i + 1) * run.images), role, (key, role), images) for i, role in enumerate(roles)
    ]
    level, time = (torch.tensor(float(value), device=device) for value in (sigma, timestep))
    return Call(run, step, step, level, time, tuple(chunks), size)


def detector(hookpoint="a", start=0.0, end=1.0):
    """A detector whose SAE only has a hookpoint."""
    from concept_erasure.erasure.detection import Detector

    return Detector(SimpleNamespace(config=SimpleNamespace(hookpoint=hookpoint)), None, 1.0, start, end)


def answer(mask, active=None):
    """A detection whose raw score is its mask, [B, H, W]."""
    from concept_erasure.erasure.detection import Detection

    mask = torch.as_tensor(mask, dtype=torch.bool)
    return Detection(mask, mask.float(), active)


def watch(*hookpoints):
    """An observer that keeps (hookpoint, x, output, call) of all it sees in ``seen``."""
    from concept_erasure.unet.hooks import Observer

    class Watch(Observer):
        def __init__(self):
            self.seen = []

        @property
        def hookpoints(self):
            return list(hookpoints)

        def on_block(self, hookpoint, x, output, call):
            self.seen.append((hookpoint, x.clone(), output.clone(), call))
            return output

    return Watch()


def picture(*rows):
    """A mask drawn with # and ., bool [1, H, W]."""
    return torch.tensor([[[character == "#" for character in row] for row in rows]])


def drawn(mask):
    """The first mask of [B, H, W] as ``picture`` takes it."""
    return ["".join("#" if character else "." for character in row) for row in mask[0].tolist()]


def detected(sae, band, combine, sensitivity, x):
    """Which patches [N, D] hold what one timestep band of a concept describes, bool [N]."""
    from concept_erasure.erasure.scorer import ConceptScorer
    from concept_erasure.sae_models.concepts import Concept

    scorer = ConceptScorer(sae, Concept("x", (0.0, 1000.0), (band,), combine), sensitivity, x.device)
    return scorer(x, torch.tensor(1.0))[0].mask
