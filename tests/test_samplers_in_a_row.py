"""Two KSampler (Advanced) that share the steps of one image: what the help pages say of the second."""

import pytest
import torch

STEPS, HALF = 6, 3


@pytest.fixture(scope="module")
def sampled(canvas, sae):
    """Sample with a detection, in one sampler or in two: (latents, the records of the runs)."""
    from concept_erasure.demo_model.unet import UNET_CONFIG
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.replacement import Replacement

    import nodes as stock

    encode = stock.CLIPTextEncode().encode
    positive, negative = (encode(canvas[1], text)[0] for text in ("A cat image in photo style", ""))
    size = UNET_CONFIG["image_size"]

    def sample(tree, stops, blocks=(sae.config.hookpoint,), mode="similar"):
        model, record = attach(canvas[0], tree, Replacement(mode), blocks)
        latent, runs = {"samples": torch.zeros(1, 4, size, size)}, []
        with torch.inference_mode():
            for start, stop in zip((0, *stops), stops, strict=False):
                (latent,) = stock.KSamplerAdvanced().sample(
                    model, "disable" if start else "enable", 7, STEPS, 4.5, "euler", "normal", positive, negative,
                    latent, start, stop, "disable" if stop == STEPS else "enable",
                )  # fmt: skip
                runs.append(record.latest)
        return latent["samples"], runs

    return sample


@pytest.fixture
def found(sae):
    from concept_erasure.erasure.detection import Detector

    return Detector(sae, sae.concept("cat"), 2.0)


def test_together_they_make_the_image_of_one(sampled, found):
    """Where the SAE reads, with nothing that is remembered, each step is what it would have been."""
    whole, (run,) = sampled(found, (STEPS,))
    parted, runs = sampled(found, (HALF, STEPS))
    torch.testing.assert_close(parted, whole, atol=1e-4, rtol=1e-4)
    assert run.replaced() == sum(one.replaced() for one in runs) > 0
    assert [len(one.sigmas()) for one in runs] == [HALF, STEPS - HALF], "the second's record holds its own steps"


def test_the_second_does_not_know_what_persisted(sampled, found):
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    held = Refine(found, Refinement(persistence=1))
    _, (whole,) = sampled(held, (STEPS,), mode="none")
    _, (first, second) = sampled(held, (HALF, STEPS), mode="none")
    sigma = second.sigmas()[0]
    before, alone = whole.step_mask(sigma), second.step_mask(sigma)
    assert (before >= alone).all() and before.sum() > alone.sum()
    assert (before >= first.step_mask(first.sigmas()[-1])).all()
