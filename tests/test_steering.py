"""Steering does what the published formulas say, and leaves alone what it must."""

import numpy as np
import pytest
import torch
from support.demo_model import SMALL

D, L, K, N = 12, 40, 6, 30


@pytest.fixture(scope="module")
def sae(pack):
    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder

    torch.manual_seed(3)
    made = SparseAutoencoder(SAEConfig(D, L, K, "middle_block.1"), with_decoder=True)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def x():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def statistics(pack):
    from concept_erasure.steering.steering import FeatureStatistics

    return FeatureStatistics(
        torch.tensor([3, 17, 20]),
        torch.tensor([0.5, 1.5, 0.2]),
        torch.tensor([0.3, 0.0, 1.0]),
        torch.tensor([0.2, 0.6, 0.2]),
    )


def transcription(sae, statistics, method, strength, error, x):
    """The formulas in float64 numpy, written from the publications."""
    enc, bias = (p.double().numpy() for p in (sae.encoder.weight, sae.encoder.bias))
    dec, shift = (p.double().numpy() for p in (sae.decoder_weight, sae.decoder_bias))
    x = x.double().numpy()
    index, m, tau, scores = (t.double().numpy() for t in vars(statistics).values())
    index = index.astype(int)
    if method == "G-SAE":
        beta = np.linalg.norm(x, axis=1, keepdims=True) / np.linalg.norm(dec[index], axis=1)[None]
        return x + strength * (beta * (scores / scores.sum())) @ dec[index]
    if method == "additive":
        return x + strength * (m @ dec[index])
    a = (x - shift) @ enc.T + bias
    z = np.zeros_like(a)
    for row, values in enumerate(a):
        kept = np.argsort(-values)[:K]
        z[row, kept] = np.maximum(values[kept], 0)
    steered = z.copy()
    for j, i in enumerate(index):
        loud = (z[:, i] > tau[j]) & (z[:, i] > 0)
        steered[loud, i] = z[loud, i] * strength * m[j]
    decode = lambda latents: latents @ dec + shift  # noqa: E731
    rest = x - decode(z) if error == "exact" else decode(z) - x
    return decode(steered) + rest


