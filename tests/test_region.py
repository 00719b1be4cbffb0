"""Where a concept is, decided on the latent's grid from the answers of a whole run."""

import pytest
import torch


def seen_of(*masks, timesteps=(900.0, 500.0, 300.0, 100.0), known=None):
    """The same masks, bool [h, w] an image, at every step."""
    from concept_erasure.erasure.evidence import Seen

    mask = torch.stack(masks).expand(len(timesteps), -1, -1, -1).clone()
    known = torch.ones(len(timesteps), len(masks), dtype=torch.bool) if known is None else known
    return Seen(torch.tensor(timesteps), mask, mask.float() * 20, known)


def scene(side=32, size=10, at=(8, 8)):
    """A latent with a square object on a ground: float [4, side, side], and where it is."""
    generator = torch.Generator().manual_seed(0)
    latent = 0.05 * torch.randn(4, side, side, generator=generator)
    truth = torch.zeros(side, side, dtype=torch.bool)
    truth[at[0] : at[0] + size, at[1] : at[1] + size] = True
    latent[:, truth] += 2.0
    return latent, truth


def coarse(truth, factor=4):
    """Patches that lie in an area with at least half of theirs."""
    parts = truth.unflatten(0, (-1, factor)).unflatten(2, (-1, factor))
    return parts.float().mean((1, 3)) >= 0.5


def overlap(one, other):
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("at", [(8, 8), (9, 7), (11, 10), (0, 21)])
def test_a_region_has_the_outline_of_the_object_and_not_of_the_patches(pack, at):
    from concept_erasure.erasure.region import RegionSettings, find_regions

    latent, truth = scene(at=at)
    found = find_regions(seen_of(coarse(truth)), latent[None], RegionSettings(grow=0))[0]
    squares = coarse(truth).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert overlap(found, truth) > 0.9 and overlap(squares, truth) < 0.8


def test_a_weakly_detected_part_belongs_to_the_object_and_a_weak_find_elsewhere_does_not(pack):
    from concept_erasure.erasure.region import RegionSettings, find_regions

    latent, truth = scene(at=(8, 8), size=12)
    latent[:, 24:28, 24:28] += 2.0
    seen = seen_of(coarse(truth))
    seen.mask[:, 0, 2, 2], seen.score[:, 0, 2, 2] = False, 5.0
    seen.mask[:, 0, 6, 6], seen.score[:, 0, 6, 6] = True, 3.0
    found = find_regions(seen, latent[None], RegionSettings(grow=0))[0]
    assert torch.equal(found, truth)
    seen.mask[:, 0], seen.score[:, 0] = seen.mask[:, 0] & False, seen.score[:, 0]
    assert not find_regions(seen, latent[None]).any(), "a score alone, which something speaks against, is no object"


def test_another_object_that_touches_stays_outside(pack):
    from concept_erasure.erasure.region import RegionSettings, find_regions

    latent, truth = scene(at=(8, 8), size=8)
    latent[:, 8:16, 16:24] -= 2.0
    found = find_regions(seen_of(coarse(truth)), latent[None], RegionSettings(grow=0))[0]
    assert not found[:, 18:].any() and overlap(found, truth) > 0.9


def test_an_image_without_the_concept_has_no_region(pack):
    """Nothing is detected in one; in another only early, where detection errs."""
    from concept_erasure.erasure.region import find_regions, remains

    latent, truth = scene()
    seen = seen_of(coarse(truth), torch.zeros_like(coarse(truth)), coarse(truth))
    seen.mask[1:, 2] = False
    regions = find_regions(seen, latent[None].expand(3, -1, -1, -1))
    assert [bool(region.any()) for region in regions] == [True, False, False]
    assert remains(seen).tolist() == [True, False, False]
    assert remains(seen, torch.zeros_like(regions)).tolist() == [False, False, False]


def test_steps_in_which_an_image_was_not_seen_do_not_count(pack):
    from concept_erasure.erasure.region import find_regions

    latent, truth = scene()
    known = torch.tensor([[True], [False], [False], [True]])
    seen = seen_of(coarse(truth), known=known)
    seen.mask[1:3] = False
    assert find_regions(seen, latent[None]).any()
    assert not find_regions(seen_of(coarse(truth), known=torch.zeros(4, 1, dtype=torch.bool)), latent[None]).any()


def test_a_run_without_late_steps_is_decided_by_its_last_one(pack):
    from concept_erasure.erasure.region import find_regions

    latent, truth = scene()
    one = seen_of(coarse(truth), timesteps=(999.0,))
    part = seen_of(coarse(truth), timesteps=(999.0, 900.0, 800.0))
    part.mask[-1] = False
    assert find_regions(one, latent[None]).any() and not find_regions(part, latent[None]).any()


def test_all_detected_is_all_of_the_image(pack):
    from concept_erasure.erasure.region import find_regions

    assert find_regions(seen_of(torch.ones(8, 8, dtype=torch.bool)), scene()[0][None]).all()


