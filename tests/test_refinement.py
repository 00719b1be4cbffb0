"""Mask refinement on the grid of patches, square or not."""

import pytest
import torch
from support.calls import drawn, picture


def test_neutral_changes_nothing(pack):
    from concept_erasure.erasure.refinement import Refinement, shape

    mask = torch.rand(3, 7, 5) > 0.5
    assert Refinement().is_neutral
    assert torch.equal(shape(mask, Refinement()), mask)


def test_grow_and_shrink(pack):
    from concept_erasure.erasure.refinement import grow

    dot = picture(".....", ".....", "..#..", ".....", ".....")
    assert drawn(grow(dot, 1)) == [".....", ".###.", ".###.", ".###.", "....."]
    assert torch.equal(grow(grow(dot, 1), -1), dot)
    assert not grow(dot, -1).any()
    assert grow(torch.ones(1, 3, 7, dtype=torch.bool), -2).all(), "the edge of the image does not eat into it"


def test_close_fills_a_hole(pack):
    from concept_erasure.erasure.refinement import close_holes

    ring = picture(".......", ".###...", ".#.#...", ".###...", ".......")
    assert drawn(close_holes(ring, 1)) == [".......", ".###...", ".###...", ".###...", "......."]


def test_without_kornia_the_node_says_what_to_do(pack, monkeypatch):
    import sys

    from concept_erasure.erasure.refinement import drop_specks, grow

    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r"Mask Refiner: inputs 'grow' and 'close_holes' need .* kornia"):
        grow(picture("#"), 1)
    assert drop_specks(picture("#.#"), 2).sum() == 0


def test_specks_are_dropped_by_size(pack):
    from concept_erasure.erasure.refinement import drop_specks

    mask = picture("##....", "##....", ".....#", "......", "#.....", ".#....")
    assert drawn(drop_specks(mask, 2)) == ["##....", "##....", "......", "......", "#.....", ".#...."]
    assert drawn(drop_specks(mask, 3)) == ["##....", "##....", "......", "......", "......", "......"]
    both = torch.cat([mask, torch.zeros_like(mask)])
    assert torch.equal(drop_specks(both, 3)[:1], drop_specks(mask, 3)) and not drop_specks(both, 3)[1].any()


def test_a_snake_is_one_group(pack):
    from concept_erasure.erasure.refinement import drop_specks

    snake = picture("#######", "......#", "#######", "#......", "#######")
    assert torch.equal(drop_specks(snake, int(snake.sum())), snake)


@pytest.mark.parametrize("side", [64, 128])
def test_specks_of_fine_grids_take_a_pass_over_the_grid(pack, side):
    """A snake through the whole grid is what a label that spreads step by step takes longest for."""
    from concept_erasure.erasure.refinement import drop_specks

    snake = torch.zeros(1, side, side, dtype=torch.bool)
    snake[:, ::2] = True
    snake[:, 1::4, -1] = snake[:, 3::4, 0] = True
    assert torch.equal(drop_specks(snake, int(snake.sum())), snake)
    assert not drop_specks(snake, int(snake.sum()) + 1).any()


def test_resizing_keeps_what_is_touched(pack):
    from concept_erasure.erasure.refinement import resize_mask

    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 3, 5] = True
    assert drawn(resize_mask(mask, (2, 3))) == ["...", "..#"]
    assert resize_mask(mask, (8, 12)).sum() == 4


def test_a_region_is_resized(pack):
    from concept_erasure.erasure.refinement import Refinement, region_on_grid, shape

    region = torch.zeros(1, 64, 64)
    region[:, :, 32:] = 1
    small = region_on_grid(region, (2, 4))
    mask = shape(torch.ones(2, 2, 4, dtype=torch.bool), Refinement(), small)
    assert drawn(mask) == ["..##"] * 2 and mask[1].sum() == 4
