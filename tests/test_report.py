"""The Erasure Report, and the numbers it is made of."""

import pytest
import torch
from support.demo_model import SAE_FILE, SMALL

# Of a Patch Replacer: replace_at, source_share, apply_to, source_seed, blocks.
SETTINGS = ("middle and SAE block", 0.25, "positive", 0, "")


@pytest.fixture(scope="module")
def nodes(pack):
    from concept_erasure import nodes
    from concept_erasure.nodes import files

    files.register_folder()
    return nodes


@pytest.fixture(scope="module")
def sae(nodes):
    return nodes.SAELoader.execute(SAE_FILE).args[0]


def sampled(canvas, model):
    """Two pictures of a cat, through ComfyUI's sampler."""
    from concept_erasure.dev.demo_model.sampling import generate

    return generate(model, canvas[1], canvas[2], ["A cat image in photo style"] * 2, (3, 4), steps=12, size=SMALL)


@pytest.fixture(scope="module")
def runs(nodes, sae, canvas):
    """Name -> (record, pictures) of an unedited, a replaced and a wildly steered run."""
    detection, concept = nodes.ConceptDetector.execute(sae, "cat", 1.0, 0.0, 1.0, "", "union").args
    models = {
        "none": nodes.PatchReplacer.execute(canvas[0], detection, "none", *SETTINGS).args,
        "random": nodes.PatchReplacer.execute(canvas[0], detection, "random", *SETTINGS).args,
        "steered": nodes.FeatureSteering.execute(
            canvas[0], sae, concept, "SAeUron", -300.0, "exact", "both", 0.0, 1.0
        ).args,
    }
    return {name: (record, sampled(canvas, model)) for name, (model, record) in models.items()}


def report(nodes, runs, name, tiles=3, with_reference=True):
    record, image = runs[name]
    reference, before = runs["none"] if with_reference else (None, None)
    return nodes.ErasureReport.execute(record, image, tiles, reference, before)


def test_statistics_of_a_feature_map(pack):
    from concept_erasure.erasure.statistics import BINS, REACH, statistics_of

    x = torch.zeros(2, 8, 3, 5)
    x[0, 0], x[1, 0] = 4.0, 0.5
    found = statistics_of(x)
    assert found.norms.shape == (2, 15) and torch.equal(found.norms, torch.tensor([[2.0], [-1.0]]).expand(2, 15))
    assert found.counts.sum(1).tolist() == [120, 120] and found.counts[:, BINS // 2].tolist() == [105, 105]
    place = int((torch.tensor(4.0).asinh() + REACH) / (2 * REACH) * BINS)
    assert found.counts[0, place] == 15 and found.counts[1, place] == 0


def test_patches_that_changed_places_need_not_be_looked_at_again(pack):
    from dataclasses import replace

    from concept_erasure.erasure.replacement import replace_patches
    from concept_erasure.erasure.statistics import statistics_of

    before = torch.randn(2, 32, 3, 5)
    source = torch.arange(15).repeat(2, 1)
    source[1, [0, 7]] = torch.tensor([7, 2])
    after = statistics_of(replace_patches(before, source))
    moved = replace(statistics_of(before), source=source)
    assert torch.equal(moved.norms, after.norms) and torch.equal(moved.counts, after.counts)
    assert not torch.equal(moved.norms, statistics_of(before).norms)
    assert torch.equal(moved.of([1]).norms, after.norms[1:])


def test_distance(pack):
    from concept_erasure.erasure.statistics import distance

    unedited = torch.tensor([0.0, 1.0, 2.0, 3.0])
    same = distance([(unedited.flip(0), unedited)])
    assert (same.norm_shift, same.outside) == (0.0, 0.0)
    moved = distance([(unedited + 2, unedited), (unedited, unedited)])
    assert (moved.norm_shift, moved.outside) == (1.0, 0.25)


def test_replacement_stays_in_distribution_and_wild_steering_does_not(nodes, runs):
    replaced, steered = (report(nodes, runs, name).args[1].splitlines() for name in ("random", "steered"))
    assert len(replaced) == len(steered) == 2
    assert all(line.startswith("In distribution") for line in replaced), replaced
    assert all(line.startswith("OUT OF DISTRIBUTION") for line in steered), steered


def test_the_verdict_fits_the_figure_that_is_shown(pack):
    from concept_erasure.erasure.statistics import Distance
    from concept_erasure.reports.erasure_report import Verdict

    for outside, said in ((0.1004, "In distribution: 10.0%"), (0.1006, "OUT OF DISTRIBUTION: 10.1%")):
        assert Verdict(Distance(0.0, outside), 0.3, "the unedited run").sentence().startswith(said)


def test_an_unedited_run_is_no_distance_from_itself(nodes, runs):
    assert "In distribution: 0.0%" in report(nodes, runs, "none").args[1]
    assert "0.0% of the image was edited" in report(nodes, runs, "none").args[1]


def test_without_a_reference_the_block_itself_is_the_measure(nodes, runs):
    output = report(nodes, runs, "random", with_reference=False)
    assert output.args[1].count("In distribution: 0.0%") == 2, "replacement only moves embeddings about"
    assert "OUT OF DISTRIBUTION" in report(nodes, runs, "steered", with_reference=False).args[1]
    shown = output.ui if isinstance(output.ui, dict) else output.ui.as_dict()
    assert shown["images"] and "In distribution" in shown["text"][0]


def test_the_picture(nodes, runs):
    picture = report(nodes, runs, "random").args[0]
    assert picture.shape[0] == 2 and picture.shape[3] == 3 and picture.shape[1] > 500 and picture.shape[2] > 900
    assert picture.min() >= 0 and picture.max() <= 1
    assert not torch.equal(picture[0], picture[1]), "each picture has its own report"
    assert not torch.equal(picture, report(nodes, runs, "steered").args[0])


def test_what_does_not_belong_together(nodes, runs, sae, canvas):
    record, image = runs["random"]
    with pytest.raises(ValueError, match=r"Erasure Report: input 'image' holds 1 image\(s\).*made 2"):
        nodes.ErasureReport.execute(record, image[:1], 3)
    with pytest.raises(ValueError, match=r"input 'image_before' holds 1"):
        nodes.ErasureReport.execute(record, image, 3, None, image[:1])
    detection = nodes.ConceptDetector.execute(sae, "cat", 1.0, 0.0, 0.0, "", "union").args[0]
    model, empty = nodes.PatchReplacer.execute(canvas[0], detection, "none", *SETTINGS).args
    with pytest.raises(ValueError, match=r"belongs to input 'reference' has not been sampled"):
        nodes.ErasureReport.execute(record, image, 3, empty)
    sampled(canvas, model)
    with pytest.raises(ValueError, match=r"Erasure Report: .*no block and step in common.*'reference'"):
        nodes.ErasureReport.execute(record, image, 3, empty)