@pytest.mark.parametrize("side", [16, 64])
def test_the_walk_is_solved(pack, side, monkeypatch):
    """The solver approaches the answer; a direct one has it, and takes too long on large latents."""
    from concept_erasure.erasure import region
    from scipy.sparse import linalg

    latent, truth = scene(side, side // 3, (side // 4, side // 4))
    belief = coarse(truth).repeat_interleave(4, 0).repeat_interleave(4, 1).numpy() * 0.8
    found = region._walk(belief, latent.numpy(), region.DEFAULT)
    monkeypatch.setattr(region.linalg, "cg", lambda system, right, *_, **__: (linalg.spsolve(system.tocsc(), right), 0))
    assert abs(found - region._walk(belief, latent.numpy(), region.DEFAULT)).max() < 1e-3


def test_answers_are_laid_over_the_whole_images(pack):
    """Windows hold some images, areas a part of them, and the larger score of two prompts counts."""
    from concept_erasure.erasure.evidence import Evidence
    from concept_erasure.unet.calls import POSITIVE, Call, Chunk
    from support.calls import run_of

    run, evidence = run_of(3, (16, 16)), Evidence()
    everywhere, corner = torch.ones(2, 8, 8), torch.ones(2, 4, 4)

    def note(chunk, score, step):
        call = Call(run, step, step, torch.tensor(5.0), torch.tensor(500.0 - step), (chunk,), (16, 16))
        evidence.note(chunk, call, score > 1, score, None)

    note(Chunk(slice(0, 2), POSITIVE, "a", (0, 2)), everywhere * 0.5, 1)
    note(Chunk(slice(0, 2), POSITIVE, "b", (0, 2), False, True, (8, 8, 8, 0)), corner * 2, 1)
    note(Chunk(slice(0, 2), POSITIVE, "c", None, False, False), everywhere * 9, 1)
    note(Chunk(slice(0, 2), POSITIVE, "a", (1, 2)), everywhere * 3, 2)
    seen = evidence.gather(3, (16, 16))
    assert evidence.unplaced and seen.timesteps.tolist() == [499.0, 498.0]
    assert seen.known.tolist() == [[True, False, True], [False, True, True]]
    expected = torch.full((8, 8), 0.5)
    expected[4:, :4] = 2.0
    assert torch.equal(seen.score[0, 0], expected) and torch.equal(seen.mask[0, 0], expected > 1)
    assert not seen.mask[0, 1].any() and seen.mask[1, 1].all()


def test_steps_that_no_detector_looked_at_do_not_count(pack):
    """A GPU notes them too, as it alone knows the noise level; its region must be that of a CPU."""
    from concept_erasure.erasure.evidence import Evidence
    from concept_erasure.erasure.region import find_regions
    from concept_erasure.unet.calls import POSITIVE, Call, Chunk
    from support.calls import run_of

    run, latent = run_of(1, (16, 16)), torch.zeros(1, 4, 16, 16)
    score = torch.zeros(1, 8, 8)
    score[:, 2:5, 2:5] = 20.0

    def region(steps):
        evidence = Evidence()
        for step, (timestep, active) in enumerate(steps):
            chunk = Chunk(slice(0, 1), POSITIVE, "a", (0,))
            call = Call(run, step, step, torch.tensor(5.0), torch.tensor(timestep), (chunk,), (16, 16))
            evidence.note(chunk, call, (score > 1) & active, score, torch.tensor(active))
        seen = evidence.gather(1, (16, 16))
        return None if seen is None else find_regions(seen, latent)

    looked = [(950.0, True), (800.0, True)]
    assert region(looked).any()
    assert torch.equal(region([*looked, (300.0, False), (10.0, False)]), region(looked))
    assert region([(300.0, False)]) is None


def test_a_region_is_carried_to_areas_and_grids(pack):
    from concept_erasure.erasure.evidence import RegionMask
    from concept_erasure.unet.calls import POSITIVE, Chunk

    region = torch.zeros(2, 16, 16, dtype=torch.bool)
    region[1, 4:8, 3:9] = True
    mask = RegionMask(region)
    whole = Chunk(slice(0, 2), POSITIVE, "a", (0, 1))
    inside, touched = mask.on_grid(whole, (8, 8), torch.device("cpu"))
    assert not inside[0].any() and not touched[0].any()
    assert inside[1].nonzero().tolist() == [[row, column] for row in (2, 3) for column in (1, 2, 3, 4)]
    assert torch.equal(inside, touched)
    coarser, touching = mask.on_grid(whole, (4, 4), torch.device("cpu"))
    assert coarser[1].nonzero().tolist() == [[1, 1]] and touching[1].sum() == 3
    part = Chunk(slice(0, 1), POSITIVE, "b", (1,), False, True, (8, 8, 4, 0))
    inside, _ = mask.on_grid(part, (8, 8), torch.device("cpu"))
    assert inside[0].nonzero().tolist() == [[row, column] for row in range(4) for column in range(3, 8)]


def test_a_group_of_detected_patches_counts_and_a_single_strong_one_does_not(pack):
    """A false patch may score as high as an object's; false groups are small and weak."""
    from concept_erasure.erasure.region import find_regions

    latent, truth = scene(size=12)
    alone = torch.zeros_like(coarse(truth))
    alone[6, 6] = True
    latents, seen = latent[None].expand(3, -1, -1, -1), seen_of(coarse(truth), alone, coarse(truth) | alone)
    seen.score[:] *= 0.3
    regions = find_regions(seen, latents)
    assert [bool(region.any()) for region in regions] == [True, False, True]
    assert torch.equal(regions[0], regions[2])


def test_a_finer_grid_of_the_same_answers_decides_the_same(pack):
    """SDXL has four times as many patches as SD1.5; an object is not more certain for it."""
    from concept_erasure.erasure.evidence import Seen
    from concept_erasure.erasure.region import DEFAULT, remains

    mask = torch.zeros(2, 2, 16, 16, dtype=torch.bool)
    mask[:, :, 4:8, 4:8] = True
    limit = DEFAULT.group / 4  # sixteen patches
    score = mask * torch.tensor([0.95, 1.05])[:, None, None] * limit
    for finer in (1, 2, 4):
        parts = [each.repeat_interleave(finer, 2).repeat_interleave(finer, 3) for each in (mask, score)]
        seen = Seen(torch.tensor([300.0, 100.0]), *parts, torch.ones(2, 2, dtype=torch.bool))
        assert remains(seen).tolist() == [False, True]
