"""The mathematics of detection on small tensors."""

import pytest
import torch


@pytest.fixture(scope="module")
def made(pack):
    """A random SAE with some biases, and patch embeddings."""
    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder

    torch.manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(8, 64, 4, "output_blocks.0.1"), with_decoder=True)
    torch.nn.init.normal_(sae.decoder_bias)
    torch.nn.init.normal_(sae.decoder_weight)
    return sae.requires_grad_(False), torch.randn(500, 8)


def full_encode_reference(sae, band, combine, sensitivity, x):
    """The plain way: all latents of all patches."""
    latents = sae.encode_dense(x)[:, list(band.latents)]
    relative = torch.where(latents > 0, latents / torch.tensor(band.thresholds), 0.0)
    return (relative.sum(-1) if combine == "sum" else relative.amax(-1)) * sensitivity > 1


@pytest.mark.parametrize("combine", ["sum", "any"])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 1.0, 50.0])
@pytest.mark.parametrize("sensitivity", [0.5, 1.0, 3.0])
def test_shortcut_equals_a_full_encode(made, combine, threshold, sensitivity):
    from concept_erasure.erasure.detection import detect_patches
    from concept_erasure.sae_models.concepts import ConceptBand

    sae, x = made
    band = ConceptBand((3, 17, 40), (threshold,) * 3)
    found = detect_patches(sae, band, combine, sensitivity, x).detected
    assert torch.equal(found, full_encode_reference(sae, band, combine, sensitivity, x))
    assert found.any() == (threshold < 50)


@pytest.mark.parametrize("activation", ["topk", "topk_sigmoid"])
@pytest.mark.parametrize("against", [(), (9, 4000)])
def test_a_large_sae_is_not_asked_in_full_for_every_patch(pack, activation, against):
    from concept_erasure.erasure.detection import MANY, Detector, band_score
    from concept_erasure.sae_models.concepts import ConceptBand
    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder

    torch.manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(64, MANY, 32, "output_blocks.0.1", activation=activation)).requires_grad_(False)
    x = torch.randn(600, 64)
    # Latents that are loud in the first patches win there; elsewhere they are merely above their thresholds.
    sae.encoder.weight[[5, 2000]] = x[:2] * 0.05
    x[:60] += x[0] + x[1]
    band = ConceptBand((5, 2000), (0.3, 0.3), against=against, against_thresholds=(0.5,) * len(against))
    asked = []
    sae.encoder.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    look = Detector(sae, band, "sum", 1.0, x.device)(x)
    assert 0 < sum(asked) < (look.likeness > 1).sum() / 2, "most candidates are ruled out by an eighth of the latents"
    chosen = [*band.latents, *against]
    assert torch.equal(look.detected, band_score(sae.encode_dense(x)[:, chosen], band, "sum") > 1)
    assert 0 < look.detected.sum() < 600


def test_sensitivity_zero_finds_nothing(made):
    from concept_erasure.erasure.detection import detect_patches
    from concept_erasure.sae_models.concepts import ConceptBand

    sae, x = made
    assert not detect_patches(sae, ConceptBand((3,), (0.0,)), "any", 0.0, x).detected.any()


def test_nan_is_an_error(made):
    from concept_erasure.erasure.detection import detect_patches
    from concept_erasure.sae_models.concepts import ConceptBand
    from concept_erasure.unet.calls import NonFiniteActivations

    sae, x = made
    broken = x.clone()
    broken[7, 3] = torch.nan
    with pytest.raises(NonFiniteActivations):
        detect_patches(sae, ConceptBand((3,), (0.5,)), "sum", 1.0, broken)


