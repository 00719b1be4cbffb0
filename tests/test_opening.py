"""Where a later pass may differ from the first, and from which noise."""

import pytest
import torch

SIZE = (12, 10)


def region_of(images=2):
    region = torch.zeros(images, *SIZE, dtype=torch.bool)
    region[0, 3:8, 2:6] = True
    return region


@pytest.fixture
def edit(pack):
    from concept_erasure.unet.opening import Edit, Opening

    def build(number=1):
        region = region_of()
        wider = region.clone()
        wider[0, 2:9, 1:7] = True
        return Edit(Opening(region, wider, 0.6, torch.zeros(2), number), torch.device("cpu"))

    return build


def test_the_region_is_larger_in_steps_with_little_noise_of_each_image(edit):
    free = edit().free(torch.tensor([0.6, 5.0]))
    assert free.shape == (2, 1, *SIZE)
    assert int(free[0].sum()) == 7 * 6 and not free[1].any()
    assert int(edit().free(torch.tensor([0.7, 0.1]))[0].sum()) == 5 * 4


def test_noise_is_other_noise_inside_and_the_same_outside(edit):
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    made, region = edit().noise(noise), region_of()
    assert torch.equal(made.movedim(1, -1)[~region], noise.movedim(1, -1)[~region])
    changed = (made != noise).all(1)[region]
    assert changed.float().mean() > 0.9
    assert torch.isin(made, noise).all(), "it is noise of its kind"
    assert not torch.equal(edit(2).noise(noise), made), "each attempt has its own"


def test_what_was_no_noise_stays_none_and_videos_have_a_place_too(edit):
    assert not edit().noise(torch.zeros(2, 4, *SIZE)).any()
    noise = torch.randn(2, 4, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    made = edit().noise(noise)
    assert torch.equal(made[:, :, 1], edit().noise(noise[:, :, 1]))


def test_an_image_gets_the_same_noise_alone_and_in_a_batch(pack):
    from concept_erasure.unet.opening import rearranged

    noise = torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(4))
    assert torch.equal(rearranged(noise, 1)[2:], rearranged(noise[2:], 1))


@pytest.mark.parametrize(("size", "cells"), [((8, 8), 2), ((32, 32), 2), ((64, 96), 4), ((128, 128), 8)])
def test_how_much_wider_it_is_goes_with_the_image(pack, size, cells):
    from concept_erasure.erasure.keep import cells_wider

    assert cells_wider(size) == cells
