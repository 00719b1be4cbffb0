"""Which blocks of which UNet an SAE can read, on UNets as ComfyUI recognises and builds them from their weights.

The UNets have their full size and lie on the meta device, so they take no memory. Expected names are written out here:
they come from the layouts that the models' authors publish for diffusers.
"""

from types import SimpleNamespace

import pytest
import torch
from support import demo_model
from support.running import whole_layers

COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "adm_in_channels": None,
    "use_linear_in_transformer": True,
    "num_head_channels": 64,
    "model_channels": 320,
}
SD2 = COMMON | {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 1024,
}
SD1 = SD2 | {"use_linear_in_transformer": False, "num_heads": 8, "num_head_channels": -1, "context_dim": 768}
XL = COMMON | {
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
}
KOALA = XL | {
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5],
    "transformer_depth_middle": -2,
}
REFINER = XL | {
    "model_channels": 384,
    "adm_in_channels": 2560,
    "context_dim": 1280,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
    "transformer_depth_middle": 4,
}
SSD1B = XL | {
    "transformer_depth": [0, 0, 2, 2, 4, 4],
    "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
    "transformer_depth_middle": -1,
}
VEGA = XL | {
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": -1,
}
SDXS = SD1 | {
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": -2,
    "num_heads": 8,
}
MIDDLE = {"middle_block.1": "mid_block.attentions.0"}


def two_a_level(down, up):
    """Names where each level has two residual blocks on the way down and three on the way up."""
    inputs = {
        f"input_blocks.{3 * level + i + 1}.1": f"down_blocks.{level}.attentions.{i}" for level in down for i in (0, 1)
    }
    outputs = {
        f"output_blocks.{3 * level + i}.1": f"up_blocks.{level}.attentions.{i}" for level in up for i in (0, 1, 2)
    }
    return inputs | outputs


SD_NAMES = two_a_level((0, 1, 2), (1, 2, 3)) | MIDDLE
XL_NAMES = two_a_level((1, 2), (0, 1)) | MIDDLE
PRUNED_NAMES = two_a_level((1, 2), (0, 1))
ONE_A_LEVEL = {
    "input_blocks.3.1": "down_blocks.1.attentions.0",
    "input_blocks.5.1": "down_blocks.2.attentions.0",
    "output_blocks.0.1": "up_blocks.0.attentions.0",
    "output_blocks.1.1": "up_blocks.0.attentions.1",
    "output_blocks.2.1": "up_blocks.1.attentions.0",
    "output_blocks.3.1": "up_blocks.1.attentions.1",
}
CASES = {
    "SD1.5": ("SD15", SD1, SD_NAMES),
    "SD1.5 inpainting": ("SD15", SD1 | {"in_channels": 9}, SD_NAMES),
    "SD1.5 instruct-pix2pix": ("SD15_instructpix2pix", SD1 | {"in_channels": 8}, SD_NAMES),
    "SD2": ("SD20", SD2, SD_NAMES),
    "SD2 inpainting": ("SD20", SD2 | {"in_channels": 9}, SD_NAMES),
    "SD-XS": ("SD15", SDXS, ONE_A_LEVEL),
    "SDXL, turbo, lightning": ("SDXL", XL, XL_NAMES),
    "SDXL inpainting": ("SDXL", XL | {"in_channels": 9}, XL_NAMES),
    "SDXL instruct-pix2pix": ("SDXL_instructpix2pix", XL | {"in_channels": 8}, XL_NAMES),
    "SDXL refiner": ("SDXLRefiner", REFINER, two_a_level((1, 2), (1, 2)) | MIDDLE),
    "SSD-1B": ("SSD1B", SSD1B, PRUNED_NAMES),
    "Vega": ("Segmind_Vega", VEGA, PRUNED_NAMES),
    "KOALA 700M": ("KOALA_700M", KOALA, ONE_A_LEVEL),
    "KOALA 1B": (
        "KOALA_1B",
        KOALA
        | {
            "transformer_depth": [0, 2, 6],
            "transformer_depth_output": [0, 0, 2, 2, 6, 6],
            "transformer_depth_middle": 6,
        },
        ONE_A_LEVEL | MIDDLE,
    ),
}


def built(config):
    """Build a UNet on the meta device, then let ComfyUI recognise its weights and build its own model."""
    import comfy.model_detection
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.model_patcher import ModelPatcher

    weights = UNetModel(**config, device="meta", dtype=torch.float16, operations=whole_layers()).state_dict()
    # ComfyUI tells SD2's two kinds of prediction apart by the spread of these numbers.
    telling = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if telling in weights:
        weights[telling] = torch.zeros(weights[telling].shape)
    recognised = comfy.model_detection.model_config_from_unet(weights, "")
    assert recognised is not None
    model = recognised.get_model(weights, "", device="meta")
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu")), type(recognised).__name__


@pytest.mark.parametrize(("family", "config", "names"), CASES.values(), ids=CASES.keys())
def test_blocks_and_both_names_of_every_unet(pack, family, config, names):
    from concept_erasure.unet import blocks

    model, recognised = built(config)
    assert recognised == family
    assert blocks.diffusers_names(model) == names
    available = blocks.hookpoints(model)
    assert set(available) == set(names)
    network = model.model.diffusion_model
    assert available == {path: network.get_submodule(path).norm.num_channels for path in names}


