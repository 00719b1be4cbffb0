"""Donors and replacement on small feature maps."""

import numpy as np
import pytest
import torch

SHAPE = (3, 5, 4, 6)


@pytest.fixture
def features():
    torch.manual_seed(1)
    return torch.randn(SHAPE)


def test_random_donors_are_uniform(pack):
    from concept_erasure.erasure.replacement import random_donors

    donors = random_donors(np.arange(2000, 2004), 2000, torch.Generator().manual_seed(0))
    assert donors.shape == (2000, 1)
    counts = np.bincount(donors.flatten(), minlength=2004)
    assert counts[:2000].sum() == 0
    assert counts[2000:].min() > 400, "each of four donors is expected 500 times"


def test_nearest_donors(pack):
    from concept_erasure.erasure.replacement import nearest_donors

    targets, free = np.array([1, 2, 4, 5, 6, 7]), np.array([0, 3])
    donors = nearest_donors(targets, free, 4, 1)[:, 0].tolist()
    assert donors == [0, 3, 0, 0, 3, 3]
    assert nearest_donors(targets, free, 4, 9).shape == (6, 2), "only two are free"


def test_a_donor_is_alike_but_for_the_concept(pack):
    from concept_erasure.erasure.replacement import alike_donors

    # The first value is the concept; the others are what stays, and of those donors have the same three.
    ground = torch.tensor([[0.0, 1.0], [2.0, -1.0], [-2.0, 0.0]])
    patches = torch.cat([torch.cat([torch.full((3, 1), 9.0), ground], 1), torch.cat([torch.zeros(3, 1), ground], 1)])
    targets, free = np.array([0, 1, 2]), np.array([5, 3, 4])
    assert alike_donors(patches, targets, free).tolist() == [[3], [4], [5]]
    far = patches.clone()
    far[3, 0], far[4, 0] = 5.0, -5.0
    assert alike_donors(far, targets, free).tolist() == [[3], [4], [5]], (
        "how much of the concept is in it does not count"
    )


def test_the_donor_pool_leaves_out_what_is_like_the_concept(pack):
    from concept_erasure.erasure.replacement import donor_pool

    mask = np.array([0, 1, 0, 0, 0, 1, 0], dtype=bool)
    likeness = np.array([0.9, 2.0, 0.1, 0.4, 0.1, 1.5, 0.6], dtype=np.float32)
    assert donor_pool(mask, likeness, 1.0).tolist() == [0, 2, 3, 4, 6], "the whole share is every undetected patch"
    assert donor_pool(mask, likeness, 0.6).tolist() == [2, 3, 4]
    assert donor_pool(mask, likeness, 0.01).tolist() == [2, 4], "at least one, and all that are as good"
    assert donor_pool(~np.zeros(7, bool), likeness, 0.5).tolist() == [], "nothing is left where all is detected"
    likeness[:] = np.inf
    assert donor_pool(mask, likeness, 0.5).tolist() == [0, 2, 3, 4, 6], "what is detected is never a donor"


def test_replaced_cells_are_exactly_their_donors(pack, features):
    from concept_erasure.erasure.replacement import Edit, replace_patches

    edited = features.clone()
    targets, donors = np.array([0, 7, 23]), np.array([[5], [5], [11]])
    replace_patches(edited, [Edit(1, targets, 1, donors)], features)
    before, after = features.flatten(2), edited.flatten(2)
    assert torch.equal(after[1][:, targets], before[1][:, donors[:, 0]])
    untouched = torch.ones(24, dtype=torch.bool)
    untouched[targets] = False
    assert torch.equal(after[1][:, untouched], before[1][:, untouched])
    assert torch.equal(edited[[0, 2]], features[[0, 2]])


def test_several_images_at_once_are_the_same_as_one_by_one(pack, features):
    from concept_erasure.erasure.replacement import Edit, replace_patches

    parts = [
        Edit(0, np.array([1, 2]), 2, np.array([[9], [8]])),
        Edit(1, np.array([3]), 1, np.array([[4, 5]])),
        Edit(2, np.array([23]), 0, np.array([[0]])),
    ]
    together, apart = features.clone(), features.clone()
    replace_patches(together, parts, features)
    for edit in parts:
        replace_patches(apart, [edit], features)
    assert torch.equal(together, apart)
    assert torch.equal(together[0].flatten(1)[:, 1], features[2].flatten(1)[:, 9])


def test_mean_of_several_donors(pack, features):
    from concept_erasure.erasure.replacement import Edit, replace_patches

    edited = features.clone()
    replace_patches(edited, [Edit(0, np.array([3]), 0, np.array([[1, 2]]))], features)
    expected = features.flatten(2)[0][:, [1, 2]].mean(-1)
    assert torch.allclose(edited.flatten(2)[0][:, 3], expected)


def test_channels_last_maps_work(pack, features):
    from concept_erasure.erasure.replacement import Edit, replace_patches

    plain, last = features.clone(), features.clone(memory_format=torch.channels_last)
    for edited in (plain, last):
        replace_patches(edited, [Edit(2, np.array([1]), 2, np.array([[20]]))], features)
    assert torch.equal(plain, last)


def test_donor_seed_depends_on_everything_but_the_batch(pack):
    from concept_erasure.erasure.replacement import donor_seed

    base = donor_seed(1, 2, "a", 3.0)
    assert base == donor_seed(1, 2, "a", 3.0)
    others = {donor_seed(9, 2, "a", 3.0), donor_seed(1, 9, "a", 3.0), donor_seed(1, 2, "b", 3.0)}
    assert len({base, *others, donor_seed(1, 2, "a", 9.0)}) == 5
    assert 0 <= base < 2**63
