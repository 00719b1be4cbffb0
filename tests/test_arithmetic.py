"""Arithmetic on concepts, against what the words promise, patch by patch."""

import pytest
import torch
from support import calls
from support.scenes import patches_of_scenes

EDGES = (0.0, 500.0, 1000.0)


@pytest.fixture(scope="module")
def made(pack):
    """A small random SAE, some patch embeddings, and a maker of its concepts."""
    from concept_erasure.sae_models.concepts import Concept, ConceptBand
    from concept_erasure.sae_models.identity import SAEIdentity, digest
    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder

    torch.manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(8, 64, 12, "output_blocks.0.1")).requires_grad_(False)
    owner = SAEIdentity("small", digest(sae))

    def concept(name, latents, thresholds, combine="sum", edges=EDGES):
        scores = tuple(0.1 * (i + 1) for i in range(len(latents)))
        band = ConceptBand(latents, thresholds, scores, tuple(2 * score for score in scores))
        return Concept(name, edges, (band,) * (len(edges) - 1), combine, owner, ((latents[0], f"{name}'s first"),))

    return sae, 2 * torch.randn(3000, 8), concept


def evidence(sae, concept, x, timestep=100.0):
    """The rule as the documentation states it, from all latents."""
    band = concept.bands[concept.band_index(timestep)]
    dense = sae.encode_dense(x)
    total = (dense[:, list(band.features)] / torch.tensor(band.thresholds)).sum(-1)
    return total - (dense[:, list(band.against)] / torch.tensor(band.against_thresholds)).sum(-1)


def detected(sae, concept, x, timestep=100.0):
    return calls.detected(sae, concept.bands[concept.band_index(timestep)], concept.combine, 1.0, x)


@pytest.fixture(scope="module")
def cat(made):
    return made[2]("cat", (3, 17, 40, 5), (0.6, 1.0, 2.0, 0.9))


@pytest.fixture(scope="module")
def dog(made):
    return made[2]("dog", (17, 8, 22, 5), (0.5, 1.0, 0.7, 1.8))


def test_a_union_loses_nothing_and_adds_only_shared_evidence(made, cat, dog):
    from concept_erasure.sae_models.arithmetic import union

    sae, x, _ = made
    both = union(cat, dog)
    assert both.name == "cat or dog" and set(both.bands[0].features) == {3, 17, 40, 5, 8, 22}
    found, either = detected(sae, both, x), detected(sae, cat, x) | detected(sae, dog, x)
    assert (found | ~either).all() and either.float().mean() > 0.02
    added = found & ~either
    assert added.any()
    assert (evidence(sae, cat, x) + evidence(sae, dog, x))[added].min() > 1
    scores = dict(zip(both.bands[0].features, both.bands[0].scores, strict=True))
    assert scores[17] == pytest.approx(0.2) and scores[22] == pytest.approx(0.3)
    means = dict(zip(both.bands[0].features, both.bands[0].means, strict=True))
    assert means[17] == pytest.approx((0.4 + 0.2) / 2) and means[22] == pytest.approx(0.6)
    assert dict(both.feature_names) == {3: "cat's first", 17: "dog's first"}


def test_unions_of_single_latents_are_exact(made):
    from concept_erasure.sae_models.arithmetic import union

    sae, x, concept = made
    one, two = concept("one", (3, 17), (0.6, 0.8), "any"), concept("two", (17, 9), (0.4, 0.9), "any")
    expected = detected(sae, one, x) | detected(sae, two, x)
    assert torch.equal(detected(sae, union(one, two), x), expected) and expected.any()


