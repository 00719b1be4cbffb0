"""A region that is edited continues what lies around it."""

import pytest
import torch

SIDE = 24


@pytest.fixture(scope="module")
def region():
    free = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    free[0, 6:17, 5:14] = True
    free[2] = True
    return free


def ramp():
    """Predictions that rise from left to right, float [3, 2, SIDE, SIDE]."""
    across = torch.linspace(-1, 1, SIDE).expand(3, 1, SIDE, SIDE)
    return torch.cat([across, 0.5 - across], 1).clone()


def continued(edited, around, region, strength=1.0):
    from concept_erasure.unet.seam import Seam

    return Seam(region, torch.device("cpu")).continued(edited, around, torch.full((len(region),), strength))


def test_a_patch_of_another_color_takes_that_of_its_surroundings(pack, region):
    around = torch.full((3, 2, SIDE, SIDE), 0.25)
    edited = torch.where(region[:, None], torch.tensor(-1.0), around)
    assert (continued(edited, around, region)[:2] - around[:2]).abs().max() < 1e-5


def test_it_follows_what_changes_around_it_and_keeps_what_is_drawn_inside(pack, region):
    around = ramp()
    drawn = torch.zeros_like(around)
    drawn[0, :, 11, 9] = 3.0
    edited = torch.where(region[:, None], drawn - 0.7, around)
    made = continued(edited, around, region)
    wrong = ((made - around - drawn)[0][:, region[0]]).abs().mean()
    assert wrong < 0.2 * (edited - around - drawn)[0][:, region[0]].abs().mean()
    assert made[0, 0, 11, 9] - made[0, 0, 11, 8] > 2.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_nothing_else_changes(pack, region, dtype):
    """Not the outside, not an image without a region, nor one without an outside; and nothing at no strength."""
    noise = torch.randn(3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    around = (ramp() + noise / 10).to(dtype)
    edited = torch.where(region[:, None], noise.to(dtype), around)
    made = continued(edited, around, region)
    assert torch.equal(made[1:], edited[1:])
    assert torch.equal(made[0][:, ~region[0]], edited[0][:, ~region[0]])
    assert not torch.equal(made[0], edited[0])
    assert torch.equal(continued(edited, around, region, 0.0), edited)


def test_latents_of_another_size_are_left_alone(pack, region):
    """A sampler may make them larger on the way."""
    edited = torch.randn(3, 2, 2 * SIDE, 2 * SIDE)
    assert continued(edited, torch.zeros_like(edited), region) is edited


def test_a_region_of_very_large_latents_takes_little_memory(pack, monkeypatch):
    """Fewer cells of the border then speak for the rest, and the color is found all the same."""
    from concept_erasure.unet import seam

    free = torch.zeros(1, 64, 64, dtype=torch.bool)
    free[0, 10:50, 12:44] = True
    monkeypatch.setattr(seam, "MOST_AT_ONCE", 2**16)
    held = max(each.numel() for each in seam._part(free[0])[2:])
    assert held <= 2**16
    around = torch.full((1, 2, 64, 64), 0.25)
    edited = torch.where(free[:, None], torch.tensor(-1.0), around)
    assert (continued(edited, around, free) - around).abs().max() < 1e-5
