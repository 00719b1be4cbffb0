"""The masks of a sampling run: joined, refined on the detectors' grid, carried from step to step."""

import pytest
import torch
from support.calls import answer, detector, drawn, picture, run_of


def state_of(tree, run=None):
    from concept_erasure.erasure.masks import MaskState

    return MaskState(tree, run or run_of())


def mask_of(state, grid, key="s", sigma=1.0, images=None):
    """The mask that a block with a grid gets."""
    from concept_erasure.erasure.refinement import resize_mask

    found = state.mask(key, torch.tensor(sigma), images)
    return None if found is None else resize_mask(found, grid)


def refined(source, **settings):
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    return Refine(source, Refinement(**settings))


def dot(height, width, row, column):
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, row, column] = True
    return mask


@pytest.mark.parametrize(("mode", "expected"), [("union", [1, 1, 1, 0]), ("intersection", [0, 1, 0, 0])])
def test_joins(pack, mode, expected):
    from concept_erasure.erasure.detection import Join

    first, second = detector(), detector("b")
    state = state_of(Join(mode, first, second))
    state.update(first, "s", answer([[[1, 1], [0, 0]]]))
    assert (mask_of(state, (2, 2)) is None) == (mode == "intersection"), "not looked is nothing in common"
    state.update(second, "s", answer([[[0, 1], [1, 0]]]))
    assert mask_of(state, (2, 2)).flatten().int().tolist() == expected
    assert mask_of(state, (2, 2), "another") is None
    assert state.raw_score("s", (2, 2)).flatten().tolist() == [1, 1, 1, 0], "the higher of the two"


@pytest.mark.parametrize("grids", [((16, 16), (8, 8)), ((32, 32), (16, 16)), ((12, 20), (6, 10))])
def test_a_setting_means_the_same_at_every_block(pack, grids):
    """SD1.5 detects on 16 x 16 and also edits in the middle, on 8 x 8: what is done is decided once."""
    (height, width), small = grids
    source = detector()
    for settings, share_of_patches in (({"grow": 1}, 9), ({"min_patches": 2}, 0), ({"min_patches": 1}, 1)):
        state = state_of(refined(source, **settings))
        state.update(source, "s", answer(dot(height, width, 4, 4)))
        at_home, below = mask_of(state, grids[0]), mask_of(state, small)
        assert at_home.sum() == share_of_patches
        # A square of three patches from the third on touches two coarse ones in each direction, a single patch one.
        assert below.sum() == {9: 4, 0: 0, 1: 1}[share_of_patches]


def test_a_small_blob_kept_at_home_is_kept_in_the_middle(pack):
    source = detector()
    state = state_of(refined(source, min_patches=2))
    state.update(source, "s", answer(dot(16, 16, 4, 4) | dot(16, 16, 4, 5)))
    assert mask_of(state, (16, 16)).sum() == 2 and mask_of(state, (8, 8)).sum() == 1


def test_stray_patches_do_not_open_an_image_in_the_middle(pack):
    """Four of 256 patches are 1.6 %, though they touch 6 % of a coarser grid."""
    source = detector()
    state = state_of(refined(source, min_area=0.05))
    stray = dot(16, 16, 0, 0) | dot(16, 16, 0, 8) | dot(16, 16, 8, 0) | dot(16, 16, 8, 8)
    state.update(source, "s", answer(stray))
    assert not mask_of(state, (8, 8)).any() and not mask_of(state, (16, 16)).any()


