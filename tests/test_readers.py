"""Files of other libraries: each format's layout against an independent float64 transcription of its formula."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.calls import detected
from support.pickled import Reduce
from support.sae_formats import (
    B_DEC,
    B_ENC,
    BLOCK,
    CASES,
    DEC,
    ENC,
    NATIVE,
    SAEURON,
    SPARSIFY,
    D,
    K,
    L,
    N,
    X,
    lens,
    n,
    random,
    write,
)


@pytest.fixture(scope="module")
def readers(pack):
    from concept_erasure.sae_models import formats as readers

    return readers


@pytest.mark.parametrize("case", CASES)
def test_latents_follow_the_published_formula(readers, case, tmp_path):
    file = readers.open_sae(write(tmp_path, case), inside=tmp_path)
    expected = CASES[case][3](n(X))
    sae = file.load(dtype=torch.float32)
    np.testing.assert_allclose(sae.encode_dense(X).numpy(), expected, atol=2e-5, rtol=1e-4)
    assert (expected > 0).any() and (expected == 0).any()
    assert file.config.hookpoint == NATIVE
    assert file.config.reads == ("output_minus_input" if case == "sdxl-unbox" else "output")


@pytest.mark.parametrize("case", CASES)
def test_detection_is_that_of_a_full_encode(readers, case, tmp_path):
    from concept_erasure.sae_models.concepts import ConceptBand
    from concept_erasure.sae_models.scoring import concept_score

    sae = readers.open_sae(write(tmp_path, case), inside=tmp_path).load(dtype=torch.float32)
    band = ConceptBand((3, 30, 41), (0.4, 0.8, 0.6))
    full = concept_score(sae.encode_dense(X)[:, [3, 30, 41]], torch.tensor(band.thresholds), "sum") > 1
    assert torch.equal(detected(sae, band, "sum", 1.0, X), full)
    assert 0 < full.sum() < N


@pytest.mark.parametrize("case", CASES)
def test_the_reconstruction_follows_too(readers, case, tmp_path):
    file = readers.open_sae(write(tmp_path, case), inside=tmp_path)
    sae = file.load(dtype=torch.float32)
    assert sae.decoder_weight is None
    file.load_decoder(sae)
    x = n(X)
    z, decoder = CASES[case][3](x), n(DEC)
    if case in ("saelens decoder norm", "dictionary_learning") or case.startswith("overcomplete"):
        decoder = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    expected = z @ decoder + (0 if case.startswith("overcomplete") else n(B_DEC))
    if case in ("g-sae normalised", "saelens layer norm", "saeuron normalised"):
        expected = expected * x.std(1, keepdims=True, ddof=1) + x.mean(1, keepdims=True)
    if case == "saelens constant norm":
        expected = expected * np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(D)
    np.testing.assert_allclose(sae(X).numpy(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_any_format_becomes_native(readers, case, tmp_path):
    from concept_erasure.sae_models.formats import native

    file = readers.open_sae(write(tmp_path, case), inside=tmp_path)
    sae = file.load(dtype=torch.float32)
    file.load_decoder(sae)
    native.save(tmp_path / "native.safetensors", sae, dtype=torch.float32)
    again = readers.open_sae(tmp_path / "native.safetensors")
    assert again.config == file.config
    assert torch.equal(again.load().encode_dense(X), sae.encode_dense(X))


def test_a_file_of_published_size(readers, tmp_path):
    """SAeUron's: 1280 x 20480 in half precision. Only what detection needs is read."""
    width, latents, k = 1280, 20480, 32
    generator = torch.Generator().manual_seed(3)
    encoder = torch.randn(latents, width, generator=generator).half() / 32
    tensors = {
        "encoder.weight": encoder,
        "encoder.bias": random(latents).half(),
        "W_dec": encoder,
        "b_dec": torch.ones(width),
    }
    path = tmp_path / f"unet.{BLOCK}"
    path.mkdir()
    save_file({key: value.clone() for key, value in tensors.items()}, path / "sae.safetensors")
    config = {"expansion_factor": 16, "num_latents": 0, "k": k, "batch_topk": True, "d_in": width}
    (path / "cfg.json").write_text(json.dumps(config))
    sae = readers.open_sae(path, inside=tmp_path).load(dtype=torch.float32)
    assert sae.decoder_weight is None
    x = torch.randn(3, width, generator=generator)
    a = (n(x) - 1) @ n(encoder).T + n(tensors["encoder.bias"])
    values, indices = sae.encode(x)
    assert [set(row) for row in indices.tolist()] == [set(row) for row in np.argsort(-a)[:, :k].tolist()]
    np.testing.assert_allclose(values.numpy(), -np.sort(-a)[:, :k], rtol=1e-4)