@pytest.mark.parametrize("strength", [-5.0, 0.0, 3.0])
@pytest.mark.parametrize(
    ("method", "error"), [("SAeUron", "exact"), ("SAeUron", "reference"), ("G-SAE", "exact"), ("additive", "exact")]
)
def test_steering_follows_the_published_formula(sae, statistics, x, method, error, strength):
    from concept_erasure.steering.steering import Steering, steer_patches

    steered, changed = steer_patches(sae, statistics, Steering(method, strength, error), x)
    expected = transcription(sae, statistics, method, strength, error, x)
    np.testing.assert_allclose(steered.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert (steered[~changed] == x[~changed]).all()
    assert 0 < changed.sum() < N or method != "SAeUron" or error == "reference"


def test_means_and_thresholds_come_from_the_dictionary(pack):
    from concept_erasure.sae_models.concepts import ConceptBand
    from concept_erasure.steering.steering import FeatureStatistics

    taus = torch.arange(5.0)
    found = FeatureStatistics.of(ConceptBand((4, 1), (9.0, 9.0), (0.5, -1.0), (7.0, 8.0)), taus)
    assert found.thresholds.tolist() == [4.0, 1.0] and found.means.tolist() == [7.0, 8.0]
    assert found.scores.tolist() == [0.5, 0.0]
    typed = FeatureStatistics.of(ConceptBand((2,), (0.0,)), taus)
    assert typed.means.tolist() == [2.0] and typed.scores.tolist() == [1.0]
    with pytest.raises(ValueError, match="no mean activations"):
        FeatureStatistics.of(ConceptBand((2,), (0.0,)), None)


@pytest.fixture(scope="module")
def shipped(pack):
    from concept_erasure.nodes import files
    from concept_erasure.unet.loading import load_sae

    files.register_folder()
    return load_sae(files.resolve(files.names()[0]), files.names()[0])


def steered_run(canvas, shipped, **options):
    from concept_erasure.dev.demo_model.sampling import sample
    from concept_erasure.steering.attach import steer
    from concept_erasure.steering.steerer import SteeredConcept
    from concept_erasure.steering.steering import Steering

    span = {key: options.pop(key) for key in ("start", "end") if key in options}
    target = SteeredConcept(shipped, shipped.concept("cat"), **span)
    model, record = steer(canvas[0], target, Steering(**options))
    prompts = ["A cat image in photo style", "A tree image in neon style"]
    return sample(model, canvas[1], prompts, [7, 8], steps=4, size=SMALL), record, model


def plain_run(canvas):
    from concept_erasure.dev.demo_model.sampling import sample

    return sample(
        canvas[0], canvas[1], ["A cat image in photo style", "A tree image in neon style"], [7, 8], steps=4, size=SMALL
    )


def test_strength_zero_of_the_additive_ways_changes_nothing(canvas, shipped):
    for method in ("G-SAE", "additive"):
        latents, record, _ = steered_run(canvas, shipped, method=method, strength=0.0)
        assert torch.equal(latents, plain_run(canvas)) and record.latest.replaced() == 0


@pytest.mark.parametrize("method", ["SAeUron", "G-SAE", "additive"])
def test_steering_acts_and_is_recorded_and_repeatable(canvas, shipped, method):
    first, record, model = steered_run(canvas, shipped, method=method, strength=-0.5)
    again, _, _ = steered_run(canvas, shipped, method=method, strength=-0.5)
    assert torch.equal(first, again) and not torch.equal(first, plain_run(canvas))
    assert len(record.latest.sigmas()) == 4 and record.latest.replaced() > 0
    assert all(not module._forward_hooks for module in model.model.diffusion_model.modules())


def test_the_range_and_the_roles_are_kept(canvas, shipped):
    latents, record, _ = steered_run(canvas, shipped, start=0.3, end=0.3)
    assert torch.equal(latents, plain_run(canvas)) and record.latest.entries == {}
    _, record, _ = steered_run(canvas, shipped, apply_to="positive")
    assert {entry.role for entry in record.latest.entries.values()} == {"positive"}
    _, record, _ = steered_run(canvas, shipped, apply_to="both")
    assert {entry.role for entry in record.latest.entries.values()} == {"positive", "negative"}


def test_a_file_without_decoder_is_refused(canvas, shipped, tmp_path):
    from concept_erasure.sae_models.formats import native
    from concept_erasure.steering.attach import steer
    from concept_erasure.steering.steerer import SteeredConcept
    from concept_erasure.steering.steering import Steering
    from concept_erasure.unet.loading import load_sae

    sae = shipped.file.load()
    native.save(tmp_path / "encoder.safetensors", sae, shipped.dictionary)
    bare = load_sae(str(tmp_path / "encoder.safetensors"), "encoder.safetensors")
    with pytest.raises(ValueError, match=r"Feature Steering: the SAE encoder.safetensors .*no decoder"):
        steer(canvas[0], SteeredConcept(bare, bare.concept("cat")), Steering())


def test_means_survive_the_file(pack, sae, tmp_path):
    from concept_erasure.sae_models.concepts import Concept, ConceptBand, ConceptDictionary
    from concept_erasure.sae_models.formats import native

    bands = (ConceptBand((1, 2), (0.5, 0.5), (0.125, 0.25), (3.0, 4.0)),)
    dictionary = ConceptDictionary({"cat": Concept("cat", (0.0, 1000.0), bands)})
    native.save(tmp_path / "a.safetensors", sae, dictionary)
    assert native.SAEFile(tmp_path / "a.safetensors").dictionary().concepts["cat"].bands == bands
