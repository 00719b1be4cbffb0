"""The benchmark of other samplers, steps and LoRAs: the LoRA does what was trained, and results are never mixed."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.demo_model import latents


@pytest.fixture(scope="module")
def lora(pack):
    from concept_erasure.benchmarks import lora

    return lora


@pytest.mark.research
@torch.no_grad()
def test_comfyui_applies_what_was_trained(lora, tmp_path):
    from concept_erasure.benchmarks.framework.world import Condition, World
    from concept_erasure.demo_model import checkpoint
    from concept_erasure.demo_model.text_encoder import LENGTH, WIDTH
    from concept_erasure.dev.demo_model.train_unet import Diffusion

    weights = {k: v for k, v in load_file(checkpoint.DEFAULT_PATH).items() if not k.startswith("vae.")}
    trained, draw = Diffusion(), torch.Generator().manual_seed(0)
    trained.load_state_dict(weights)
    x, t = torch.randn(latents(2).shape, generator=draw), torch.tensor([100, 700])
    context = torch.randn(2, LENGTH, WIDTH, generator=draw)
    plain = trained.unet._forward(x, t, context=context, transformer_options={})
    added = lora.with_low_rank(trained.unet)
    assert torch.equal(trained.unet._forward(x, t, context=context, transformer_options={}), plain)
    for part in added.values():
        part.up.normal_(0, 0.02, generator=draw)
    wanted = trained.unet._forward(x, t, context=context, transformer_options={})
    save_file(lora.lora_of(added), tmp_path / "some.safetensors")
    patched = World(Condition(lora=str(tmp_path / "some.safetensors"))).model
    transformers = sum(name.endswith("transformer_blocks.0") for name, _ in trained.unet.named_modules())
    assert len(patched.patches) == len(added) == 10 * transformers > 0, "two attentions and a feed-forward each"
    patched.patch_model()
    found = patched.model.diffusion_model(x, t, context=context)
    patched.unpatch_model()
    assert (wanted - plain).abs().max() > 0.1, "the LoRA says nothing"
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_new_look_is_gone_when_the_scenes_are_drawn(lora):
    from concept_erasure.dev.demo_model.scenes import HELD_OUT, render

    before = render(HELD_OUT.start, ("cat",), "photo").image
    taught = lora.scenes("cat", HELD_OUT.start, 1)[0]
    assert taught.objects == ("cat",) and (taught.image != render(HELD_OUT.start, ("cat",)).image).any()
    assert (render(HELD_OUT.start, ("cat",), "photo").image == before).all()


def test_results_of_other_conditions_lie_apart(pack, tmp_path):
    from concept_erasure.benchmarks.conditions import CONDITIONS
    from concept_erasure.benchmarks.framework.world import Condition

    stamps = [str(condition.stamp()) for condition in CONDITIONS.values()]
    assert Condition().stamp() == [] and len(set(stamps)) == len(stamps)
    for content in (b"one", b"two"):
        (tmp_path / "x").write_bytes(content)
        stamps.append(str(Condition(lora=str(tmp_path / "x")).stamp()))
    assert len(set(stamps)) == len(stamps), "another LoRA under the same name is another condition"


def test_a_setting_means_the_same_in_every_table(pack):
    from concept_erasure.benchmarks import conditions, distribution
    from concept_erasure.benchmarks.erasure import MAIN

    for settings in (conditions.SETTINGS, distribution.SETTINGS):
        shared = settings.keys() & MAIN.keys()
        assert "keep exactly (default)" in shared and "may change" in shared
        assert all(settings[name] == MAIN[name] for name in shared)


def test_the_middle_of_images_stands_between_their_percentiles(pack):
    from concept_erasure.benchmarks.distribution import quantiles

    assert quantiles([float(i) for i in range(101)], 1) == [50.0, 5.0, 95.0]


@pytest.mark.research
@pytest.mark.parametrize(
    "name", ["keep exactly (default)", "keep exactly, fill: prompt without the word", "steering, -30"]
)
def test_inner_values_are_compared_at_every_step(pack, name):
    """Of the pass that made the image where there are two."""
    from concept_erasure.benchmarks import distribution
    from concept_erasure.benchmarks.framework.world import World

    world, seeds = World(), distribution.seeds_of("tuning", "cat", 2)
    reference = distribution.sampled(world, distribution.REFERENCE, "cat", seeds)
    run = distribution.sampled(world, distribution.SETTINGS[name], "cat", seeds)
    assert len(run.shared_statistics(reference)) >= world.condition.steps
    assert all(0 < each.norm_shift < 5 for each in distribution.distances(run, reference))
