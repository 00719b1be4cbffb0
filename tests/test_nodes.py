"""The nodes themselves: what they give, and what they say when the input is wrong."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.demo_model import MIDDLE, SITE, SMALL, SMALL_SIDE, latents
from support.running import detect, sample


@pytest.fixture
def detection(nodes, sae):
    return detect(nodes, sae)[0]


USUAL = {
    "replace_at": "middle and SAE block",
    "source_share": 0.25,
    "apply_to": "positive",
    "source_seed": 0,
    "blocks": "",
}


def replace(nodes, model, detection, mode="similar", **inputs):
    return nodes.PatchReplacer.execute(model=model, detection=detection, replacement=mode, **{**USUAL, **inputs}).args


def refine(nodes, detection, grow=0, close_holes=0, min_patches=0, persistence=0, region=None, min_area=0.0):
    execute = nodes.MaskRefiner.execute
    return execute(detection, grow, close_holes, min_patches, persistence, region, min_area).args[0]


def test_only_the_encoder_is_loaded_until_the_decoder_is_asked_for(sae):
    assert sae.module.decoder_weight is None
    assert sae.patcher.model is sae.module
    assert sae.load_decoder().decoder_weight.shape == sae.module.encoder.weight.shape
    sae.module.decoder_weight = None


def test_concept_and_latents_and_custom_concept(nodes, sae):
    _, concept = detect(nodes, sae)
    assert concept.name == "cat"
    by_features, chosen = detect(nodes, sae, features=" 3, 5 7")
    assert chosen.bands[0].features == (3, 5, 7) and by_features.concept is chosen
    _, custom = detect(nodes, sae, concept="dog", custom_concept=concept)
    assert custom is concept


def test_joining(nodes, sae, detection):
    from concept_erasure.erasure.detection import Join, detectors

    joined, _ = detect(nodes, sae, concept="dog", join_mode="intersection", join_with=detection)
    assert isinstance(joined, Join) and joined.mode == "intersection"
    assert [leaf.concept.name for leaf in detectors(joined)] == ["cat", "dog"]


def test_a_neutral_refiner_gives_back_its_input(nodes, detection):
    assert refine(nodes, detection) is detection
    assert refine(nodes, detection, min_patches=1) is detection
    assert refine(nodes, detection, grow=1) is not detection


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"concept": "unicorn"}, "input 'concept'.*unicorn.*cat"),
        ({"features": "12, cat"}, "input 'features' must hold whole numbers"),
        ({"features": "0, 999999"}, "input 'features': 999999 is out of range.*features 0 to"),
        ({"features": "-1"}, "input 'features': -1 is out of range"),
        ({"start_percent": 0.8, "end_percent": 0.2}, r"'start_percent' \(0.8\) is after"),
    ],
)
def test_wrong_concepts_and_ranges(nodes, sae, inputs, message):
    with pytest.raises(ValueError, match=f"Concept Detector.*{message}"):
        detect(nodes, sae, **inputs)


def test_a_concept_of_another_sae(nodes, sae):
    from concept_erasure.sae_models.concepts import Concept, ConceptBand

    foreign = Concept("whale", (0.0, 1000.0), (ConceptBand((10**6,), (1.0,)),))
    with pytest.raises(ValueError, match=r"custom_concept.*made for another SAE"):
        detect(nodes, sae, custom_concept=foreign)


def test_files_by_name_only(nodes):
    for name in ("../../etc/passwd", "/etc/passwd", "shipped/../weights/none.safetensors", "shipped/"):
        with pytest.raises(ValueError, match=r"SAE Loader: there is no SAE file .*models/sae"):
            nodes.SAELoader.execute(name)


def test_user_folder_and_damaged_files(nodes, tmp_path, monkeypatch):
    import folder_paths
    from concept_erasure.nodes import files

    good = (files.SHIPPED / files.names()[0].removeprefix(files.SHIPPED_PREFIX)).read_bytes()
    (tmp_path / "mine.safetensors").write_bytes(good)
    (tmp_path / "cut.safetensors").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "notes.txt").write_text("not listed")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("sae", None)
    listed = [name for name in files.names() if not name.startswith(files.SHIPPED_PREFIX)]
    assert listed == ["cut.safetensors", "mine.safetensors", "text.safetensors"]
    assert nodes.SAELoader.execute("mine.safetensors").args[0].name == "mine.safetensors"
    assert "cat" in files.concept_names(), "a damaged file does not hide the others"
    for name in ("cut.safetensors", "text.safetensors"):
        with pytest.raises(ValueError, match=f"SAE Loader: {name}.*input 'sae_file'"):
            nodes.SAELoader.execute(name)
    folder_paths.filename_list_cache.pop("sae", None)


def test_folders_that_others_configured_stay(nodes, tmp_path, monkeypatch):
    """As extra_model_paths.yaml does it: the folder is known before this pack loads, without extensions."""
    import folder_paths
    from concept_erasure.nodes import files

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path)], set()))
    files.register_folder()
    files.register_folder()
    paths, extensions = folder_paths.folder_names_and_paths["sae"]
    assert paths == [str(Path(folder_paths.models_dir) / "sae"), str(tmp_path)], "files are saved in the first"
    assert extensions == {".safetensors", ".pt", ".pth"}


def test_a_published_folder_is_one_entry(nodes, tmp_path, monkeypatch):
    """As downloaded: configuration and weights, beside statistics that are no SAE."""
    import json

    import folder_paths
    import torch
    from concept_erasure.nodes import files

    folder = tmp_path / "unbox" / "unet.down_blocks.2.attentions.1_k4"
    folder.mkdir(parents=True)
    weights = {"encoder.weight": torch.randn(12, 8), "decoder.weight": torch.randn(8, 12), "pre_bias": torch.zeros(8)}
    weights |= {"latent_bias": torch.zeros(12), "stats_last_nonzero": torch.zeros(12, dtype=torch.long)}
    torch.save({"state_dict": weights}, folder / "state_dict.pth")
    torch.save(torch.zeros(12), folder / "mean.pt")
    (folder / "config.json").write_text(json.dumps({"n_dirs_local": 12, "d_model": 8, "k": 4}))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path)], set(files.EXTENSIONS)))
    folder_paths.filename_list_cache.pop("sae", None)
    name = "unbox/unet.down_blocks.2.attentions.1_k4"
    try:
        assert [entry for entry in files.names() if not entry.startswith(files.SHIPPED_PREFIX)] == [name]
        config = nodes.SAELoader.execute(name).args[0].config
        assert (config.hookpoint, config.reads, config.k) == ("input_blocks.8.1", "output_minus_input", 4)
        chosen = nodes.SAELoader.execute(name, "middle_block.1 = mid_block.attentions.0", "output").args[0].config
        assert (chosen.hookpoint, chosen.reads) == ("middle_block.1", "output")
        before = nodes.SAELoader.fingerprint_inputs(name)
        assert before == nodes.SAELoader.fingerprint_inputs(name)
        (folder / "config.json").write_text(json.dumps({"n_dirs_local": 12, "d_model": 8, "k": 10}))
        assert before != nodes.SAELoader.fingerprint_inputs(name)
        assert nodes.SAELoader.execute(name).args[0].config.k == 10
        with pytest.raises(ValueError, match="there is no SAE file"):
            files.resolve("unbox/../unbox")
    finally:
        folder_paths.filename_list_cache.pop("sae", None)


def test_weights_of_any_name_are_listed_and_watched_with_their_configuration(nodes, tmp_path, monkeypatch):
    import json

    import folder_paths
    from concept_erasure.nodes import files
    from safetensors.torch import save_file

    width, count = 8, 12
    weights = {"encoder.weight": torch.randn(count, width), "encoder.bias": torch.zeros(count)}
    weights |= {"W_dec": torch.randn(count, width), "b_dec": torch.zeros(width)}
    for folder, name in ((tmp_path, "sae.safetensors"), (tmp_path / "mid_block.attentions.0", "objects.safetensors")):
        folder.mkdir(exist_ok=True)
        save_file(weights, folder / name)
        (folder / "cfg.json").write_text(json.dumps({"k": 4}))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path)], set(files.EXTENSIONS)))
    folder_paths.filename_list_cache.pop("sae", None)
    try:
        own = [name for name in files.names() if not name.startswith(files.SHIPPED_PREFIX)]
        assert sorted(own) == ["mid_block.attentions.0/objects.safetensors", "sae.safetensors"]
        assert nodes.SAELoader.execute(sorted(own)[0]).args[0].config.hookpoint == "middle_block.1"
        for name in own:
            before = nodes.SAELoader.fingerprint_inputs(name)
            (tmp_path / name).with_name("cfg.json").write_text(json.dumps({"k": 11}))
            after = nodes.SAELoader.fingerprint_inputs(name)
            assert after != before
            (tmp_path / name).with_name("notes.txt").write_text("of no consequence")
            assert nodes.SAELoader.fingerprint_inputs(name) == after
    finally:
        folder_paths.filename_list_cache.pop("sae", None)


def test_a_changed_file_is_read_again(nodes, tmp_path, monkeypatch):
    import os

    from concept_erasure.nodes import files

    path = tmp_path / "a.safetensors"
    path.write_bytes(b"one")
    monkeypatch.setattr(files, "resolve", lambda name: str(path))
    first = nodes.SAELoader.fingerprint_inputs("a")
    assert nodes.SAELoader.fingerprint_inputs("a") == first
    os.utime(path, (1, 1))
    assert nodes.SAELoader.fingerprint_inputs("a") != first


def with_config(sae, **changes):
    """The same SAE, said to read another block or width."""
    import copy
    from dataclasses import replace as changed

    module = copy.copy(sae.module)
    module.config = changed(sae.config, **changes)
    return changed(sae, module=module)


def test_an_sae_that_does_not_fit(nodes, sae, canvas):
    from concept_erasure.erasure.detection import Detector
    from concept_erasure.unet.blocks import hookpoints

    concept, widths = sae.concept("cat"), hookpoints(canvas[0])
    narrow = Detector(with_config(sae, hookpoint=MIDDLE), concept)
    said = rf"Patch Replacer.*reads {widths[SITE]} channels.*input 'model' has {widths[MIDDLE]}.*{re.escape(SITE)}"
    with pytest.raises(ValueError, match=said):
        replace(nodes, canvas[0], narrow)
    elsewhere = Detector(with_config(sae, hookpoint="output_blocks.99.1"), concept)
    with pytest.raises(ValueError, match=r"output_blocks\.99\.1.*does not have.*Its blocks: input_blocks"):
        replace(nodes, canvas[0], elsewhere)


def test_the_published_method_is_one_choice(nodes, detection, canvas):
    """The paper's: random source patches out of all undetected ones, where the SAE reads."""
    published, record = replace(nodes, canvas[0], detection, "published")
    spelled_out, _ = replace(nodes, canvas[0], detection, "random", replace_at="SAE block", source_share=1.0)
    assert torch.equal(sample(canvas, published), sample(canvas, spelled_out))
    assert {hookpoint for hookpoint, _, _ in record.latest.entries} == {SITE}


