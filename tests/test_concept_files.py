"""Concepts as files: what is saved comes back, with the SAE it was made for and with no other."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.running import detect

pytestmark = pytest.mark.usefixtures("sae_folder")


@pytest.fixture
def other(nodes):
    """The second shipped SAE."""
    from concept_erasure.nodes import files

    return nodes.SAELoader.execute(files.names()[1]).args[0]


def refreshed():
    """What pressing R does: the lists are read again."""
    import folder_paths

    folder_paths.filename_list_cache.pop("sae", None)


def test_a_saved_concept_comes_back_whole(nodes, sae, sae_folder):
    concept = sae.concept("cat")
    first = concept.features()[0]
    said = nodes.SaveConcept.execute(concept, "my cat", f"\n{first}:  fur: grey \n").ui["text"][0]
    assert str(sae_folder / "concepts" / "my cat.safetensors") in said and f"{first} (fur: grey)" in said
    refreshed()
    loaded = nodes.LoadConcept.execute("concepts/my cat.safetensors").args[0]
    assert loaded == concept and loaded.sae == sae.identity
    assert loaded.feature_names == ((first, "fur: grey"),)
    assert loaded.bands[0].scores and loaded.bands[0].means
    nodes.SaveConcept.execute(loaded, "copy")
    refreshed()
    assert nodes.LoadConcept.execute("concepts/copy.safetensors").args[0].feature_names == loaded.feature_names
    assert (sae_folder / "concepts" / "copy.safetensors").stat().st_size < 20_000


def test_the_detector_lists_and_takes_the_file(nodes, sae):
    from concept_erasure.nodes import files

    nodes.SaveConcept.execute(sae.concept("dog"), "hound")
    refreshed()
    (combo,) = [each for each in nodes.ConceptDetector.define_schema().inputs if each.id == "concept"]
    assert "concepts/hound.safetensors" in combo.options and "dog" in combo.options
    _, concept = detect(nodes, sae, concept="concepts/hound.safetensors")
    assert concept == sae.concept("dog")
    assert not [name for name in files.names() if "hound" in name], "a concept is no SAE"


def test_the_detector_looks_again_when_the_file_changes(nodes, sae):
    name = "concepts/hound.safetensors"
    nodes.SaveConcept.execute(sae.concept("dog"), "hound")
    refreshed()
    before = nodes.ConceptDetector.fingerprint_inputs(concept=name, sae=None, features="")
    nodes.SaveConcept.execute(sae.concept("cat"), "hound", overwrite=True)
    assert before is not None
    assert nodes.ConceptDetector.fingerprint_inputs(concept=name, sae=None, features="") != before
    assert nodes.ConceptDetector.fingerprint_inputs(concept="cat", sae=None, features="") is None


def test_another_sae_is_refused_by_name(nodes, canvas, sae, other):
    nodes.SaveConcept.execute(sae.concept("dog"), "hound")
    refreshed()
    both = f"{sae.name}.*{other.name}"
    with pytest.raises(ValueError, match=rf"Concept Detector: input 'concept'.*made for another SAE.*{both}"):
        detect(nodes, other, concept="concepts/hound.safetensors")
    loaded = nodes.LoadConcept.execute("concepts/hound.safetensors").args[0]
    with pytest.raises(ValueError, match=rf"Concept Detector: input 'custom_concept'.*{both}"):
        detect(nodes, other, custom_concept=loaded)
    with pytest.raises(ValueError, match=rf"Feature Steering: input 'concept'.*{both}"):
        nodes.FeatureSteering.execute(canvas[0], other, loaded, "SAeUron", -5.0, "exact", "both", 0.0, 1.0)


def test_a_copy_in_other_numbers_is_the_same_sae(nodes, sae, sae_folder):
    from concept_erasure.sae_models.identity import digest

    nodes.SaveSAE.execute(sae, "wide", "float32")
    nodes.SaveSAE.execute(sae, "narrow", "float16")
    refreshed()
    for name in ("wide.safetensors", "narrow.safetensors"):
        copy = nodes.SAELoader.execute(name).args[0]
        assert copy.identity.digest == sae.identity.digest
        detect(nodes, copy, custom_concept=sae.concept("cat"))
    changed = nodes.SAELoader.execute("wide.safetensors").args[0].module
    with torch.no_grad():
        changed.encoder.bias[3] += 0.5
    assert digest(changed) != sae.identity.digest


@pytest.mark.parametrize("name", ["concepts/../x.safetensors", "../x", "x.safetensors", "concepts/none.safetensors"])
def test_files_by_name_only(nodes, sae_folder, name):
    (sae_folder / "x.safetensors").write_text("not a concept")
    refreshed()
    with pytest.raises(ValueError, match=r"Load Concept: there is no concept file .*models/sae/concepts"):
        nodes.LoadConcept.execute(name)


def test_nothing_is_overwritten_unasked(nodes, sae, sae_folder):
    nodes.SaveConcept.execute(sae.concept("dog"), "hound")
    before = (sae_folder / "concepts" / "hound.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"Save Concept: hound\.safetensors is there already.*'overwrite'"):
        nodes.SaveConcept.execute(sae.concept("cat"), "hound")
    assert (sae_folder / "concepts" / "hound.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match=r"Save Concept: .*\(input 'name'\)"):
        nodes.SaveConcept.execute(sae.concept("cat"), "../hound")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("whiskers", "does not look like"),
        ("x: whiskers", "does not look like"),
        ("999999: whiskers", "does not use feature 999999. It uses"),
        ("{0}: a\n{0}: b", "has two names"),
    ],
)
def test_names_that_make_no_sense(nodes, sae, text, message):
    concept = sae.concept("cat")
    with pytest.raises(ValueError, match=f"Save Concept: input 'feature_names'.*{message}"):
        nodes.SaveConcept.execute(concept, "named", text.format(concept.features()[0]))


def test_a_concept_without_an_sae_cannot_be_saved(nodes, sae):
    with pytest.raises(ValueError, match=r"Save Concept: .*does not say which SAE.*input 'concept'"):
        nodes.SaveConcept.execute(replace(sae.concept("cat"), sae=None), "stray")


def damaged(name: str, tensors: dict, metadata: dict) -> None:
    """Break one thing in what a concept file holds."""
    about = json.loads(metadata["concept"])
    latents = next(key for key in tensors if key.endswith("0.latents"))
    if name == "missing tensor":
        del tensors[latents]
    elif name == "negative latent":
        tensors[latents] = tensors[latents] * 0 - 1
    elif name == "nan":
        key = latents.replace("latents", "thresholds")
        tensors[key] = tensors[key] * torch.nan
    elif name == "no json":
        metadata["concept"] = "{"
    elif name == "short digest":
        about["sae"]["digest"] = "12"
        metadata["concept"] = json.dumps(about)
    elif name == "names are numbers":
        about["latent_names"] = {"3": 7}
        metadata["concept"] = json.dumps(about)
    elif name == "two concepts":
        metadata["dictionary"] = json.dumps({"band_edges": [0, 1000], "concepts": {}})
    elif name == "other format":
        metadata["format"] = "sae-concept-erasure/1"


CASES = ["missing tensor", "negative latent", "nan", "no json", "short digest", "names are numbers"]


@pytest.mark.parametrize("case", [*CASES, "two concepts", "other format"])
def test_damaged_files_are_refused(nodes, sae, sae_folder, case):
    from concept_erasure.sae_models.formats.native import SAEFileError
    from safetensors import safe_open

    nodes.SaveConcept.execute(sae.concept("dog"), "hound")
    path = sae_folder / "concepts" / "hound.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    del metadata["checksums"]  # it would notice each change first
    tensors = load_file(path)
    damaged(case, tensors, metadata)
    save_file(tensors, path, metadata)
    refreshed()
    with pytest.raises(ValueError, match=r"Load Concept: hound\.safetensors: .*\(input 'concept_file'\)") as refused:
        nodes.LoadConcept.execute("concepts/hound.safetensors")
    assert isinstance(refused.value.__cause__, SAEFileError)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a safetensors file"):
        nodes.LoadConcept.execute("concepts/hound.safetensors")


def test_a_changed_or_stripped_concept_file_says_so(nodes, sae, sae_folder):
    from safetensors import safe_open

    path = sae_folder / "concepts" / "hound.safetensors"
    nodes.SaveConcept.execute(sae.concept("dog"), "hound")
    whole = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    changed = r"hound\.safetensors: its bytes have changed since it was saved.*Copy or download it again"
    with pytest.raises(ValueError, match=rf"Load Concept: {changed}"):
        nodes.LoadConcept.execute("concepts/hound.safetensors")
    with pytest.raises(ValueError, match=rf"Concept Detector: input 'concept': {changed}"):
        detect(nodes, sae, concept="concepts/hound.safetensors")
    save_file(tensors, path, {**metadata, "concept": metadata["concept"].replace("shipped", "skipped")})
    with pytest.raises(ValueError, match=rf"Load Concept: {changed}"):
        nodes.LoadConcept.execute("concepts/hound.safetensors")
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=r"Load Concept: .*was a concept file, but its metadata is gone.*save the concep"
    ):
        nodes.LoadConcept.execute("concepts/hound.safetensors")
    del metadata["checksums"]
    save_file(tensors, path, metadata)
    assert nodes.LoadConcept.execute("concepts/hound.safetensors").args[0] == sae.concept("dog")


def test_files_in_the_wrong_folder_say_where_they_belong(nodes, sae, sae_folder):
    nodes.SaveConcept.execute(sae.concept("dog"), "hound")
    nodes.SaveSAE.execute(sae, "whole")
    (sae_folder / "concepts" / "hound.safetensors").rename(sae_folder / "hound.safetensors")
    (sae_folder / "whole.safetensors").rename(sae_folder / "concepts" / "whole.safetensors")
    with pytest.raises(ValueError, match=r"SAE Loader: .*is a concept and no SAE.*Move it into models/sae/concepts"):
        nodes.SAELoader.execute("hound.safetensors")
    with pytest.raises(ValueError, match=r"Load Concept: .*is an SAE and no concept.*Move it into models/sae"):
        nodes.LoadConcept.execute("concepts/whole.safetensors")


def test_a_file_for_the_right_sae_with_latents_it_lacks_is_refused(nodes, sae):
    concept = sae.concept("dog")
    band = replace(concept.bands[0], features=(10**6, *concept.bands[0].features[1:]))
    nodes.SaveConcept.execute(replace(concept, bands=(band, *concept.bands[1:])), "huge")
    refreshed()
    with pytest.raises(ValueError, match=r"Concept Detector: input 'concept'.*uses feature 1000000"):
        detect(nodes, sae, concept="concepts/huge.safetensors")


def test_a_file_too_large_for_a_concept_is_not_read(nodes, sae, monkeypatch):
    from concept_erasure.sae_models.formats import concept_files

    nodes.SaveConcept.execute(sae.concept("dog"), "hound")
    refreshed()
    monkeypatch.setattr(concept_files, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="larger than any concept file"):
        nodes.LoadConcept.execute("concepts/hound.safetensors")
