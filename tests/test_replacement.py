"""Source patches and replacement on small feature maps."""

import pytest
import torch

SHAPE = (3, 5, 4, 6)
PLACES = 24


@pytest.fixture
def features():
    torch.manual_seed(1)
    return torch.randn(SHAPE)


def places(images, *sets):
    """Bool [images, 24]: which places are set, one set an image."""
    mask = torch.zeros(images, PLACES, dtype=torch.bool)
    for image, chosen in enumerate(sets):
        mask[image, list(chosen)] = True
    return mask


def test_random_sources_are_uniform(pack):
    from concept_erasure.erasure.replacement import draws_for, random_sources

    mask, pool = places(500, *[range(4)] * 500), places(500, *[range(20, 24)] * 500)
    source = random_sources(mask, pool, draws_for(range(500), PLACES))
    assert torch.equal(source[:, 4:], torch.arange(4, PLACES).expand(500, -1)), "undetected patches stay"
    counts = source[:, :4].flatten().bincount(minlength=PLACES)
    assert counts[:20].sum() == 0 and counts[20:].min() > 400, "each of four is expected 500 times"


def test_a_draw_of_one_picks_the_last(pack):
    """A uniform number that rounds to 1 must not point behind the pool."""
    from concept_erasure.erasure.replacement import random_sources

    source = random_sources(places(1, [0]), places(1, [3, 9]), torch.ones(1, PLACES))
    assert source[0, 0] == 9


@pytest.mark.parametrize("width", [4, 6])
def test_nearest_sources(pack, width):
    from concept_erasure.erasure.replacement import nearest_sources

    mask, pool = places(2, [1, 2, 4, 5, 6, 7], [0]), places(2, [0, 3], [23, 13])
    source = nearest_sources(mask, pool, width)
    for image, target in zip(*mask.nonzero(as_tuple=True), strict=True):
        free = pool[image].nonzero()[:, 0]
        distance = (free // width - target // width) ** 2 + (free % width - target % width) ** 2
        assert source[image, target] == free[distance.argmin()], "ties go to the lower place"
    assert torch.equal(source[~mask], torch.arange(PLACES).expand(2, -1)[~mask])


def test_a_source_is_similar_but_for_the_concept(pack):
    from concept_erasure.erasure.replacement import similar_sources

    # The first value is the concept; the others are what stays, and of those the source patches have the same three.
    ground = torch.tensor([[0.0, 1.0], [2.0, -1.0], [-2.0, 0.0]])
    patches = torch.cat([torch.cat([torch.full((3, 1), 9.0), ground], 1), torch.cat([torch.zeros(3, 1), ground], 1)])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    assert similar_sources(patches[None], mask, ~mask)[0].tolist() == [3, 4, 5, 3, 4, 5]
    far = patches.clone()
    far[3, 0], far[4, 0] = 5.0, -5.0
    assert similar_sources(far[None], mask, ~mask)[0].tolist() == [3, 4, 5, 3, 4, 5], "how much of the concept is in it"


def test_the_pool_leaves_out_what_speaks_for_the_concept(pack):
    from concept_erasure.erasure.replacement import source_pool

    mask = torch.tensor([[0, 1, 0, 0, 0, 1, 0]], dtype=torch.bool)
    score = torch.tensor([[0.9, 2.0, 0.1, 0.4, 0.1, 1.5, 0.6]])

    def pool(share, mask=mask, score=score):
        return source_pool(mask, score, share)[0].nonzero()[:, 0].tolist()

    assert pool(1.0) == [0, 2, 3, 4, 6], "the whole share is every undetected patch"
    assert pool(0.6) == [2, 3, 4]
    assert pool(0.01) == [2, 4], "at least one, and all that are as good"
    assert pool(0.5, torch.ones_like(mask)) == [], "nothing is left where all is detected"
    assert pool(0.5, score=torch.full_like(score, torch.inf)) == [0, 2, 3, 4, 6], "what is detected is never a source"


def test_replaced_patches_are_exactly_their_sources(pack, features):
    from concept_erasure.erasure.replacement import own_places, replace_patches

    source = own_places(places(3)).clone()
    source[1, [0, 7, 23]] = torch.tensor([5, 5, 11])
    edited = replace_patches(features, source)
    before, after = features.flatten(2), edited.flatten(2)
    assert torch.equal(after[1][:, [0, 7, 23]], before[1][:, [5, 5, 11]])
    rest = [place for place in range(PLACES) if place not in (0, 7, 23)]
    assert torch.equal(after[1][:, rest], before[1][:, rest])
    assert torch.equal(edited[[0, 2]], features[[0, 2]])
    last = features.clone(memory_format=torch.channels_last)
    assert torch.equal(replace_patches(last, source), edited)


@pytest.mark.parametrize("mode", ["similar", "nearest"])
def test_elsewhere_than_on_a_cpu_the_choice_is_the_same(pack, mode, monkeypatch):
    """There the detected patches are not looked up: all patches are compared, and the mask says which count."""
    from concept_erasure.erasure import replacement

    torch.manual_seed(3)
    x = torch.randn(3, PLACES, 16)
    mask, pool = places(3, [1, 2, 9], [], range(PLACES)), places(3, [0, 4, 5, 20], [3], [])

    def choose(mask, pool):
        if mode == "nearest":
            return replacement.nearest_sources(mask, pool, 6)
        return replacement.similar_sources(x, mask, pool)

    expected = choose(mask, pool)
    assert torch.equal(expected[1:], torch.arange(PLACES).expand(2, -1)), "without target or source nothing changes"

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    monkeypatch.setattr(replacement, "MOST_AT_ONCE", 3 * PLACES * 5)
    monkeypatch.setattr(replacement, "own_places", lambda mask: torch.arange(PLACES).expand(len(mask), -1))
    found = choose(mask.as_subclass(Elsewhere), pool.as_subclass(Elsewhere)).as_subclass(torch.Tensor)
    assert torch.equal(found, expected)


def test_draw_seeds_depend_on_everything_but_the_batch(pack):
    from concept_erasure.erasure.replacement import draw_seed

    base = draw_seed(1, 2, "a", 3.0, 4)
    assert base == draw_seed(1, 2, "a", 3.0, 4)
    others = [(9, 2, "a", 3.0, 4), (1, 9, "a", 3.0, 4), (1, 2, "b", 3.0, 4), (1, 2, "a", 9.0, 4), (1, 2, "a", 3.0, 9)]
    assert len({base, *(draw_seed(*other) for other in others)}) == 6
    assert 0 <= base < 2**63


def test_inside_a_region_embeddings_become_what_they_are_around_it(pack):
    from concept_erasure.erasure.replacement import as_around

    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]]])
    inside = torch.tensor([[False, False, True], [True, True, True]])
    made = as_around(x, inside)
    assert made[0].tolist() == [[1.0, 2.0], [3.0, 4.0], [2.0, 3.0]]
    assert torch.equal(made[1], x[1]), "nothing is around it"
    half = as_around(x.half(), inside)
    assert half.dtype == torch.float16 and torch.equal(half.float(), made)
