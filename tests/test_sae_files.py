"""The native file format: round trip, laziness, and files that must be refused."""

import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def native(pack):
    from concept_erasure.sae_models.formats import native

    return native


@pytest.fixture(scope="module")
def sae_file(native, tmp_path_factory):
    """A small SAE with a dictionary."""
    from concept_erasure.sae_models.concepts import Concept, ConceptBand, ConceptDictionary
    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder

    torch.manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(8, 32, 4, "output_blocks.1.1"), with_decoder=True)
    torch.nn.init.normal_(sae.decoder_weight)
    edges = (0.0, 500.0, 1000.0)
    bands = (ConceptBand((1, 2), (0.5, 0.25), (0.75, 0.5)), ConceptBand((3,), (0.125,), (0.5,)))
    dictionary = ConceptDictionary({"cat": Concept("cat", edges, bands)}, edges, torch.rand(2, 32))
    path = tmp_path_factory.mktemp("sae") / "small.safetensors"
    native.save(path, sae, dictionary, {"licence": "Apache-2.0"}, dtype=torch.float32)
    return path, sae, dictionary


def test_round_trip(native, sae_file):
    path, sae, dictionary = sae_file
    file = native.SAEFile(path)
    loaded = file.load()
    assert file.config == sae.config and file.facts == {"licence": "Apache-2.0"}
    assert file.concept_names() == ["cat"]
    assert file.dictionary().concepts == dictionary.concepts
    assert loaded.decoder_weight is None, "only the encoder is read"
    file.load_decoder(loaded)
    x = torch.randn(5, 8)
    assert torch.equal(loaded(x), sae(x))


