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
    assert len(patched.patches) == len(added) > 40
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
