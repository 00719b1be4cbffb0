"""The shipped judges on scenes they never saw, and a floor under the generator."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def scenes(pack):
    """120 held-out scenes, and which objects each shows."""
    from concept_erasure.demo_model.vocabulary import OBJECTS
    from concept_erasure.dev.demo_model.scenes import HELD_OUT, render

    drawn = [render(seed) for seed in HELD_OUT[50_000:50_120]]
    truth = torch.tensor([[name in scene.objects for name in OBJECTS] for scene in drawn])
    return drawn, truth


def images_of(drawn):
    return torch.from_numpy(np.stack([scene.image for scene in drawn])).float() / 255


def test_objects_and_styles_on_held_out_scenes(judge, scenes):
    from concept_erasure.demo_model.vocabulary import STYLES

    drawn, truth = scenes
    objects, styles = judge.classify(images_of(drawn))
    assert objects.shape == (120, 20) and styles.shape == (120, len(STYLES))
    assert ((objects > judge.threshold) == truth).float().mean() >= 0.97
    assert torch.allclose(styles.sum(1), torch.ones(120), atol=1e-4)
    wanted = torch.tensor([STYLES.index(scene.style) for scene in drawn])
    assert (styles.argmax(1) == wanted).float().mean() >= 0.97


def test_what_the_vae_gives_back_is_still_recognised(judge, scenes, canvas):
    drawn, truth = scenes
    vae = canvas[2]
    objects, _ = judge.classify(vae.decode(vae.encode(images_of(drawn[:32]))))
    assert ((objects > judge.threshold) == truth[:32]).float().mean() >= 0.97


def test_each_object_is_found_where_it_is(judge, scenes):
    """Mean intersection over union of the cells, and nothing where no object is."""
    from concept_erasure.demo_model.vocabulary import OBJECTS

    drawn, _ = scenes
    *_, found = judge.look(images_of(drawn))
    found = found > judge.area_threshold
    overlaps = []
    for scene, cells in zip(drawn, found, strict=True):
        for name, mask in scene.masks.items():
            ours, true = cells[OBJECTS.index(name)], torch.from_numpy(mask > 0.3)
            overlaps.append(float((ours & true).sum() / (ours | true).sum().clamp(min=1)))
    assert np.mean(overlaps) >= 0.75
    cat = OBJECTS.index("cat")
    assert torch.equal(judge.masks(images_of(drawn[:3]), "cat"), found[:3, cat])
    without = [i for i, scene in enumerate(drawn) if "cat" not in scene.objects]
    assert found[without, cat].float().mean() < 0.01


def test_other_sizes_are_judged_too(judge):
    objects, styles = judge.classify(torch.rand(2, 192, 128, 3))
    assert objects.shape == (2, 20) and styles.isfinite().all()


@pytest.mark.research
def test_the_generator_draws_what_the_prompt_says(judge, canvas):
    """A floor under every object, each in another style; docs/canvas.md has the figures."""
    from concept_erasure.demo_model.vocabulary import OBJECTS, STYLES, caption
    from concept_erasure.dev.demo_model.sampling import generate

    wanted = [(name, i % len(STYLES)) for i, name in enumerate(OBJECTS)]
    prompts = [caption((name,), STYLES[style]) for name, style in wanted]
    objects, styles = judge.classify(generate(*canvas, prompts, range(100, 100 + len(prompts))))
    right = [bool(objects[i, OBJECTS.index(name)] > judge.threshold) for i, (name, _) in enumerate(wanted)]
    assert sum(right) >= 18
    assert (styles.argmax(1) == torch.tensor([style for _, style in wanted])).sum() >= 19


@pytest.mark.research
def test_the_generator_draws_two_objects(judge, canvas):
    from concept_erasure.demo_model.vocabulary import OBJECTS, caption
    from concept_erasure.dev.demo_model.sampling import generate

    pairs = [(OBJECTS[i], OBJECTS[19 - i]) for i in range(10)]
    objects, _ = judge.classify(generate(*canvas, [caption(pair, "photo") for pair in pairs], range(200, 210)))
    both = [all(objects[i, OBJECTS.index(name)] > judge.threshold for name in pair) for i, pair in enumerate(pairs)]
    assert sum(both) >= 7
