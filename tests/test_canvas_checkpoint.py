"""The shipped checkpoint in ComfyUI's own samplers and stock nodes."""

import shutil

import numpy as np
import pytest
import torch
from support.demo_model import FACTOR, GRID, MIDDLE, SIDE, SITE, SMALL, SMALL_SIDE, latents, shapes

PROMPTS = ["A cat image in photo style", "A tree image in neon style", "A dog and a fish image in comic style"]


@pytest.fixture(scope="module")
def stock(pack):
    """ComfyUI's own nodes."""
    import nodes

    return nodes


@pytest.fixture(scope="module")
def conditioning(canvas, stock):
    _, clip, _ = canvas
    return [stock.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPTS[0], "")]


@pytest.fixture(scope="module")
def picture(pack):
    """A drawn scene that no model has seen, as ComfyUI holds images."""
    from concept_erasure.dev.demo_model.scenes import HELD_OUT, render

    return torch.from_numpy(render(HELD_OUT[-1]).image).float()[None] / 255


def k_sampler(stock, canvas, conditioning, latent, **options):
    settings = {"seed": 5, "steps": 2, "cfg": 4.5, "sampler_name": "euler", "scheduler": "normal", **options}
    positive, negative = conditioning
    return stock.KSampler().sample(canvas[0], positive=positive, negative=negative, latent_image=latent, **settings)[0]


@pytest.mark.parametrize(
    ("width", "height", "batch"), [(SIDE, SIDE, 2), (SMALL_SIDE, SIDE, 1), (SMALL_SIDE, SMALL_SIDE, 3), (72, 200, 1)]
)
def test_stock_nodes_at_any_size_and_batch(stock, canvas, conditioning, width, height, batch):
    latent = stock.EmptyLatentImage().generate(width, height, batch)[0]
    (image,) = stock.VAEDecode().decode(canvas[2], k_sampler(stock, canvas, conditioning, latent))
    assert image.shape == (batch, height, width, 3)
    assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1