@pytest.mark.parametrize("coarse_first", [True, False])
def test_detectors_of_different_grids_meet_on_the_finest(pack, coarse_first):
    from concept_erasure.erasure.detection import Join

    first, second = detector("a"), detector("b")
    state = state_of(refined(Join("union", first, second), grow=1))
    sizes = ((8, 8), (16, 16)) if coarse_first else ((16, 16), (8, 8))
    for each, (height, width) in zip((first, second), sizes, strict=True):
        state.update(each, "s", answer(dot(height, width, height // 2, width // 2)))
    # The coarse dot is two fine patches wide, and is grown by one fine patch.
    assert state.mask("s", torch.tensor(1.0), None).shape == (1, 16, 16)
    assert mask_of(state, (16, 16)).sum() == 16
    assert state.raw_score("s", (16, 16)).sum() == 4 and state.raw_score("s", (8, 8)).sum() == 1


def test_a_refiner_works_on_the_grid_of_its_own_detectors(pack):
    """What it does does not depend on what it is joined with later."""
    from concept_erasure.erasure.detection import Join

    coarse, fine = detector("a"), detector("b")
    state = state_of(Join("union", refined(coarse, grow=1), fine))
    state.update(coarse, "s", answer(dot(8, 8, 4, 4)))
    state.update(fine, "s", answer(torch.zeros(1, 16, 16)))
    assert mask_of(state, (16, 16)).sum() == 36


def test_the_order_of_the_settings(pack):
    """Holes are closed before specks are dropped, and the region comes last."""
    source = detector()
    gap = picture("#.#.....", "........", "........", "........")
    state = state_of(refined(source, close=1, min_patches=3))
    state.update(source, "s", answer(gap))
    assert drawn(mask_of(state, (4, 8)))[0] == "###.....", "closed, the two specks are one group of three"
    region = torch.zeros(1, 4, 8)
    region[:, :, :4] = 1
    state = state_of(refined(source, grow=1, region=region))
    state.update(source, "s", answer(dot(4, 8, 2, 3)))
    assert drawn(mask_of(state, (4, 8))) == ["........", "..##....", "..##....", "..##...."], "grown, then cut"


def test_a_region_for_each_image_follows_it_into_a_window(pack):
    source = detector()
    region = torch.zeros(3, 4, 4)
    for image in range(3):
        region[image, image] = 1
    state = state_of(refined(source, region=region), run_of(images=3))
    state.update(source, "all", answer(torch.ones(3, 4, 4)))
    assert mask_of(state, (4, 4), "all", images=(0, 1, 2)).any(2).int().argmax(1).tolist() == [0, 1, 2]
    state.update(source, "window", answer(torch.ones(2, 4, 4)))
    assert mask_of(state, (4, 4), "window", images=(2, 1)).any(2).int().argmax(1).tolist() == [2, 1]


def test_masks_and_images_that_differ_in_number_are_refused_at_once(pack):
    source = detector()
    with pytest.raises(ValueError, match="Mask Refiner: input 'region' holds 3 masks, but 2 image"):
        state_of(refined(source, region=torch.ones(3, 8, 8)), run_of(images=2))


def test_nothing_counts_before_enough_of_an_image_was_detected_at_once(pack):
    source = detector()
    state = state_of(refined(source, min_area=0.5))

    def step(sigma, *images):
        state.update(source, "s", answer(images))
        return mask_of(state, (2, 2), sigma=sigma).flatten(1).int().tolist()

    one, two = [[1, 0], [0, 0]], [[1, 0], [0, 1]]
    assert step(9.0, one, two) == [[0, 0, 0, 0], [1, 0, 0, 1]], "half of the patches is enough, a quarter is not"
    assert step(8.0, one, one) == [[0, 0, 0, 0], [1, 0, 0, 0]], "once open, an image stays open"
    assert step(7.0, two, one) == [[1, 0, 0, 1], [1, 0, 0, 0]]
    state.update(source, "another", answer([one]))
    assert not mask_of(state, (2, 2), "another", 7.0).any()


def test_persistence_counts_noise_levels_not_calls_nor_blocks(pack):
    source = detector()
    state = state_of(refined(source, persistence=2))
    seen = torch.ones(1, 1, 1, dtype=torch.bool)

    def step(sigma, mask):
        state.update(source, "s", answer(mask))
        # Two blocks ask for the same mask.
        assert torch.equal(mask_of(state, (1, 1), sigma=sigma), mask_of(state, (1, 1), sigma=sigma))
        return bool(mask_of(state, (1, 1), sigma=sigma))

    assert step(9.0, seen) and step(9.0, seen)
    assert not step(8.0, ~seen), "two calls at one noise level count once"
    assert step(7.0, seen)
    assert step(6.0, ~seen), "seen at two noise levels, it stays"


def test_a_detector_counts_only_in_its_part_of_the_run(pack):
    from concept_erasure.erasure.detection import Join

    early, always = detector("a", 0.0, 0.5), detector("b")
    state = state_of(Join("union", early, always))
    for sigma, expected in ((8.0, 2), (5.0, 1), (2.0, 1)):
        level = torch.tensor(sigma)
        state.update(early, "s", answer([[[1, 0]]], state.is_active(early, level)))
        state.update(always, "s", answer([[[0, 1]]]))
        assert mask_of(state, (1, 2), sigma=sigma).sum() == expected
        assert state.any_active(level) is None, "one of them always looks"
        assert state.raw_score("s", (1, 2)).sum() == expected
    alone = state_of(early)
    assert bool(alone.any_active(torch.tensor(8.0))) and not bool(alone.any_active(torch.tensor(5.0)))


def test_what_will_not_come_again_is_forgotten(pack):
    source = detector()
    state = state_of(refined(source, persistence=1, min_area=0.1))
    for key in ("kept", "gone"):
        state.update(source, key, answer([[[1]]]))
        assert mask_of(state, (1, 1), key).all()
    state.forget("gone")
    assert mask_of(state, (1, 1), "gone") is None and mask_of(state, (1, 1), "kept").all()
    state.update(source, "gone", answer([[[0]]]))
    assert not mask_of(state, (1, 1), "gone", sigma=0.5).any(), "nothing persists"


def scored(*against):
    """A detector of a concept, perhaps with features against it."""
    from concept_erasure.erasure.detection import Detector
    from concept_erasure.sae_models.concepts import Concept, ConceptBand

    band = ConceptBand((3,), (0.5,), against=against, against_thresholds=(0.4,) * len(against))
    return Detector(detector().sae, Concept("cat", (0.0, 1000.0), (band,), "sum"))


def test_the_score_of_a_tree(pack):
    from concept_erasure.erasure.detection import Detection, Join

    plain, difference = scored(), scored(5)
    mask = torch.tensor([[[True, True], [False, False]]])
    first, second = torch.tensor([[[4.0, 2.0], [0.5, 0.0]]]), torch.tensor([[[1.0, 3.0], [9.0, 0.0]]])
    region = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    trees = {
        "union": (Join("union", plain, difference), [[4.0, 3.0], [0.5, 0.0]]),
        "intersection": (Join("intersection", plain, difference), [[1.0, 2.0], [0.0, 0.0]]),
        "region": (refined(plain, region=region, grow=1), [[4.0, 0.0], [0.5, 0.0]]),
        "against": (difference, [[1.0, 3.0], [0.0, 0.0]]),
    }
    for name, (tree, expected) in trees.items():
        state = state_of(tree)
        for each, score in ((plain, first), (difference, second)):
            state.update(each, "s", Detection(mask, score))
        assert state.score("s", (0,)).tolist() == [expected], name