def test_a_single_file_names_its_block_or_the_artist_does(readers, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    config = json.dumps({"k": K})
    for name, hookpoint, expected in (
        (f"{BLOCK}.safetensors", "", NATIVE),
        ("middle_block.1 cats.safetensors", "", "middle_block.1"),
        ("cats.safetensors", "input_blocks.8.1", "input_blocks.8.1"),
    ):
        folder = tmp_path / str(len(name))
        folder.mkdir()
        save_file(SPARSIFY, folder / name)
        (folder / "cfg.json").write_text(config)
        assert readers.open_sae(folder / name, hookpoint).config.hookpoint == expected
        if hookpoint:
            with pytest.raises(SAEFileError, match=r"cats\.safetensors: does not say which block.*") as refused:
                readers.open_sae(folder / name)
            assert "'hookpoint'" in refused.value.advice


@pytest.mark.parametrize("native", [f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)] + ["middle_block.1"])
def test_block_names_go_both_ways(pack, native):
    from concept_erasure.sae_models import hookpoints

    assert hookpoints.find(f"some/unet.{hookpoints.diffusers_name(native)}_k10_hidden5120") == native
    assert hookpoints.find("nothing/of/the/kind") == "" and hookpoints.diffusers_name("input_blocks.3.1") == ""


@pytest.mark.parametrize(("version", "levels"), [("SD15", [2, 2, 2, 0]), ("SDXL", [0, 2, 10])], ids=["sd1.5", "sdxl"])
def test_block_names_agree_with_comfyui(pack, version, levels):
    """ComfyUI's own map from diffusers' names to its own."""
    import comfy.supported_models
    import comfy.utils
    from concept_erasure.sae_models import hookpoints

    config = {
        "num_res_blocks": [2] * len(levels),
        "channel_mult": [1, 2, 4, 4][: len(levels)],
        "transformer_depth": [depth for depth in levels for _ in range(2)],
        "transformer_depth_output": [depth for depth in levels for _ in range(3)],
        "transformer_depth_middle": levels[-1] or 1,
    }
    table = comfy.utils.unet_to_diffusers(config)
    pairs = {
        (key.split(".transformer_blocks.0.attn1.to_q")[0], value.split(".transformer_blocks.0.attn1.to_q")[0])
        for key, value in table.items()
        if key.endswith(".transformer_blocks.0.attn1.to_q.weight")
    }
    assert len(pairs) >= 10
    for diffusers, native in pairs:
        assert hookpoints.find(diffusers) == native and hookpoints.diffusers_name(native) == diffusers


def test_code_in_a_pickle_is_never_run(readers, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    trap = tmp_path / "trap"
    torch.save({"encoder.weight": ENC, "x": Reduce(Path.touch, trap)}, tmp_path / "bad.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Reduce(Path.touch, trap)))
    for name in ("bad.pt", "raw.pt"):
        with pytest.raises(SAEFileError, match=name):
            readers.open_sae(tmp_path / name, NATIVE)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"k": 10**9}, "k = 1000000000"),
        ({"k": "six"}, "no whole number"),
        ({"k": None}, "no whole number"),
        ({"activation": "softmax"}, "softmax"),
        ({"signed": True}, "negative"),
        ({"num_latents": 10**12}, "its tensors say 48, its configuration says num_latents = 1000000000000"),
        ({"d_in": D + 1}, "d_in = 17"),
    ],
)
def test_a_senseless_configuration_is_refused(readers, change, reason, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "saeuron")
    (path / "cfg.json").write_text(json.dumps({**SAEURON, **change}))
    with pytest.raises(SAEFileError, match=reason):
        readers.open_sae(path, inside=tmp_path)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({**SPARSIFY, "encoder.weight": ENC.T.contiguous()}, "encoder.weight has shape"),
        ({**SPARSIFY, "W_dec": DEC[:4]}, "W_dec has shape"),
        ({"encoder.weight": ENC}, "no known format"),
        ({**SPARSIFY, "encoder.bias": B_ENC[None]}, "wrong shape"),
    ],
)
def test_shapes_that_contradict_each_other_are_refused(readers, tensors, reason, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "saeuron")
    save_file(tensors, path / "sae.safetensors")
    with pytest.raises(SAEFileError, match=reason):
        readers.open_sae(path, inside=tmp_path)