def test_where_to_replace(nodes, detection, canvas):
    from concept_erasure.unet.blocks import hookpoints

    where = {"replace_at": "listed blocks"}
    names = f"{MIDDLE}, mid_block.attentions.0 {SITE}"
    assert replace(nodes, canvas[0], detection, blocks=names, **where)[0] is not canvas[0]
    with pytest.raises(ValueError, match=r"input 'blocks': the_middle is no block's name"):
        replace(nodes, canvas[0], detection, blocks="the_middle", **where)
    with pytest.raises(ValueError, match=r"input 'blocks': it is empty"):
        replace(nodes, canvas[0], detection, **where)
    there = rf"{re.escape(SITE)}[^,]* \({hookpoints(canvas[0])[SITE]}\)"
    with pytest.raises(ValueError, match=rf"input 'blocks' names output_blocks\.11\.1.*{there}"):
        replace(nodes, canvas[0], detection, blocks="output_blocks.11.1", **where)


def test_a_model_that_is_no_unet(nodes, detection, canvas):
    class Transformer(torch.nn.Module):
        pass

    model = canvas[0].clone()
    model.add_object_patch("diffusion_model", Transformer())
    with pytest.raises(ValueError, match=r"Patch Replacer.*is a Transformer.*SD1\.5"):
        replace(nodes, model, detection)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (torch.zeros(0, 8, 8), "no usable mask"),
        (torch.zeros(1, 1, 8, 8), "no usable mask"),
        (torch.full((1, 8, 8), torch.nan), "NaN"),
    ],
)
def test_wrong_regions(nodes, detection, region, message):
    with pytest.raises(ValueError, match=f"Mask Refiner: input 'region'.*{message}"):
        refine(nodes, detection, region=region)