def test_topk_formula(made):
    """Against a transcription of the published formula in float64."""
    sae, x = made
    pre = (x - sae.decoder_bias).double() @ sae.encoder.weight.double().T + sae.encoder.bias.double()
    expected = torch.zeros_like(pre)
    for row, values in zip(expected, pre, strict=True):
        for latent in values.argsort(descending=True)[: sae.config.k]:
            row[latent] = max(values[latent], 0)
    assert torch.allclose(sae.encode_dense(x).double(), expected, atol=1e-5)
    reconstruction = expected @ sae.decoder_weight.double() + sae.decoder_bias.double()
    assert torch.allclose(sae(x).double(), reconstruction, atol=1e-4)


def test_bands_follow_the_timestep(pack):
    from concept_erasure.sae_models.concepts import Concept, ConceptBand

    bands = tuple(ConceptBand((i,), (1.0,)) for i in range(3))
    concept = Concept("x", (0.0, 100.0, 500.0, 1000.0), bands)
    assert [concept.band_index(t) for t in (-1, 0, 99.9, 100, 499, 500, 999, 2000)] == [0, 0, 0, 1, 1, 2, 2, 2]


def leaf(hookpoint="a"):
    """A leaf whose SAE only has a hookpoint."""
    from types import SimpleNamespace

    from concept_erasure.erasure.detection import Detect

    return Detect(SimpleNamespace(config=SimpleNamespace(hookpoint=hookpoint)), None)


def look(mask):
    """What a leaf says whose likeness is its mask."""
    from concept_erasure.erasure.detection import Look

    mask = torch.as_tensor(mask, dtype=torch.bool)
    return Look(mask, mask.float())


@pytest.mark.parametrize(("mode", "expected"), [("union", [1, 1, 1, 0]), ("intersection", [0, 1, 0, 0])])
def test_joins(pack, mode, expected):
    from concept_erasure.erasure.detection import Join
    from concept_erasure.erasure.masks import MaskState

    first, second = leaf(), leaf("b")
    state = MaskState(Join(mode, first, second), lambda _leaf, _sigma: True)
    state.update(first, "s", look([[[1, 1], [0, 0]]]))
    state.update(second, "s", look([[[0, 1], [1, 0]]]))
    assert state.mask("s", 1.0, (2, 2)).flatten().int().tolist() == expected
    assert state.mask("another stream", 1.0, (2, 2)) is None
    assert state.likeness("s", 1.0, (2, 2)).flatten().tolist() == [1, 1, 1, 0], "the higher of the two"


def test_nothing_counts_before_enough_of_an_image_was_detected_at_once(pack):
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.masks import MaskState
    from concept_erasure.erasure.refinement import Refinement

    source = leaf()
    state = MaskState(Refine(source, Refinement(least_share=0.5)), lambda _leaf, _sigma: True)

    def step(sigma, *images):
        state.update(source, "s", look(images))
        return state.mask("s", sigma, (2, 2)).flatten(1).int().tolist()

    one, two = [[1, 0], [0, 0]], [[1, 0], [0, 1]]
    assert step(9.0, one, two) == [[0, 0, 0, 0], [1, 0, 0, 1]], "half of the cells is enough, a quarter is not"
    assert step(8.0, one, one) == [[0, 0, 0, 0], [1, 0, 0, 0]], "once open, an image stays open"
    assert step(7.0, two, one) == [[1, 0, 0, 1], [1, 0, 0, 0]]
    state.update(source, "another stream", look([one]))
    assert not state.mask("another stream", 7.0, (2, 2)).any()


def test_persistence_counts_noise_levels_not_calls(pack):
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.masks import MaskState
    from concept_erasure.erasure.refinement import Refinement

    source = leaf()
    state = MaskState(Refine(source, Refinement(persistence=2)), lambda _leaf, _sigma: True)
    seen = torch.ones(1, 1, 1, dtype=torch.bool)

    def step(sigma, mask):
        state.update(source, "s", look(mask))
        return bool(state.mask("s", sigma, (1, 1)))

    assert step(9.0, seen) and step(9.0, seen)
    assert not step(8.0, ~seen), "two calls at one noise level count once"
    assert step(7.0, seen)
    assert step(6.0, ~seen), "seen at two noise levels, it stays"