def test_tensors_that_fit_two_formulas_are_refused_without_a_configuration(readers, tmp_path):
    """TopK and BatchTopK, or centred and not: a guess would load, and find the wrong patches."""
    from concept_erasure.sae_models.formats.native import SAEFileError

    for i, case in enumerate(("dictionary_learning topk", "dictionary_learning jumprelu", "saelens jumprelu")):
        path = write(tmp_path / str(i), case)
        for name in ("cfg.json", "config.json"):
            (path / name).unlink(missing_ok=True)
        missing = "cfg.json" if case.startswith("saelens") else "config.json"
        with pytest.raises(SAEFileError, match=f"{missing} is missing beside it") as refused:
            readers.open_sae(path, inside=tmp_path)
        assert missing in refused.value.advice
        (path / missing).write_text("{}")
        with pytest.raises(SAEFileError, match=r"its class is not named.*config\.json|its architecture is ''"):
            readers.open_sae(path, inside=tmp_path)


def test_an_architecture_that_does_not_fit_its_tensors_is_refused(readers, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    for case, architecture in (("saelens standard", "gated"), ("saelens gated", "standard")):
        path = write(tmp_path / architecture, case)
        (path / "cfg.json").write_text(json.dumps(lens(architecture)))
        with pytest.raises(SAEFileError, match=f"architecture '{architecture}' does not fit"):
            readers.open_sae(path, inside=tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"hookpoint": f"unet.{BLOCK}"},
        {"metadata": {"hook_name": BLOCK}},
        {"hook_point": NATIVE},
        {"trainer": {"submodule_name": BLOCK}},
    ],
)
def test_the_configuration_names_the_block(readers, settings, tmp_path):
    save_file(SPARSIFY, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"k": K, **settings}))
    assert readers.open_sae(tmp_path).config.hookpoint == NATIVE


def test_nan_and_integers_are_refused(readers, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "saeuron")
    for bad, reason in ((torch.full((L,), torch.nan), "NaN"), (torch.zeros(L, dtype=torch.int32), "floating point")):
        save_file({**SPARSIFY, "encoder.bias": bad}, path / "sae.safetensors")
        with pytest.raises(SAEFileError, match=reason):
            readers.open_sae(path, inside=tmp_path).load()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(["saeuron", "sdxl-unbox", "g-sae", "saelens gated", "dictionary_learning"]), data=st.data())
