"""Mask refinement on the token grid."""

import pytest
import torch


def grid(*rows):
    return torch.tensor([[[c == "#" for c in row] for row in rows]])


def drawn(mask):
    return ["".join("#" if c else "." for c in row) for row in mask[0].tolist()]


def test_neutral_changes_nothing(pack):
    from concept_erasure.erasure.refinement import Refinement, refine

    mask = torch.rand(3, 7, 5) > 0.5
    assert Refinement().is_neutral
    assert torch.equal(refine(mask, Refinement()), mask)


def test_grow_and_shrink(pack):
    from concept_erasure.erasure.refinement import grow

    dot = grid(".....", ".....", "..#..", ".....", ".....")
    assert drawn(grow(dot, 1)) == [".....", ".###.", ".###.", ".###.", "....."]
    assert torch.equal(grow(grow(dot, 1), -1), dot)
    assert not grow(dot, -1).any()


def test_close_fills_a_hole(pack):
    from concept_erasure.erasure.refinement import close_holes

    ring = grid(".....", ".###.", ".#.#.", ".###.", ".....")
    assert drawn(close_holes(ring, 1)) == [".....", ".###.", ".###.", ".###.", "....."]


def test_specks_are_dropped_by_size(pack):
    from concept_erasure.erasure.refinement import drop_specks

    mask = grid("##....", "##....", ".....#", "......", "#.....", ".#....")
    assert drawn(drop_specks(mask, 2)) == ["##....", "##....", "......", "......", "#.....", ".#...."]
    assert drawn(drop_specks(mask, 3)) == ["##....", "##....", "......", "......", "......", "......"]


def test_a_snake_is_one_group(pack):
    from concept_erasure.erasure.refinement import drop_specks

    snake = grid("#######", "......#", "#######", "#......", "#######")
    assert torch.equal(drop_specks(snake, int(snake.sum())), snake)


def test_resizing_keeps_what_is_touched(pack):
    from concept_erasure.erasure.refinement import resize_mask

    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 3, 5] = True
    assert drawn(resize_mask(mask, (2, 3))) == ["...", "..#"]
    assert resize_mask(mask, (8, 12)).sum() == 4


def test_region_limits_and_is_resized(pack):
    from concept_erasure.erasure.refinement import Refinement, refine

    region = torch.zeros(1, 64, 64)
    region[:, :, 32:] = 1
    mask = refine(torch.ones(2, 4, 4, dtype=torch.bool), Refinement(region=region))
    assert drawn(mask) == ["..##"] * 4
    with pytest.raises(ValueError, match="3 masks for 2 images"):
        refine(torch.ones(2, 4, 4, dtype=torch.bool), Refinement(region=torch.ones(3, 8, 8)))
