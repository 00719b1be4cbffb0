"""The proof of attachment of benchmarks/full_size, on narrow UNets with the blocks of SD1.5 and SDXL.

Full size takes gigabytes and minutes; docs/compatibility.md says what was proved there.
"""

import math

import pytest
import torch
from safetensors import safe_open

WIDTH, LATENTS = 64, 256


def narrow(kind):
    """A model of ComfyUI's own class for this kind, a fifth as wide, with random float16 weights."""
    from concept_erasure.benchmarks.full_size.models import random_model

    return random_model(kind, torch.float16, torch.float32, model_channels=WIDTH)


def prompts(kind):
    from concept_erasure.benchmarks.full_size.models import conditioning

    return conditioning(kind, 1), conditioning(kind, 2)


@pytest.mark.parametrize(("kind", "size"), [("sd15", (16, 24)), ("sdxl", (24, 16))])
def test_what_is_read_and_written_is_exact(pack, kind, size):
    from concept_erasure.benchmarks.full_size import checkpoints
    from concept_erasure.benchmarks.full_size.proof import prove

    lines = []
    published = checkpoints.PUBLISHED[kind]
    replaced = prove(narrow(kind), *prompts(kind), size, published, 2, LATENTS, lines.append)
    assert replaced > 0 and len(lines) == len(published) + 1


def test_the_proof_can_fail(pack, monkeypatch):
    """One patch with another source patch than the chosen one is noticed."""
    from concept_erasure.benchmarks.full_size import checkpoints
    from concept_erasure.benchmarks.full_size.proof import prove
    from concept_erasure.erasure import eraser

    real = eraser.replace_patches

    def sloppy(x, source):
        replaced = real(x, source)
        replaced[0, 0, 0, 0] += 1
        return replaced

    monkeypatch.setattr(eraser, "replace_patches", sloppy)
    with pytest.raises(AssertionError, match="source patches replace, and all else is untouched"):
        prove(narrow("sd15"), *prompts("sd15"), (16, 16), checkpoints.PUBLISHED["sd15"], 1, LATENTS)


def test_checkpoints_have_the_published_keys_and_shapes(pack, tmp_path):
    from concept_erasure.benchmarks.full_size import checkpoints

    for kind, known in {
        "sd15": {
            "model.diffusion_model.output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
            "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
            "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
            "first_stage_model.decoder.conv_out.weight": (3, 128, 3, 3),
        },
        "sdxl": {
            "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
            "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
            "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight": (3840, 1280),
            "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
        },
    }.items():
        shapes = checkpoints.shapes(kind)
        assert known.items() <= shapes.items()
        unet = [key for key in shapes if key.startswith("model.diffusion_model.")]
        numbers = sum(math.prod(shapes[key]) for key in unet)
        # As counted in the published files.
        assert (len(unet), numbers) == {"sd15": (686, 859_520_964), "sdxl": (1680, 2_567_463_684)}[kind]
    wanted = {"a.weight": (3, 5), "norm.weight": (4,), "norm.bias": (4,), "b.weight": (5000, 4000)}
    checkpoints.write_checkpoint(tmp_path / "x.safetensors", wanted)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    assert {key: tuple(value.shape) for key, value in tensors.items()} == wanted
    assert tensors["norm.weight"].unique().tolist() == [1] and tensors["norm.bias"].unique().tolist() == [0]
    assert tensors["b.weight"].float().std() == pytest.approx(4000**-0.5, rel=0.01)
