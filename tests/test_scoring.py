"""From statistics to a dictionary: weights that find the concept, thresholds that keep the background out."""

import pytest
import torch


@pytest.fixture
def patches(pack):
    """Forty latents on 4,000 patches: 3 fires louder and 9 fires only where the concept is, the rest say nothing."""
    draw = torch.Generator().manual_seed(0)
    inside = torch.rand(4000, generator=draw) < 0.1
    noise = torch.rand(4000, 40, generator=draw) * (torch.rand(4000, 40, generator=draw) < 0.2)
    fires = inside & (torch.rand(4000, generator=draw) < 0.5)
    noise[:, 3] = torch.rand(4000, generator=draw) * torch.where(inside, 3.0, 0.5)
    noise[:, 9] = 30 * torch.rand(4000, generator=draw) * fires
    return noise, inside


def test_weights_prefer_the_latents_that_find_the_concept(patches):
    from concept_erasure.sae_models.scoring import fitted_weights, roc_auc

    activations, inside = patches
    weights = fitted_weights(activations, inside)
    contributions = weights * activations[inside].mean(0)
    assert set(contributions.topk(2).indices.tolist()) == {3, 9}
    assert weights.min() >= 0 and (weights == 0).sum() > 20
    assert (activations @ weights)[inside].mean() == pytest.approx(1.0, rel=1e-4)
    fitted, equal = ((activations @ w) for w in (weights, torch.ones(40)))
    assert roc_auc(fitted[inside], fitted[~inside]) > roc_auc(equal[inside], equal[~inside]) + 0.05


def test_weights_are_the_same_where_the_host_forbids_gradients(patches):
    """ComfyUI runs nodes in inference mode."""
    from concept_erasure.sae_models.scoring import fitted_weights

    activations, inside = patches
    expected = fitted_weights(activations, inside)
    with torch.inference_mode():
        assert torch.equal(fitted_weights(activations.clone(), inside.clone()), expected)


def test_latents_that_say_nothing_still_give_usable_weights(pack):
    from concept_erasure.sae_models.scoring import fitted_weights

    activations, inside = torch.zeros(50, 3), torch.arange(50) < 5
    assert torch.isfinite(fitted_weights(activations, inside)).all()


def test_thresholds_keep_the_background_out(patches):
    from concept_erasure.sae_models.scoring import calibrated_band, concept_score, fitted_weights

    activations, inside = patches
    weights = fitted_weights(activations, inside)
    background = activations[~inside] @ weights
    indices = torch.arange(40)
    band = calibrated_band(indices, indices / 40, indices * 2.0, weights, background, 0.98)
    assert len(band.features) == int((weights > 0).sum()) and 3 in band.features and 9 in band.features
    assert band.means == tuple(2.0 * i for i in band.features)
    detected = concept_score(activations[:, list(band.features)], torch.tensor(band.thresholds), "sum") > 1
    assert detected[~inside].float().mean() == pytest.approx(0.02, abs=0.003)
    assert detected[inside].float().mean() > 0.5
