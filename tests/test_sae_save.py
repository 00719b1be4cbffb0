"""Save SAE: what is saved loads as what it was, under safe names, and never in place of something else unasked."""

from pathlib import Path

import pytest
import torch
from support.sae_formats import CASES, X, write

pytestmark = pytest.mark.usefixtures("sae_folder")


@pytest.mark.parametrize("case", ["saeuron", "sdxl-unbox", "g-sae jumprelu", "saelens gated", "saelens decoder norm"])
def test_a_published_sae_is_saved_with_its_block(nodes, sae_folder, case):
    path = write(sae_folder, case)
    sae = nodes.SAELoader.execute(path.name, "middle_block.1 = mid_block.attentions.0").args[0]
    said = nodes.SaveSAE.execute(sae, "mine").ui["text"][0]
    assert "mine.safetensors: encoder and decoder, 0 concepts" in said
    again = nodes.SAELoader.execute("mine.safetensors").args[0]
    assert again.config == sae.config and again.config.hookpoint == "middle_block.1"
    assert torch.equal(again.module.encode_dense(X), sae.module.encode_dense(X))
    assert torch.equal(again.load_decoder()(X), sae.load_decoder()(X))
    assert again.file.facts["saved_from"] == path.name


def test_concepts_are_saved_and_the_loaded_sae_stays_small(nodes):
    from concept_erasure.nodes import files

    sae = nodes.SAELoader.execute(files.names()[0]).args[0]
    nodes.SaveSAE.execute(sae, "canvas.SAFETENSORS")
    assert sae.module.decoder_weight is None
    again = nodes.SAELoader.execute("canvas.safetensors").args[0]
    assert again.dictionary.concepts == sae.dictionary.concepts and again.dictionary.names()
    assert torch.equal(again.dictionary.feature_means, sae.dictionary.feature_means)


WITH_FOLDERS = ["../up", "a/b", "a\\b", "/etc/x", "C:x"]
NO_NAMES = ["", " ", ".hidden", "a\0b", "a\nb", "x" * 100, "con", "LPT1.x", "a.", "-a"]


@pytest.mark.parametrize("name", WITH_FOLDERS + NO_NAMES)
def test_names_with_tricks_are_refused(nodes, sae_folder, name):
    sae = nodes.SAELoader.execute(write(sae_folder, "saeuron").name).args[0]
    before = sorted(sae_folder.parent.parent.rglob("*"))
    with pytest.raises(ValueError, match=r"Save SAE: .*\(input 'name'\)"):
        nodes.SaveSAE.execute(sae, name)
    assert sorted(sae_folder.parent.parent.rglob("*")) == before


def test_nothing_is_overwritten_unasked(nodes, sae_folder, monkeypatch):
    from concept_erasure.sae_models.formats import files

    sae = nodes.SAELoader.execute(write(sae_folder, "saeuron").name).args[0]
    (sae_folder / "taken.safetensors").write_text("mine")
    (sae_folder / "link.safetensors").symlink_to(sae_folder / "nowhere")
    (sae_folder / "folder.safetensors").mkdir()
    for name, overwrite in (("taken", False), ("link", False), ("link", True), ("folder", True)):
        with pytest.raises(ValueError, match=rf"Save SAE: {name}\.safetensors is there already.*'overwrite'"):
            nodes.SaveSAE.execute(sae, name, overwrite=overwrite)
    assert (sae_folder / "taken.safetensors").read_text() == "mine" and not (sae_folder / "nowhere").exists()

    def full(tensors, path, metadata):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "save_file", full)
        with pytest.raises(ValueError, match=r"Save SAE: taken\.safetensors cannot be saved: the disk of .* is full"):
            nodes.SaveSAE.execute(sae, "taken", overwrite=True)
    assert (sae_folder / "taken.safetensors").read_text() == "mine" and not list(sae_folder.glob("*.part"))
    nodes.SaveSAE.execute(sae, "taken", overwrite=True)
    assert nodes.SAELoader.execute("taken.safetensors").args[0].config == sae.config


def test_an_sae_replaced_by_its_own_copy_goes_on_working(nodes, sae_folder):
    first = nodes.SAELoader.execute(write(sae_folder, "saeuron").name).args[0]
    nodes.SaveSAE.execute(first, "own")
    own = nodes.SAELoader.execute("own.safetensors").args[0]
    before = own.module.encode_dense(X)
    nodes.SaveSAE.execute(own, "own", overwrite=True)
    assert torch.equal(own.module.encode_dense(X), before)


def test_weights_that_do_not_fit_are_refused(nodes, sae_folder):
    from safetensors.torch import save_file

    path = write(sae_folder, "saeuron")
    tensors = dict(CASES["saeuron"][1])
    save_file({**tensors, "encoder.bias": tensors["encoder.bias"] * 1e6}, path / "sae.safetensors")
    sae = nodes.SAELoader.execute(path.name).args[0]
    with pytest.raises(ValueError, match=r"Save SAE: .*encoder\.bias, as torch\.float16,.*Nothing was saved"):
        nodes.SaveSAE.execute(sae, "half", "float16")
    assert not (sae_folder / "half.safetensors").exists()
    save_file({"encoder.weight": tensors["encoder.weight"]}, path / "sae.safetensors")
    with pytest.raises(ValueError, match=r"Save SAE: .*Nothing was saved. Load the SAE again"):
        nodes.SaveSAE.execute(sae, "gone")
