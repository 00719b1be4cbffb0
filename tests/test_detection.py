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


def score(sae, bands, x, combine="sum", sensitivity=1.0, timestep=500.0):
    """What a scorer says: (mask, raw score, whether all is finite)."""
    from concept_erasure.erasure.scorer import ConceptScorer
    from concept_erasure.sae_models.concepts import Concept

    edges = torch.linspace(0, 1000, len(bands) + 1).tolist()
    scorer = ConceptScorer(sae, Concept("x", tuple(edges), tuple(bands), combine), sensitivity, x.device)
    found, finite = scorer(x, torch.tensor(timestep))
    return found.mask, found.raw_score, bool(finite)


def full_encode_reference(sae, band, combine, sensitivity, x):
    """The plain way: all features of all patches."""
    features = sae.encode_dense(x)[:, list(band.features)]
    relative = torch.where(features > 0, features / torch.tensor(band.thresholds), 0.0)
    return (relative.sum(-1) if combine == "sum" else relative.amax(-1)) * sensitivity > 1


@pytest.mark.parametrize("combine", ["sum", "any"])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 1.0, 50.0])
@pytest.mark.parametrize("sensitivity", [0.5, 1.0, 3.0])
def test_shortcut_equals_a_full_encode(made, combine, threshold, sensitivity):
    from concept_erasure.sae_models.concepts import ConceptBand

    sae, x = made
    band = ConceptBand((3, 17, 40), (threshold,) * 3)
    mask, raw, finite = score(sae, [band], x, combine, sensitivity)
    assert torch.equal(mask, full_encode_reference(sae, band, combine, sensitivity, x))
    assert finite and (raw[mask] > 1).all() and mask.any() == (threshold < 50)


@pytest.mark.parametrize("activation", ["topk", "topk_sigmoid", "groupmax", "relu", "jumprelu", "gated"])
@pytest.mark.parametrize("against", [(), (9, 40)])
def test_features_against_the_concept_take_away(pack, activation, against):
    from concept_erasure.sae_models.concepts import ConceptBand
    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder
    from concept_erasure.sae_models.scoring import band_score

    torch.manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(32, 64, 16, "output_blocks.0.1", activation=activation)).requires_grad_(False)
    if activation == "gated":
        sae.gate_scale.fill_(1.0)
    x = torch.randn(600, 32)
    band = ConceptBand((5, 20), (0.3, 0.3), against=against, against_thresholds=(0.5,) * len(against))
    mask, _, _ = score(sae, [band], x)
    assert torch.equal(mask, band_score(sae.encode_dense(x)[:, [5, 20, *against]], band, "sum") > 1)
    assert 0 < mask.sum() < 600


def test_elsewhere_than_on_a_cpu_every_patch_competes_to_the_same_end(made, monkeypatch):
    """There the patches that may hold the concept are not looked up, and all are encoded, some at a time."""
    from concept_erasure.erasure import scorer
    from concept_erasure.sae_models.concepts import Concept, ConceptBand

    sae, x = made
    monkeypatch.setattr(scorer, "MOST_AT_ONCE", 64 * 7)
    concept = Concept("x", (0.0, 1000.0), (ConceptBand((3, 17, 40), (0.2,) * 3),))
    one = scorer.ConceptScorer(sae, concept, 1.0, x.device)
    centered, wanted, limits = sae.center(x), torch.tensor([3, 17, 40]), torch.full((1, 3), 0.2)
    found, _ = one(x, torch.tensor(1.0))
    likely = found.raw_score[None] > 1

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    everywhere = one._compete(likely.as_subclass(Elsewhere), centered, wanted, limits)
    assert torch.equal(everywhere.as_subclass(torch.Tensor)[0], found.mask)


def test_each_timestep_band_has_its_own_features(made):
    """Bands of different length, read on the device; what lies outside belongs to the first or last."""
    from concept_erasure.sae_models.concepts import ConceptBand

    sae, x = made
    bands = [ConceptBand((40,), (0.1,)), ConceptBand((), ()), ConceptBand((17, 40, 9), (0.2, 0.1, 0.3))]
    bands.append(bands[0])
    # An edge belongs to the band above it, as in Concept.band_index.
    for timestep, band in ((-5, 0), (0, 0), (249.9, 0), (250, 1), (499, 1), (500, 2), (749, 2), (750, 3), (1500, 3)):
        mask, _, _ = score(sae, bands, x, timestep=float(timestep))
        expected = full_encode_reference(sae, bands[band], "sum", 1.0, x) if band != 1 else torch.zeros(500).bool()
        assert torch.equal(mask, expected) and mask.any() == (band != 1)


def test_sensitivity_zero_finds_nothing(made):
    from concept_erasure.sae_models.concepts import ConceptBand

    sae, x = made
    assert not score(sae, [ConceptBand((3,), (0.0,))], x, "any", 0.0)[0].any()


def test_nan_is_told(made):
    from concept_erasure.sae_models.concepts import ConceptBand

    sae, x = made
    for wrong in (torch.nan, torch.inf):
        broken = x.clone()
        broken[7, 3] = wrong
        mask, _, finite = score(sae, [ConceptBand((3,), (0.5,))], broken)
        assert not finite and len(mask) == len(x)


def test_topk_formula(made):
    """Against a transcription of the published formula in float64."""
    sae, x = made
    pre = (x - sae.decoder_bias).double() @ sae.encoder.weight.double().T + sae.encoder.bias.double()
    expected = torch.zeros_like(pre)
    for row, values in zip(expected, pre, strict=True):
        for feature in values.argsort(descending=True)[: sae.config.k]:
            row[feature] = max(values[feature], 0)
    assert torch.allclose(sae.encode_dense(x).double(), expected, atol=1e-5)
    reconstruction = expected @ sae.decoder_weight.double() + sae.decoder_bias.double()
    assert torch.allclose(sae(x).double(), reconstruction, atol=1e-4)


def test_bands_follow_the_timestep(pack):
    from concept_erasure.sae_models.concepts import Concept, ConceptBand

    bands = tuple(ConceptBand((i,), (1.0,)) for i in range(3))
    concept = Concept("x", (0.0, 100.0, 500.0, 1000.0), bands)
    assert [concept.band_index(t) for t in (-1, 0, 99.9, 100, 499, 500, 999, 2000)] == [0, 0, 0, 1, 1, 2, 2, 2]