def rewrite(path, out, change_tensors=None, change_metadata=None, keep_checksums=False):
    """Copy a file with changes, as one that never had checksums: those would notice each of them first."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    if not keep_checksums:
        del metadata["checksums"]
    tensors = load_file(path)
    if change_tensors:
        change_tensors(tensors)
    if change_metadata:
        change_metadata(metadata)
    save_file(tensors, out, metadata)
    return out


def with_config(**values):
    def change(metadata):
        metadata["config"] = json.dumps({**json.loads(metadata["config"]), **values})

    return change


def with_edges(edges):
    return lambda metadata: metadata.update(dictionary=f'{{"band_edges": {edges}, "concepts": {{}}}}')


def as_float(key):
    return lambda tensors: tensors.update({key: tensors[key].float()})


def as_half(key):
    return lambda tensors: tensors.update({key: tensors[key].half()})


def set_nan(tensors):
    tensors["encoder.weight"][3, 3] = torch.nan


def wrong_feature(tensors):
    tensors["dictionary.cat.0.latents"][0] = 99


@pytest.mark.parametrize(
    ("tensors", "metadata", "reason"),
    [
        (None, lambda m: m.pop("format"), "no SAE file of this pack"),
        (None, with_config(d_in=9), "shape"),
        (None, with_config(num_latents=10**12), "not a whole number from 1 to"),
        (None, with_config(k=0), "k = 0"),
        (None, with_config(activation="magic"), "activation = 'magic'"),
        (None, with_config(reads="tea leaves"), "tea leaves"),
        (None, with_config(hookpoint=""), "hookpoint"),
        (None, lambda m: m.update(config="["), "not JSON"),
        (None, lambda m: m.update(dictionary="[]"), "not a JSON object"),
        (lambda t: t.pop("encoder.bias"), None, "encoder.bias is missing"),
        (lambda t: t.update({"encoder.bias": t["encoder.bias"].int()}), None, "I32"),
        (set_nan, None, "NaN"),
        (wrong_feature, None, "feature that the SAE lacks"),
        (lambda t: t.pop("dictionary.cat.1.scores"), None, "dictionary is damaged"),
        (lambda t: t["dictionary.cat.0.latents"].neg_(), None, "no whole number from 0 on"),
        (as_float("dictionary.cat.0.latents"), None, "no whole number from 0 on"),
        (lambda t: t.update({"dictionary.cat.0.scores": torch.rand(7)}), None, "2 features but 7 scores"),
        (lambda t: t.update({"dictionary.latent_means": torch.rand(2, 5)}), None, "one number for each feature"),
        (lambda t: t.update({"dictionary.latent_means": torch.rand(3, 32)}), None, r"\(3, 32\) for 2 bands"),
        (None, lambda m: m.update(config='{"a":' * 200_000), "not JSON"),
        (None, lambda m: m.update(dictionary="[" * 200_000), "not JSON"),
        (None, with_edges("[0, NaN, 1000]"), "do not rise"),
        (None, with_edges("[0, 0, 1000]"), "do not rise"),
        (None, with_edges("[]"), "do not rise"),
        (None, with_edges('"012"'), "no list"),
        (None, with_edges(f"[0, {10**400}]"), "dictionary is damaged"),
    ],
)
def test_damaged_files_name_file_and_reason(native, sae_file, tmp_path, tensors, metadata, reason):
    path = rewrite(sae_file[0], tmp_path / "bad.safetensors", tensors, metadata)
    with pytest.raises(native.SAEFileError, match=reason) as error:
        file = native.SAEFile(path)
        file.load()
        file.dictionary()
    assert "bad.safetensors" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"hello", struct.pack("<Q", 2**62) + b"{}", b"\x80\x04cos\nsystem\n"])
def test_other_files_are_refused(native, tmp_path, content):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(native.SAEFileError, match=r"odd\.safetensors"):
        native.SAEFile(path)
    with pytest.raises(native.SAEFileError):
        native.SAEFile(tmp_path / "missing.safetensors")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_never_crash_or_load_nonsense(native, sae_file, tmp_path, data):
    """Cut or change any byte: the file either loads with finite weights or is refused."""
    original = sae_file[0].read_bytes()
    cut = data.draw(st.integers(0, len(original)))
    place = data.draw(st.integers(0, len(original) - 1))
    value = data.draw(st.integers(0, 255))
    mutated = bytearray(original)
    mutated[place] = value
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(bytes(mutated[: cut if data.draw(st.booleans()) else len(mutated)]))
    try:
        file = native.SAEFile(path)
        sae = file.load()
        file.dictionary()
    except native.SAEFileError:
        return
    assert all(torch.isfinite(p).all() for p in sae.parameters())


ODD = st.recursive(
    st.sampled_from([None, True, -1, 0, 3, 10**400, 1e300, float("nan"), "", "sum", "cat", "output"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["cat", "k", "1"]), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.sampled_from(["config", "dictionary", "facts"]), data=st.data())
def test_odd_metadata_is_refused_or_usable(native, sae_file, tmp_path, part, data):
    """Any value in place of any other in the metadata: refused, or everything in the file can be used."""

    def change(metadata):
        value = json.loads(metadata[part])
        if data.draw(st.booleans()):
            value = data.draw(ODD)
        else:
            value[data.draw(st.sampled_from(sorted(value)))] = data.draw(ODD)
        metadata[part] = json.dumps(value)

    path = rewrite(sae_file[0], tmp_path / "odd.safetensors", None, change)
    try:
        file = native.SAEFile(path)
        sae, dictionary = file.load(), file.dictionary()
    except native.SAEFileError:
        return
    assert sae.encode_dense(torch.ones(2, 8)).shape == (2, 32)
    dictionary.from_features([0, 31])
    for concept in dictionary.concepts.values():
        assert concept.bands[concept.band_index(400.0)]


def used(native, path):
    """Read all that is in a file."""
    file = native.SAEFile(path)
    sae = file.load()
    file.load_decoder(sae)
    return file.config, file.facts, file.dictionary().concepts, {k: v.tolist() for k, v in sae.state_dict().items()}


def test_every_byte_counts(native, sae_file, tmp_path):
    """Whichever byte changes: the file is refused, or holds what was saved, as where a word for people changed."""
    content = sae_file[0].read_bytes()
    whole = used(native, sae_file[0])
    header = struct.unpack("<Q", content[:8])[0] + 8
    path = tmp_path / "changed.safetensors"
    said = []
    for place in [*range(8, header, 7), *range(header, len(content), 61), header, len(content) - 1]:
        # Another digit or letter, so that most of the header stays JSON.
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert used(native, path) == whole and place < header
            said.append("the same")
        except native.SAEFileError as error:
            said.append(str(error))
            if place >= header:
                assert "changed.safetensors: its bytes have changed since it was saved" in str(error)
                assert "Copy or download it again" in error.advice
    assert sum("bytes have changed" in each for each in said) > 100
    assert said.count("the same") < 5


@pytest.mark.parametrize(
    ("part", "tensors", "metadata"),
    [
        ("encoder", lambda t: t["encoder.weight"].mul_(1.001), None),
        ("encoder", as_half("encoder.bias"), None),
        ("decoder", lambda t: t["decoder_weight"].neg_(), None),
        ("decoder", lambda t: t.update(x=t.pop("decoder_weight")), None),
        ("concepts", lambda t: t["dictionary.cat.0.thresholds"].mul_(2), None),
        ("concepts", lambda t: t.pop("dictionary.latent_means"), None),
        ("metadata", None, with_config(k=5)),
        ("metadata", None, lambda m: m.update(facts='{"licence": "mine"}')),
        ("metadata", None, lambda m: m.pop("dictionary")),
        ("metadata", None, lambda m: m.update(checksums="[")),
        ("metadata", None, lambda m: m.update(checksums="[1]")),
        ("metadata", None, lambda m: m.update(checksums='{"metadata": 3}')),
    ],
)
def test_what_another_program_changed_is_named(native, sae_file, tmp_path, part, tensors, metadata):
    path = rewrite(sae_file[0], tmp_path / "changed.safetensors", tensors, metadata, keep_checksums=True)
    with pytest.raises(
        native.SAEFileError, match=rf"changed\.safetensors: its bytes have changed.*of its {part} differs"
    ):
        used(native, path)


def test_a_file_without_checksums_loads(native, sae_file, tmp_path):
    """As older ones are, and the shipped ones; and one to which somebody has added something of his own."""
    used(native, rewrite(sae_file[0], tmp_path / "old.safetensors"))
    added = {"change_metadata": lambda m: m.update(author="Müller"), "keep_checksums": True}
    used(native, rewrite(sae_file[0], tmp_path / "more.safetensors", **added))
    file = native.SAEFile(sae_file[0])
    assert set(file._checksums) == {"metadata", "encoder", "decoder", "concepts"}


def test_a_checksum_can_be_worked_out_from_the_docs(native, sae_file):
    """docs/file-format.md, written down once more."""
    import hashlib

    from safetensors import safe_open

    names = {"float32": "float32", "int32": "int32"}
    with safe_open(sae_file[0], "np") as file:
        stated = json.loads(file.metadata()["checksums"])
        for part, keys in {
            "decoder": ["decoder_weight"],
            "encoder": ["decoder_bias", "encoder.bias", "encoder.weight"],
        }.items():
            found = hashlib.sha256()
            for key in keys:
                array = file.get_tensor(key)
                shape = ",".join(map(str, array.shape))
                found.update(f"{key}\0{names[array.dtype.name]}\0{shape}\0".encode() + array.tobytes())
            assert stated[part] == found.hexdigest()
        found = hashlib.sha256()
        for key in ("config", "dictionary", "facts", "format"):
            text = file.metadata()[key].encode()
            found.update(f"{key}\0{len(text)}\0".encode() + text)
        assert stated["metadata"] == found.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_checksums_of_every_type(native, sae_file, tmp_path, dtype):
    _, sae, dictionary = sae_file
    native.save(tmp_path / "a.safetensors", sae, dictionary, dtype=dtype)
    used(native, tmp_path / "a.safetensors")


def test_training_learns_and_is_reproducible(pack):
    """Data made of few directions: an SAE explains it; the same seed gives the same weights."""
    from concept_erasure.sae_models.sae import SAEConfig
    from concept_erasure.training import TrainingSettings, measure, train

    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 16), dim=1)
    codes = torch.rand(8000, 24) * (torch.rand(8000, 24) < 0.1)
    data = codes @ directions * 7 + 3
    config = SAEConfig(16, 64, 8, "a")
    runs = [train(data[:7000], config, TrainingSettings(steps=300, batch=256, learning_rate=3e-3)) for _ in range(2)]
    assert measure(runs[0], data[7000:]).explained_variance > 0.85
    assert torch.equal(runs[0].encoder.weight, runs[1].encoder.weight)
    norms = runs[0].decoder_weight.norm(dim=1)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)
    with pytest.raises(ValueError, match="NaN"):
        train(torch.full((10, 16), torch.nan), config)


def test_scores_and_auc(pack):
    from concept_erasure.sae_models.scoring import roc_auc, score_features

    means = torch.tensor([[[4.0, 0.0, 4.0]], [[0.0, 2.0, 2.0]], [[0.0, 6.0, 2.0]]])
    expected = torch.tensor([0.5, 0.0, 0.5]) - torch.tensor([0.0, 4 / 6, 2 / 6])
    assert torch.allclose(score_features(means, 0)[0], expected, atol=1e-6)
    assert roc_auc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == 1
    assert roc_auc(torch.tensor([1.0, 1.0]), torch.tensor([1.0])) == 0.5
    assert roc_auc(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])) == 0.5