def test_a_difference_is_the_first_where_the_second_has_less(made, cat, dog):
    from concept_erasure.sae_models.arithmetic import difference

    sae, x, _ = made
    only = difference(cat, dog)
    assert only.name == "cat but not dog" and only.sae == cat.sae
    found = detected(sae, only, x)
    mine, other = evidence(sae, cat, x), evidence(sae, dog, x)
    assert torch.equal(found, mine - other > 1)
    assert found.any() and (detected(sae, cat, x) & ~found).any()
    assert not (found & (other >= mine)).any() and (~found | detected(sae, cat, x)).all()
    assert 17 not in only.bands[0].features, "it counts more for the dog"
    scores = dict(zip(only.bands[0].features, only.bands[0].scores, strict=True))
    assert scores[5] == pytest.approx(0.4 - 0.4) and scores[3] == pytest.approx(0.1)


def test_a_difference_survives_the_file_and_a_second_subtraction(made, cat, dog, tmp_path):
    from concept_erasure.sae_models.arithmetic import difference
    from concept_erasure.sae_models.formats import concept_files

    sae, x, concept = made
    bird = concept("bird", (8, 30), (0.5, 0.5))
    only = difference(difference(cat, dog), bird)
    concept_files.save(tmp_path / "only.safetensors", only)
    loaded = concept_files.load(tmp_path / "only.safetensors").concept
    expected = evidence(sae, cat, x) - evidence(sae, dog, x) - evidence(sae, bird, x) > 1
    assert torch.equal(detected(sae, loaded, x), expected) and expected.any()


def test_latents_without_a_threshold(made):
    from concept_erasure.sae_models.arithmetic import difference

    sae, x, concept = made
    dense = sae.encode_dense(x)
    only = difference(concept("one", (3, 17), (0.0, 0.0), "any"), concept("two", (9, 17), (0.0, 0.0), "any"))
    expected = (dense[:, 3] > 0) & ~(dense[:, 9] > 0)
    assert torch.equal(detected(sae, only, x), expected) and expected.any()


def test_bands_of_both_are_kept(made, cat):
    from concept_erasure.sae_models.arithmetic import union

    thirds = made[2]("late", (50,), (1.0,), edges=(0.0, 300.0, 500.0, 1000.0))
    assert union(cat, thirds).band_edges == (0.0, 300.0, 500.0, 1000.0)


def test_what_makes_no_sense_is_refused(made, cat, dog):
    from concept_erasure.nodes import ConceptMath
    from concept_erasure.sae_models.arithmetic import difference
    from concept_erasure.sae_models.concepts import Concept
    from concept_erasure.sae_models.identity import SAEIdentity

    stranger = Concept("stranger", cat.band_edges, cat.bands, "sum", SAEIdentity("other", "0" * 64))
    cases = [
        ((cat, stranger, "union"), "made for small .*'stranger' for other .*Only concepts of one SAE"),
        ((cat, cat, "difference"), "nothing remains of 'cat'"),
        ((difference(cat, dog), cat, "union"), "Make the union first"),
        ((cat, difference(cat, dog), "difference"), "Take away its parts"),
    ]
    for inputs, message in cases:
        with pytest.raises(ValueError, match=rf"Concept Math: .*{message}.*inputs 'first' and 'second'"):
            ConceptMath.execute(*inputs)


def test_frog_but_not_sandwich_in_the_shipped_world(canvas):
    """On noised images with known places: the difference leaves the sandwich's patches alone and keeps the frog's."""
    from concept_erasure.nodes import ConceptMath, files
    from concept_erasure.unet.loading import load_sae

    files.register_folder()
    name = files.names()[0]
    sae = load_sae(files.resolve(name), name)
    frog, sandwich = sae.concept("frog"), sae.concept("sandwich")
    only = ConceptMath.execute(frog, sandwich, "difference").args[0]
    x, on_frog, on_sandwich = patches_of_scenes(canvas, sae.config.hookpoint, ("frog", "sandwich"))
    before, after = detected(sae.module, frog, x, 300.0), detected(sae.module, only, x, 300.0)
    assert before[on_sandwich].float().mean() > 0.3, "the frog's features fire on sandwiches too"
    assert after[on_sandwich].float().mean() < 0.03
    assert after[on_frog].float().mean() > 0.85 * before[on_frog].float().mean()
