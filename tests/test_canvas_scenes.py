"""The demo model's scenes: the same from the same seed, masks where the objects are, splits apart."""

import itertools

import numpy as np
import pytest
from support.demo_model import FACTOR, GRID, SIDE


@pytest.fixture(scope="module")
def scenes(pack):
    from concept_erasure.dev.demo_model import scenes

    return scenes


@pytest.fixture(scope="module")
def vocabulary(pack):
    from concept_erasure.demo_model import vocabulary

    return vocabulary


def test_a_seed_always_gives_the_same_scene(scenes):
    first, again, other = (scenes.render(seed) for seed in (7, 7, 8))
    assert first.caption == again.caption
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_choosing_the_content_keeps_the_rest_of_the_seed(scenes):
    drawn = scenes.render(11)
    chosen = scenes.render(11, drawn.objects, drawn.style)
    assert np.array_equal(drawn.image, chosen.image)


def test_the_mask_lies_where_the_object_changes_the_picture(scenes):
    """Where the mask is full the empty scene looks different; where it is empty, hardly."""
    with_cat, empty = (scenes.render(3, objects, "photo") for objects in (("cat",), ()))
    changed = (
        np.abs(with_cat.image.astype(int) - empty.image)
        .mean(axis=-1)
        .reshape(GRID, FACTOR, GRID, FACTOR)
        .mean(axis=(1, 3))
    )
    mask = with_cat.masks["cat"]
    assert mask.shape == (GRID, GRID) and mask.min() >= 0 and 0.9 < mask.max() <= 1 and mask.mean() < 0.5
    # The vignette's strength is drawn last, so it differs a little everywhere.
    assert changed[mask > 0.9].mean() > 2 * changed[mask == 0].mean()


def test_pairs_overlap_little_and_both_stay_visible(scenes):
    for seed in range(scenes.VALIDATION.start, scenes.VALIDATION.start + 30):
        scene = scenes.render(seed, ("dog", "tree"))
        assert set(scene.masks) == {"dog", "tree"}
        assert all(mask.mean() > 1 / 64 for mask in scene.masks.values()), seed
        assert sum(scene.masks.values()).max() <= 1 + 1e-5


def test_every_object_and_style_can_be_drawn(scenes, vocabulary):
    for name in vocabulary.OBJECTS:
        assert scenes.render(1, (name,)).image.shape == (SIDE, SIDE, 3)
    pictures = [scenes.render(1, ("cat",), style).image for style in vocabulary.STYLES]
    assert len({picture.tobytes() for picture in pictures}) == len(vocabulary.STYLES)


@pytest.mark.parametrize("objects", [("unicorn",), ("cat", "cat"), ("cat", "dog", "tree")])
def test_impossible_scenes_are_refused(scenes, objects):
    with pytest.raises(ValueError, match="none, one or two different objects"):
        scenes.render(0, objects)


def test_an_unknown_style_is_refused(scenes):
    with pytest.raises(ValueError, match="No style 'cubism'"):
        scenes.render(0, (), "cubism")


def test_the_splits_share_no_seed(scenes):
    splits = (scenes.TRAIN, scenes.VALIDATION, scenes.HELD_OUT)
    edges = sorted((split.start, split.stop) for split in splits)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(edges))


def test_captions(vocabulary):
    caption = vocabulary.caption
    assert caption(("cat", "dog"), "photo") == "A cat and a dog image in photo style"
    assert caption(("architecture",), None) == "An architecture image"
    assert caption((), "neon") == "An empty scene in neon style"
