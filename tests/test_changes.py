"""What the erasure table says of everything but the target, from images made by hand."""

import pytest
import torch

OBJECTS = ("cat", "dog", "tree")


class Corners:
    """Takes a cell for an object's where the image has that object's value."""

    VALUES = {"cat": 0.2, "dog": 0.5, "tree": 0.8}

    def masks(self, images, target):
        cells = images[:, ::4, ::4, 0]
        return (cells - self.VALUES[target]).abs() < 0.01


def image(**boxes):
    """An image of 16 cells of 4 pixels, with objects in boxes of cells (top, left, height, width)."""
    made = torch.ones(64, 64, 3)
    for name, (top, left, height, width) in boxes.items():
        made[4 * top : 4 * (top + height), 4 * left : 4 * (left + width)] = Corners.VALUES[name]
    return made


def sampled(images, found, remaining=(), latents=None):
    from concept_erasure.benchmarks.framework.changes import Sampled

    latents = torch.stack(images).movedim(-1, 1) if latents is None else latents
    return Sampled(latents, torch.stack(images), torch.tensor(found), remaining)


def prompt(*objects):
    from concept_erasure.benchmarks.framework.prompts import Prompt

    return Prompt(objects, None, 0)


@pytest.fixture
def columns(pack):
    from concept_erasure.benchmarks.framework.changes import changes

    cat, pair = {"cat": (2, 2, 4, 4)}, {"cat": (2, 2, 4, 4), "dog": (10, 10, 4, 4)}
    prompts = [prompt("cat"), prompt("dog"), prompt("tree"), prompt("cat", "dog")]
    before = sampled(
        [image(**cat), image(dog=(1, 1, 3, 3)), image(tree=(1, 1, 3, 3)), image(**pair)],
        [[True, False, False], [False, True, False], [False, False, True], [True, True, False]],
    )
    # The cat is gone from the first image, whose lower right corner changed; the dog of the pair moved by one cell.
    first = image()
    first[60:, 60:] = 0.0
    after = sampled(
        [first, image(dog=(1, 1, 3, 3)), image(tree=(2, 1, 3, 3)), image(cat=(2, 2, 4, 4), dog=(10, 11, 4, 4))],
        [[False, False, False], [False, True, False], [False, False, True], [True, True, False]],
        (True, False, False, False),
    )
    return changes("cat", prompts, before, after, Corners(), OBJECTS)


def test_images_without_the_target_are_untouched_or_not(columns):
    assert columns["untouched"] == [1.0, 0.0]


def test_what_moved_counts_outside_of_the_target_only(columns):
    free = 64 * 64 - 24 * 24
    assert columns["moved, alone"] == pytest.approx([16 / free])
    assert columns["moved, pair"] == pytest.approx([2 * 4 * 16 * 0.5 / free])


def test_the_other_object_of_a_pair_is_looked_for_in_its_place(columns):
    assert columns["in place"] == pytest.approx([12 / 20])


def test_the_check_at_the_end_may_be_wrong_either_way(columns):
    assert columns["left wrongly"] == [1.0], "it said that the first image still has a cat"
    assert columns["left unsaid"] == [1.0], "it did not say so of the pair"


def test_columns_are_shares_or_means(pack):
    from concept_erasure.benchmarks.framework.tables import entry, shown

    share, mean = entry("untouched", [1.0, 0.0]), entry("moved, alone", [0.01, 0.03])
    assert share["value"] == 50.0 and shown(share).startswith("50.0 ±")
    assert mean["value"] == 0.02 and shown(mean).startswith("0.020 ±")
    assert entry("in place", []) is None and shown(None) == "-"


def test_settings_that_keep_the_rest(pack):
    from concept_erasure.benchmarks.framework.settings import EMPTY, KEPT, SWAP, Setting, fill_text, new_object
    from concept_erasure.erasure.keep import Rest

    assert Setting.parse(f"a {KEPT}").attempts == Rest().attempts
    assert Setting.parse("a similar").attempts == 0
    swap = Setting.parse(f"a {KEPT} attempts=3 fill=swap")
    assert (swap.attempts, swap.fill) == (3, SWAP)
    with pytest.raises(ValueError, match="fill=swap"):
        Setting.parse("a similar positive 1.0 fill=swap")
    assert new_object("cat") in fill_text(SWAP, "cat", prompt("cat")) and "cat" not in fill_text(
        EMPTY, "cat", prompt("cat")
    )
    assert "dog" in fill_text("omit", "cat", prompt("cat", "dog"))