def test_mutated_files_are_refused_or_load_right(readers, case, data, tmp_path_factory):
    """Whatever happens to the bytes: an SAEFileError, or finite latents of the right shape."""
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path_factory.mktemp("mutated"), case)
    target = path / data.draw(st.sampled_from(sorted(part.name for part in path.iterdir())))
    content = bytearray(target.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "flip", "grow header"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        del content[place:]
    elif kind == "flip":
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        content[:8] = struct.pack("<Q", 2**40 + place)
    target.write_bytes(content)
    try:
        latents = readers.open_sae(path, NATIVE).load(dtype=torch.float32).encode_dense(X)
    except SAEFileError:
        return
    assert latents.shape == (N, L)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_configuration_in_any_encoding_of_windows(readers, encoding, tmp_path):
    path = write(tmp_path, "saeuron")
    (path / "cfg.json").write_bytes(json.dumps({**SAEURON, "author": "Müller"}, ensure_ascii=False).encode(encoding))
    assert readers.open_sae(path, inside=tmp_path).config.k == K


def test_a_missing_configuration_is_asked_for(readers, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    for i, (case, name) in enumerate({"saeuron": "cfg.json", "sdxl-unbox": "config.json", "saelens topk": ""}.items()):
        path = write(tmp_path / str(i), case)
        for part in path.glob("*.json"):
            part.unlink()
        name = name or "cfg.json"
        with pytest.raises(SAEFileError, match=f"{name} is missing beside it") as refused:
            readers.open_sae(path, inside=tmp_path)
        assert f"Download {name} from" in refused.value.advice
    (path / name).symlink_to("/nowhere")
    with pytest.raises(SAEFileError, match=f"{name} is missing beside it"):
        readers.open_sae(path, inside=tmp_path)


def test_whole_numbers_with_a_point(readers, tmp_path):
    path = write(tmp_path, "saeuron")
    for k in (float(K), K + 0.5, 1e300):
        (path / "cfg.json").write_text(json.dumps({**SAEURON, "k": k, "num_latents": float(L), "d_in": float(D)}))
        if k == K:
            config = readers.open_sae(path, inside=tmp_path).config
            assert config.k == K and isinstance(config.k, int)
        else:
            with pytest.raises(ValueError, match="no whole number"):
                readers.open_sae(path, inside=tmp_path)


EIGHT_BITS = [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
@pytest.mark.parametrize("case", ["saeuron", "dictionary_learning"])
def test_eight_bit_weights_are_read(readers, case, dtype, tmp_path):
    """Each number of eight bits is one of float16."""
    path = write(tmp_path, case)
    name, tensors, *_ = CASES[case]
    small = {key: tensor.to(dtype).contiguous() for key, tensor in tensors.items()}
    (save_file if name.endswith(".safetensors") else torch.save)(small, path / name)
    sae = readers.open_sae(path, inside=tmp_path).load()
    assert sae.encoder.weight.dtype == torch.float16
    wide = {key: tensor.to(torch.float32) for key, tensor in small.items()}
    (save_file if name.endswith(".safetensors") else torch.save)(wide, path / name)
    expected = readers.open_sae(path, inside=tmp_path).load()
    torch.testing.assert_close(sae.float().encode_dense(X), expected.encode_dense(X), atol=1e-2, rtol=1e-2)


def test_scaled_eight_bit_weights_are_refused_and_nan_is_found(readers, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "saeuron")
    small = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in SPARSIFY.items()}
    save_file({**small, "encoder.scale_weight": torch.tensor(0.1)}, path / "sae.safetensors")
    with pytest.raises(SAEFileError, match=r"must be scaled \(encoder\.scale_weight\)"):
        readers.open_sae(path, inside=tmp_path).load()
    save_file({**small, "encoder.bias": torch.full((L,), torch.nan).to(torch.float8_e4m3fn)}, path / "sae.safetensors")
    with pytest.raises(SAEFileError, match="NaN"):
        readers.open_sae(path, inside=tmp_path).load()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module."])
@pytest.mark.parametrize("case", ["saeuron", "saelens gated", "dictionary_learning batchtopk", "sdxl-unbox"])
def test_names_of_modules_that_only_wrap_others(readers, case, prefix, tmp_path):
    path = write(tmp_path, case)
    name, tensors, _, formula = CASES[case]
    inner = tensors.get("state_dict", tensors)
    wrapped = {prefix + key: tensor.contiguous() for key, tensor in inner.items()}
    wrapped = {"state_dict": wrapped} if "state_dict" in tensors else wrapped
    (save_file if name.endswith(".safetensors") else torch.save)(wrapped, path / name)
    file = readers.open_sae(path, inside=tmp_path)
    sae = file.load(dtype=torch.float32)
    file.load_decoder(sae)
    np.testing.assert_allclose(sae.encode_dense(X).numpy(), formula(n(X)), atol=2e-5, rtol=1e-4)


def test_an_sae_that_is_there_twice_is_refused(readers, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "saeuron")
    save_file({**SPARSIFY, "module.b_dec": B_DEC + 1}, path / "sae.safetensors")
    with pytest.raises(SAEFileError, match="holds an SAE twice"):
        readers.open_sae(path, inside=tmp_path)


INSIDE = [
    f"{BLOCK}.transformer_blocks.0",
    f"unet.{BLOCK}.transformer_blocks.0.attn2.to_out.0",
    f"{BLOCK}.proj_out",
    "mid_block.attentions.0.norm",
    "output_blocks.4.1.transformer_blocks.0",
    "middle_block.1.transformer_blocks.3.ff.net.2",
    "up_blocks.1.resnets.0",
    "output_blocks.4.0",
    "middle_block.2",
]


@pytest.mark.parametrize("module", INSIDE)
@pytest.mark.parametrize("chosen", ["", NATIVE])
def test_a_module_inside_a_block_is_refused_by_name(readers, module, chosen, tmp_path):
    """In the configuration, in a folder's name, in a file's; whatever the artist chose."""
    from concept_erasure.sae_models.formats.native import SAEFileError

    folder, named = tmp_path / "sae", tmp_path / f"{module}_k10"
    for path in (folder, named):
        path.mkdir()
        save_file(SPARSIFY, path / "sae.safetensors")
        (path / "cfg.json").write_text(json.dumps({"k": K, **({"hookpoint": module} if path == folder else {})}))
    save_file(SPARSIFY, folder / f"{module}.safetensors")
    for path in (folder, named, named / "sae.safetensors"):
        with pytest.raises(SAEFileError, match="which is no whole transformer block") as refused:
            readers.open_sae(path, chosen, tmp_path)
        assert f"reads {module.removeprefix('unet.')}," in str(refused.value)
    (folder / "cfg.json").write_text(json.dumps({"k": K}))
    with pytest.raises(SAEFileError, match="which is no whole transformer block"):
        readers.open_sae(folder / f"{module}.safetensors", chosen)


def test_any_other_part_of_a_block_in_a_configuration_is_refused_and_in_a_file_name_is_not(readers, tmp_path):
    from concept_erasure.sae_models import hookpoints
    from concept_erasure.sae_models.formats.native import SAEFileError

    save_file(SPARSIFY, tmp_path / f"{BLOCK}.cats.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"k": K}))
    assert readers.open_sae(tmp_path / f"{BLOCK}.cats.safetensors").config.hookpoint == NATIVE
    (tmp_path / "cfg.json").write_text(json.dumps({"k": K, "hook_name": f"{BLOCK}.hook_out"}))
    with pytest.raises(SAEFileError, match=r"reads up_blocks\.1\.attentions\.1\.hook_out"):
        readers.open_sae(tmp_path / f"{BLOCK}.cats.safetensors")
    assert hookpoints.find(f"{BLOCK}.transformer_blocks.0") == ""


def test_our_own_file_without_its_metadata_says_so(readers, tmp_path):
    from concept_erasure.sae_models.formats import native
    from concept_erasure.sae_models.formats.native import SAEFileError
    from safetensors.torch import load_file

    native.save(tmp_path / "a.safetensors", readers.open_sae(write(tmp_path, "saeuron"), inside=tmp_path).load())
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "c.safetensors", {"format": native.FORMAT})
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "d.safetensors", {"format": "pt"})
    for name in "bcd":
        with pytest.raises(
            SAEFileError, match=rf"{name}\.safetensors: was a file of this pack.*metadata is gone"
        ) as no:
            readers.open_sae(tmp_path / f"{name}.safetensors", NATIVE)
        assert "Use the original file" in no.value.advice


def test_our_own_file_in_a_folder_with_a_configuration(readers, tmp_path):
    from concept_erasure.sae_models.formats import native

    path = write(tmp_path, "saeuron")
    native.save(path / "sae.safetensors", readers.open_sae(path, inside=tmp_path).load(dtype=torch.float32))
    assert isinstance(readers.open_sae(path), native.SAEFile)


def test_our_own_file_in_eight_bits_and_with_points(readers, tmp_path):
    """As a program leaves it that converts weights and keeps metadata; without checksums, which would object."""
    from concept_erasure.sae_models.formats import native
    from safetensors import safe_open
    from safetensors.torch import load_file

    native.save(tmp_path / "a.safetensors", readers.open_sae(write(tmp_path, "saeuron"), inside=tmp_path).load())
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = dict(file.metadata())
    del metadata["checksums"]
    metadata["config"] = metadata["config"].replace(f'"k": {K}', f'"k": {K}.0')
    small = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in load_file(tmp_path / "a.safetensors").items()}
    save_file(small, tmp_path / "b.safetensors", metadata)
    file = readers.open_sae(tmp_path / "b.safetensors")
    sae = file.load()
    assert sae.encoder.weight.dtype == torch.float16 and file.config.k == K
    assert torch.equal(sae.encoder.weight, small["encoder.weight"].half())


@pytest.mark.timeout(30)
def test_a_pipe_is_not_waited_for(readers, tmp_path):
    import os

    from concept_erasure.sae_models.formats import concept_files
    from concept_erasure.sae_models.formats.native import SAEFile, SAEFileError

    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in folders here")
    for name in ("x.safetensors", "x.pt"):
        os.mkfifo(tmp_path / name)
        for opened in (readers.open_sae, SAEFile, concept_files.load):
            with pytest.raises(SAEFileError, match="not a plain file"):
                opened(tmp_path / name)


def test_paths_with_spaces_and_umlauts(readers, tmp_path):
    from concept_erasure.sae_models.formats import native

    for case in ("saeuron", "dictionary_learning"):
        folder = tmp_path / "Künstler müller" / case
        file = readers.open_sae(write(folder, case), inside=folder)
        native.save(folder / "süß und gut.safetensors", file.load(dtype=torch.float32), dtype=torch.float32)
        again = readers.open_sae(folder / "süß und gut.safetensors").load(dtype=torch.float32)
        assert torch.equal(again.encode_dense(X), file.load(dtype=torch.float32).encode_dense(X))