@pytest.mark.parametrize("name", ["euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "uni_pc", "ddim", "lcm"])
def test_every_kind_of_sampler_draws_what_is_asked_for(stock, canvas, conditioning, judge, name):
    from concept_erasure.demo_model.vocabulary import OBJECTS

    latent = stock.EmptyLatentImage().generate(SIDE, SIDE, 1)[0]
    out = k_sampler(stock, canvas, conditioning, latent, sampler_name=name, scheduler="karras", steps=10)
    objects, _ = judge.classify(canvas[2].decode(out["samples"]))
    assert [word for word, found in zip(OBJECTS, objects[0] > judge.threshold, strict=True) if found] == ["cat"]


def test_it_is_under_comfyuis_own_memory_management(pack, monkeypatch):
    """Newer versions name another class for it where dynamic memory is on, as it is on NVIDIA GPUs."""
    import comfy.model_patcher
    from concept_erasure.demo_model import checkpoint

    class Named(comfy.model_patcher.ModelPatcher):
        pass

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Named, raising=False)
    model, _, vae = checkpoint.load()
    assert type(model) is Named and type(vae.patcher) is Named


def test_half_precision_only_if_comfyui_is_asked_for_it(stock, canvas, conditioning, monkeypatch):
    import comfy.model_management
    from concept_erasure.demo_model import checkpoint

    latent = stock.EmptyLatentImage().generate(SIDE, SIDE, 1)[0]
    usual = canvas[2].decode(k_sampler(stock, canvas, conditioning, latent, steps=10)["samples"])
    assert canvas[0].model.get_dtype() == torch.float32
    monkeypatch.setattr(comfy.model_management.args, "bf16_unet", True)
    half = checkpoint.load()
    assert half[0].model.get_dtype() == torch.bfloat16
    made = canvas[2].decode(k_sampler(stock, half, conditioning, latent, steps=10)["samples"])
    assert 0 < (made - usual).abs().mean() < 0.03


def test_image_to_image_stays_nearer_the_less_is_redrawn(stock, canvas, conditioning, picture):
    (latent,) = stock.VAEEncode().encode(canvas[2], picture)
    drawn = [k_sampler(stock, canvas, conditioning, latent, steps=6, denoise=share) for share in (0.2, 0.5, 1.0)]
    changes = [float((one["samples"] - latent["samples"]).abs().mean()) for one in drawn]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_inpainting_changes_what_is_masked_and_nothing_else(stock, canvas, conditioning, picture):
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, SIDE // 4 : SIDE * 3 // 4, SIDE // 4 : SIDE * 3 // 4] = 1
    (latent,) = stock.VAEEncodeForInpaint().encode(canvas[2], picture, mask, grow_mask_by=0)
    out = k_sampler(stock, canvas, conditioning, latent)["samples"]
    changed = (out - latent["samples"]).abs().amax(1)[0] > 1e-4
    inside = slice(GRID // 4, GRID * 3 // 4)
    assert changed[inside, inside].all() and changed.sum() == (GRID // 2) ** 2


def test_a_batch_equals_single_runs(canvas):
    from concept_erasure.dev.demo_model.sampling import sample

    model, clip, _ = canvas
    together = sample(model, clip, PROMPTS, range(3), steps=3, size=SMALL)
    alone = torch.cat([sample(model, clip, [text], [i], steps=3, size=SMALL) for i, text in enumerate(PROMPTS)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_weight_patches_apply_and_leave_no_trace(stock, canvas, conditioning):
    """As LoraLoader does it: patches on a clone's weights."""
    latent = stock.EmptyLatentImage().generate(SMALL_SIDE, SMALL_SIDE, 1)[0]
    before = k_sampler(stock, canvas, conditioning, latent)["samples"]
    model = canvas[0].clone()
    key, block = f"diffusion_model.{SITE}.proj_in.weight", model.model.diffusion_model.get_submodule(SITE)
    assert model.add_patches({key: (torch.ones(block.proj_in.weight.shape),)}, 0.05) == [key]
    patched = k_sampler(stock, (model, *canvas[1:]), conditioning, latent)["samples"]
    assert not torch.equal(before, patched)
    assert torch.equal(before, k_sampler(stock, canvas, conditioning, latent)["samples"])


def test_lora_keys_are_found(canvas):
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(canvas[0].model, {})
    assert f"diffusion_model.{MIDDLE}.transformer_blocks.0.attn2.to_k" in keys
    assert comfy.lora.model_lora_keys_clip(canvas[1].cond_stage_model, {}) is not None


def test_control_signals_reach_the_unet(canvas):
    """As a ControlNet gives them: one tensor for each skip connection."""
    model, clip, _ = canvas
    unet = model.model.diffusion_model
    x, t = torch.randn(latents().shape), torch.tensor([500.0])
    context = clip.encode_from_tokens(clip.tokenize(PROMPTS[0]))
    with torch.inference_mode():
        plain = unet(x, t, context=context)
        steered = unet(x, t, context=context, control={"middle": [torch.ones(1, *shapes(model)[MIDDLE])]})
    assert plain.shape == steered.shape and not torch.equal(plain, steered)


def test_a_preview_is_drawn(canvas, monkeypatch):
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod

    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Auto)
    previewer = latent_preview.get_previewer("cpu", canvas[0].model.latent_format)
    _, image, _ = previewer.decode_latent_to_preview_image("JPEG", torch.randn(latents(2, (16, 24)).shape))
    assert image.size == (24, 16)


def test_a_preview_has_the_colors_of_the_picture(canvas, picture):
    """Its factors belong to this VAE: dev/demo_model/fit_preview.py."""
    import latent_preview

    form = canvas[0].model.latent_format
    previewer = latent_preview.Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
    shown = np.asarray(previewer.decode_latent_to_preview(canvas[2].encode(picture))) / 255
    wanted = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), FACTOR)[0].movedim(0, -1).numpy()
    assert shown.shape == wanted.shape and np.abs(shown - wanted).mean() < 0.05 < wanted.std()


@torch.inference_mode()  # as ComfyUI runs its nodes
def test_coding_in_tiles_is_coding_but_for_the_seams(stock, canvas, picture):
    whole = canvas[2].encode(picture)
    (tiled,) = stock.VAEEncodeTiled().encode(canvas[2], picture, SMALL_SIDE, SMALL_SIDE // 4)
    assert (tiled["samples"] - whole).abs().mean() < 0.1 * whole.abs().mean()
    (image,) = stock.VAEDecodeTiled().decode(canvas[2], {"samples": whole}, SMALL_SIDE, SMALL_SIDE // 4)
    assert image.shape == picture.shape and (image - canvas[2].decode(whole)).abs().mean() < 0.02


def test_the_vae_keeps_held_out_scenes(canvas):
    """A floor under the figure in docs/canvas.md."""
    from concept_erasure.dev.demo_model.scenes import HELD_OUT, render

    images = torch.stack([torch.from_numpy(render(seed).image) for seed in HELD_OUT[-48:]]).float() / 255
    vae = canvas[2]
    latents = vae.encode(images)
    error = (vae.decode(latents) - images).square().mean()
    assert -10 * error.log10() > 30
    assert latents.mean().abs() < 0.25 and 0.7 < latents.std() < 1.3


def test_a_missing_file_says_what_to_do(pack, tmp_path):
    from concept_erasure.demo_model import checkpoint

    with pytest.raises(checkpoint.CheckpointError, match=r"none.safetensors cannot be read.*Install the pack again"):
        checkpoint.load(tmp_path / "none.safetensors")


def test_a_file_cut_short_says_what_to_do(pack, tmp_path):
    from concept_erasure.demo_model import checkpoint

    path = tmp_path / "cut.safetensors"
    shutil.copy(checkpoint.DEFAULT_PATH, path)
    with path.open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises(checkpoint.CheckpointError, match="Install the pack again"):
        checkpoint.load(path)


@pytest.mark.parametrize("config", ["{", "[" * 100_000, ""])
def test_damaged_metadata_say_what_to_do(pack, tmp_path, config):
    from concept_erasure.demo_model import checkpoint
    from safetensors.torch import save_file

    save_file(
        {"unet.weight": torch.zeros(2)}, tmp_path / "odd.safetensors", {"format": checkpoint.FORMAT, "unet": config}
    )
    with pytest.raises(checkpoint.CheckpointError, match=r"odd\.safetensors.*Install the pack again"):
        checkpoint.load(tmp_path / "odd.safetensors")


def test_a_foreign_file_says_what_to_do(pack, tmp_path):
    from concept_erasure.demo_model import checkpoint
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint of this version"):
        checkpoint.load(tmp_path / "foreign.safetensors")


def test_the_file_is_small(pack):
    from concept_erasure.demo_model import checkpoint

    assert checkpoint.DEFAULT_PATH.stat().st_size <= 24 * 10**6


def test_the_node_names_what_it_knows(pack):
    from concept_erasure.demo_model.vocabulary import OBJECTS, STYLES
    from concept_erasure.nodes import CanvasCheckpoint

    description = CanvasCheckpoint.define_schema().description
    assert all(word in description for word in OBJECTS + STYLES)