def test_a_region_for_another_batch(nodes, detection, canvas):
    model, _ = replace(nodes, canvas[0], refine(nodes, detection, region=torch.ones(3, 20, 30)))
    with pytest.raises(ValueError, match="holds 3 masks, but 2 image"):
        sample(canvas, model, count=2)


def test_a_region_with_a_conditioning_area(nodes, sae, canvas):
    import comfy.sample

    found, _ = detect(nodes, sae)
    model, _ = replace(nodes, canvas[0], refine(nodes, found, region=torch.ones(1, 8, 8)))
    cond, extra = canvas[1].encode_from_tokens_scheduled(canvas[1].tokenize("A cat"))[0]
    area = [[cond, {**extra, "area": (8, 8, 0, 0), "strength": 1.0, "set_area_to_bounds": False}]]
    latent = latents()
    noise = comfy.sample.prepare_noise(latent, 1)
    with pytest.raises(ValueError, match="Mask Refiner: its input 'region' cannot be placed"):
        comfy.sample.sample(model, noise, 2, 4.5, "euler", "normal", area, area, latent, seed=1)


def test_preview_shapes_and_mask(nodes, sae, canvas):
    found, _ = detect(nodes, sae, sensitivity=3.0)
    model, record = replace(nodes, canvas[0], found)
    image = canvas[2].decode(sample(canvas, model, count=2, size=(SMALL[0], SMALL[1] * 3 // 2)))
    height, width = SMALL_SIDE, SMALL_SIDE * 3 // 2
    assert image.shape == (2, height, width, 3)
    kept = image.clone()
    output = nodes.DetectionPreview.execute(record, image, 3, "any step")
    preview, mask, remaining, said = output.args
    assert isinstance(remaining, bool) and said == record.latest.summary()
    assert preview.shape[0] == 2 and preview.shape[1] > height and preview.shape[2:] == (width * 4, 3)
    assert mask.shape == (2, height, width)
    assert set(mask.unique().tolist()) <= {0.0, 1.0} and mask.max() == 1
    assert torch.equal(image, kept), "the input picture is not drawn on"
    _, share, _, _ = nodes.DetectionPreview.execute(record, image, 0, "share of steps").args
    assert torch.equal(share > 0, mask > 0) and preview.min() >= 0 and preview.max() <= 1
    shown = output.ui if isinstance(output.ui, dict) else output.ui.as_dict()
    assert shown["images"] and "Run 1 (seed 5" in shown["text"][0]


def test_preview_of_a_run_that_was_not(nodes, detection, canvas):
    _, record = replace(nodes, canvas[0], detection)
    with pytest.raises(ValueError, match=r"Detection Preview: the model.*has not been sampled"):
        nodes.DetectionPreview.execute(record, torch.zeros(1, 8, 8, 3), 0, "any step")
    model, record = replace(nodes, canvas[0], detection)
    sample(canvas, model, count=2)
    with pytest.raises(ValueError, match=r"holds 1 image\(s\).*made 2"):
        nodes.DetectionPreview.execute(record, torch.zeros(1, 8, 8, 3), 0, "any step")


def test_one_model_in_two_samplers_shows_the_later_run(nodes, detection, canvas):
    model, record = replace(nodes, canvas[0], detection)
    sample(canvas, model)
    sample(canvas, model, count=3)
    assert record.latest.number == 2 and record.latest.images == 3
    assert record.latest.summary().startswith("Run 2 (seed 5, 3 image(s)")


def test_img2img_and_inpainting(nodes, sae, canvas):
    """Stock nodes end to end: encode, noise mask, partial denoise."""
    import nodes as stock

    found, _ = detect(nodes, sae, sensitivity=3.0)
    model, record = replace(nodes, canvas[0], found)
    clip, vae = canvas[1:]
    positive = stock.CLIPTextEncode().encode(clip, "A cat image in photo style")[0]
    negative = stock.CLIPTextEncode().encode(clip, "")[0]
    image = torch.rand(1, SMALL_SIDE, SMALL_SIDE, 3)
    hole = torch.zeros(1, SMALL_SIDE, SMALL_SIDE)
    middle = slice(SMALL_SIDE // 4, SMALL_SIDE * 3 // 4)
    hole[:, middle, middle] = 1
    latents = [
        stock.VAEEncode().encode(vae, image)[0],
        stock.VAEEncodeForInpaint().encode(vae, image, hole, 6)[0],
        stock.SetLatentNoiseMask().set_mask(stock.VAEEncode().encode(vae, image)[0], hole)[0],
        stock.EmptyLatentImage().generate(SMALL_SIDE * 3 // 2, SMALL_SIDE, 2)[0],
    ]
    for latent in latents:
        result = stock.KSampler().sample(model, 3, 4, 4.5, "euler", "normal", positive, negative, latent, denoise=0.7)[
            0
        ]
        assert torch.isfinite(stock.VAEDecode().decode(vae, result)[0]).all()
        assert record.latest.seed == 3 and len(record.latest.sigmas()) == 4


def test_shipped_files_carry_their_facts(nodes):
    from concept_erasure.nodes import files
    from concept_erasure.sae_models.formats.native import SAEFile

    shipped = [name for name in files.names() if name.startswith(files.SHIPPED_PREFIX)]
    assert len(shipped) >= 2
    for name in shipped:
        file = SAEFile(files.resolve(name))
        assert file.facts["licence"] and file.facts["trained_on"] and file.config.model_family == "canvas"
        assert len(file.concept_names()) == 20
        assert "encoder.weight" in load_file(files.resolve(name))