@pytest.mark.parametrize("key", ["SD1.5", "SDXL, turbo, lightning", "SSD-1B", "SDXL refiner"])
def test_names_in_files_are_those_of_the_model(pack, key):
    """Where levels have two residual blocks, a name can be read before the model is known."""
    from concept_erasure.sae_models import hookpoints

    _, _, names = CASES[key]
    for native, diffusers in names.items():
        assert hookpoints.find(f"x/unet.{diffusers}_k10") == native and hookpoints.diffusers_name(native) == diffusers


def test_every_block_can_be_chosen(pack):
    from concept_erasure.sae_models import hookpoints

    wanted = {path for _, _, names in CASES.values() for path in names}
    assert wanted <= set(hookpoints.known())


def test_levels_of_unequal_length_have_no_known_names(pack, monkeypatch):
    """ComfyUI's map does not hold there, so nothing is said rather than something wrong."""
    from concept_erasure.unet import blocks

    config = XL | {"num_res_blocks": [1, 2, 2], "transformer_depth": [0, 2, 2, 10, 10]}
    config["transformer_depth_output"] = [0, 0, 2, 2, 2, 10, 10, 10]
    model = SimpleNamespace(
        model=SimpleNamespace(model_config=SimpleNamespace(unet_config=config)), get_model_object=lambda _: None
    )
    assert blocks.diffusers_names(model) == {}
    monkeypatch.setattr(blocks, "hookpoints", lambda _: {"output_blocks.4.1": 640})
    with pytest.raises(ValueError, match="in the model at input 'model' is an unknown block"):
        blocks.check_fit(model, sae(640, "output_blocks.4.1", "up_blocks.1.attentions.1"), "Patch Replacer")


def test_the_shipped_model(canvas):
    from concept_erasure.unet import blocks

    assert set(blocks.diffusers_names(canvas[0])) == set(blocks.hookpoints(canvas[0]))
    assert blocks.diffusers_names(canvas[0])[demo_model.MIDDLE] == "mid_block.attentions.0"
    assert blocks.diffusers_names(canvas[0])[demo_model.SITE].startswith("up_blocks.")


def sae(width, block, said=""):
    config = SimpleNamespace(hookpoint=block, d_in=width)
    return SimpleNamespace(name="mine", config=config, file=SimpleNamespace(said_block=said))


@pytest.mark.parametrize(
    ("key", "wanted", "message"),
    [
        (
            "SSD-1B",
            sae(1280, "middle_block.1"),
            r"does not have. Its blocks: .*input_blocks.8.1 = down_blocks.2.attentions.1",
        ),
        (
            "SD1.5",
            sae(640, "output_blocks.4.1"),
            r"has 1280. Blocks of that width: input_blocks.4.1 = down_blocks.1.att",
        ),
        ("KOALA 700M", sae(640, "output_blocks.3.1", "up_blocks.1.attentions.0"), r"is output_blocks.2.1, and not"),
        ("KOALA 700M", sae(640, "output_blocks.5.1", "up_blocks.1.attentions.2"), r"does not have. Its blocks"),
        ("SD-XS", sae(1280, "output_blocks.2.1", "up_blocks.0.attentions.2"), r"is no block, and not"),
    ],
)
def test_an_sae_that_does_not_fit_says_what_would(pack, key, wanted, message):
    from concept_erasure.unet import blocks

    with pytest.raises(ValueError, match=f"^Patch Replacer: .*{message}"):
        blocks.check_fit(built(CASES[key][1])[0], wanted, "Patch Replacer")


def test_an_sae_that_fits_is_let_through(pack):
    from concept_erasure.unet import blocks

    model, _ = built(CASES["KOALA 700M"][1])
    blocks.check_fit(model, sae(640, "output_blocks.3.1"), "Patch Replacer")
    blocks.check_fit(model, sae(1280, "output_blocks.1.1", "up_blocks.0.attentions.1"), "Patch Replacer")


@pytest.mark.parametrize("family", ["Flux", "SD3", "PixArtAlpha"])
def test_a_transformer_model_is_refused_as_such(pack, family):
    """Built as ComfyUI builds it; the sizes do not matter for what it lacks."""
    import comfy.supported_models
    from comfy.ldm.flux.model import FluxParams
    from comfy.model_patcher import ModelPatcher
    from concept_erasure.unet import blocks

    sizes = {
        "Flux": {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 8,
                 "context_in_dim": 8, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
                 "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True,
                 "guidance_embed": True},
        "SD3": {"in_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "adm_in_channels": 8,
                "context_embedder_config": {"target": "torch.nn.Linear",
                                            "params": {"in_features": 8, "out_features": 128}}},
        "PixArtAlpha": {"image_model": "pixart_alpha", "hidden_size": 32, "num_heads": 2, "depth": 1,
                        "input_size": 8, "caption_channels": 8},
    }  # fmt: skip
    if "txt_ids_dims" in FluxParams.__dataclass_fields__:  # since 2026
        sizes["Flux"]["txt_ids_dims"] = []
    config = getattr(comfy.supported_models, family)(sizes[family])
    config.set_inference_dtype(torch.float32, None)
    model = ModelPatcher(config.get_model({}, "", device="meta"), torch.device("cpu"), torch.device("cpu"))
    assert blocks.hookpoints(model) == {} and blocks.diffusers_names(model) == {}
    kind = type(model.model.diffusion_model).__name__
    with pytest.raises(ValueError, match=f"Patch Replacer: the model at input 'model' is a {kind}, which has no"):
        blocks.check_fit(model, sae(1280, "output_blocks.4.1"), "Patch Replacer")
