"""Where files are saved, what is found out before work begins, and what is said when a file cannot be written."""

import errno
import importlib.util
import itertools
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from load import comfyui_path
from support.running import train

WHERE = "is_default in extra_model_paths.yaml"


@pytest.fixture
def nodes(pack, tmp_path, monkeypatch):
    """The pack's nodes, with folders of their own."""
    import folder_paths
    from concept_erasure import nodes
    from concept_erasure.nodes import files

    (tmp_path / "sae").mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path / "sae")], set(files.EXTENSIONS)))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    return nodes


@pytest.fixture
def folder(nodes) -> Path:
    """The artist's models/sae, empty."""
    import folder_paths

    return Path(folder_paths.get_folder_paths("sae")[0])


@pytest.fixture
def sae(nodes):
    from concept_erasure.nodes import files

    return nodes.SAELoader.execute(files.names()[0]).args[0]


@pytest.fixture
def savers(nodes, sae, canvas):
    """What saves: name of the node -> a function that saves under a name. The trainer may not sample."""
    return {
        "Save SAE": lambda name: nodes.SaveSAE.execute(sae, name, overwrite=True),
        "Save Concept": lambda name: nodes.SaveConcept.execute(sae.concept("cat"), name, overwrite=True),
        "SAE Trainer": lambda name: train(nodes, canvas, name=name, overwrite=True),
    }


NODES = ["Save SAE", "Save Concept", "SAE Trainer"]


@pytest.fixture
def no_sampling(nodes, monkeypatch):
    from concept_erasure.training.from_model import collection

    monkeypatch.setattr(
        collection.comfy.sample, "sample", lambda *_, **__: pytest.fail("sampled before it was checked")
    )


def refusing(monkeypatch, number: int, below: Path) -> None:
    """Let the system refuse to make any file below a folder."""
    opened = Path.open

    def refuse(path, mode="r", *args, **options):
        if path.is_relative_to(below) and "r" not in mode:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)


REFUSALS = {
    "EACCES": r"the system does not permit it .*Give the user that runs ComfyUI the right",
    "EROFS": "is read-only .*Make it writable",
    "ENOSPC": "the disk of .* is full; .* MB are left .*Free some space",
    "EDQUOT": "the disk of .* is full",
    "EIO": "is not there or does not answer .*Connect its drive",
    "ESTALE": "is not there or does not answer .*Connect its drive",
    "ENAMETOOLONG": "the name is too long for this disk .*Choose a shorter 'name'",
    "EINVAL": "cannot be written \\(Invalid argument\\)",
}


@pytest.mark.parametrize(("number", "node"), itertools.product(REFUSALS, NODES))
def test_a_refusal_of_the_system_is_said_in_words_before_work_begins(
    savers, no_sampling, folder, monkeypatch, number, node
):
    refusing(monkeypatch, getattr(errno, number), folder)
    with pytest.raises(
        ValueError, match=rf"^{node}: mine.*\.safetensors cannot be saved: .*{REFUSALS[number]}"
    ) as error:
        savers[node]("mine")
    assert "input 'name'" in str(error.value) and "Safetensor" not in str(error.value)
    if number != "ENAMETOOLONG":
        assert WHERE in str(error.value)
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("harm", ["file", "pipe", "broken link"])
def test_something_else_in_place_of_the_folder(savers, no_sampling, folder, node, harm):
    folder.rmdir()
    if harm == "file":
        folder.write_text("x")
    elif harm == "broken link":
        folder.symlink_to("/nowhere/at/all")
    elif hasattr(os, "mkfifo"):
        os.mkfifo(folder)
    with pytest.raises(ValueError, match=rf"^{node}: mine.* cannot be saved: .*sae.* is not a folder, but a file or a"):
        savers[node]("mine")


@pytest.mark.parametrize("node", NODES)
def test_a_drive_that_is_not_connected_is_not_made_up(savers, no_sampling, folder, tmp_path, monkeypatch, node):
    """A folder made where a drive should be would fill another disk, and hide the drive's when it comes back."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path / "drive" / "x" / "sae")], {".pt"}))
    with pytest.raises(ValueError, match=rf"^{node}: .*is not there or does not answer.*Connect its drive.*{WHERE}"):
        savers[node]("mine")
    assert not (tmp_path / "drive").exists()


@pytest.mark.parametrize("node", NODES)
def test_a_name_too_long_for_a_disk(savers, no_sampling, folder, node):
    """Ninety letters of three bytes each: a disk takes 255 bytes."""
    with pytest.raises(ValueError, match=rf"^{node}: .*the name is too long for this disk.*shorter 'name'"):
        savers[node]("猫" * 90)


def test_the_names_that_come_later_count_too(nodes, sae, canvas, no_sampling, folder):
    """name.safetensors fits, name_unfinished.safetensors does not."""
    with pytest.raises(ValueError, match=r"^SAE Trainer: .*the name is too long for this disk"):
        train(nodes, canvas, name="猫" * 76)
    nodes.SaveSAE.execute(sae, "猫" * 76)
    assert len(list(folder.iterdir())) == 1


def test_room_for_the_whole_file_is_asked_for(nodes, sae, canvas, no_sampling, folder, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_200_000))
    with pytest.raises(ValueError, match=r"^Save SAE: .*is full; 1 MB are left, 2 MB are needed.*Free some space"):
        nodes.SaveSAE.execute(sae, "mine")
    with pytest.raises(ValueError, match=r"^SAE Trainer: the disk of .* is full"):
        train(nodes, canvas)


@pytest.mark.parametrize("node", NODES[:2])
def test_a_disk_that_fills_up_meanwhile(savers, folder, monkeypatch, node):
    """What safetensors raises then is no error that says anything to an artist."""
    from concept_erasure.sae_models.formats import files
    from safetensors import SafetensorError

    def full(tensors, path, metadata):
        Path(path).write_text("half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(
        ValueError, match=rf"^{node}: mine\.safetensors cannot be saved: the disk of .* is full"
    ) as error:
        savers[node]("mine")
    assert "Safetensor" not in str(error.value)
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_what_safetensors_itself_raises_is_understood(pack, tmp_path):
    from concept_erasure.sae_models.formats.files import write_safetensors

    with pytest.raises(OSError) as error:
        write_safetensors(tmp_path / ("x" * 300), {"a": torch.zeros(3)}, {})
    assert error.value.errno == errno.ENAMETOOLONG or os.name == "nt"


def test_the_output_folder_of_a_training_is_checked_too(nodes, canvas, no_sampling, tmp_path):
    (tmp_path / "output").write_text("no folder")
    with pytest.raises(ValueError, match=r"^SAE Trainer: .* cannot be saved: .*is not a folder"):
        train(nodes, canvas)


def test_the_check_leaves_nothing_behind(nodes, folder):
    from concept_erasure.nodes import files

    files.new_file("mine", False)
    assert not list(folder.iterdir())


def test_something_in_the_way_is_not_said_to_need_overwrite(nodes, sae, folder):
    (folder / "mine.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"is there already.*no plain file, which 'overwrite' leaves alone"):
        nodes.SaveSAE.execute(sae, "mine", overwrite=True)


def configured(monkeypatch, tmp_path: Path, text: str) -> list[str]:
    """Let ComfyUI read a configuration as it does at its start, then this pack add its folder; return the folders."""
    import folder_paths
    from comfy.cli_args import args
    from concept_erasure.nodes import files

    # By its file: other programs have a module of the name `utils` too.
    spec = importlib.util.spec_from_file_location("extra_config", comfyui_path() / "utils" / "extra_config.py")
    extra_config = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extra_config)
    path = tmp_path / "Pfade für mich.yaml"
    path.write_text(text, encoding="utf-8")
    for kind in ("sae", "loras"):
        paths = [str(Path(folder_paths.models_dir) / kind)] if kind == "loras" else []
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, (paths, set()))
    del folder_paths.folder_names_and_paths["sae"]
    monkeypatch.setattr(args, "extra_model_paths_config", [[str(path)]])
    extra_config.load_extra_path_config(str(path))
    files.register_folder()
    files.register_folder()
    # The kinds that ComfyUI knows from the start are the standard: what stands first there, stands first here.
    assert [Path(p).parent for p in folder_paths.get_folder_paths("sae")] == [
        Path(p).parent for p in folder_paths.get_folder_paths("loras")
    ]
    return [
        str(Path(p).relative_to(tmp_path)) if Path(p).is_relative_to(tmp_path) else "own"
        for p in folder_paths.get_folder_paths("sae")
    ]


SECTION = "{name}:\n    base_path: {base}\n    sae: sae\n    loras: loras\n"


def test_files_go_where_comfyui_says(pack, tmp_path, monkeypatch):
    one = SECTION.format(name="one", base=tmp_path / "one two")
    two = SECTION.format(name="two", base=tmp_path / "zwölf")
    default = "    is_default: true\n"
    assert configured(monkeypatch, tmp_path, one) == ["own", "one two/sae"]
    assert configured(monkeypatch, tmp_path, one + default) == ["one two/sae", "own"]
    assert configured(monkeypatch, tmp_path, one + two + default) == ["zwölf/sae", "own", "one two/sae"]
    assert configured(monkeypatch, tmp_path, one + default + two) == ["one two/sae", "own", "zwölf/sae"]
    relative = "three:\n    is_default: true\n    base_path: here\n    sae: |\n        sae\n    loras: loras\n"
    assert configured(monkeypatch, tmp_path, relative) == ["here/sae", "own"]


def test_a_file_lands_in_the_marked_folder(nodes, sae, tmp_path, monkeypatch):
    (tmp_path / "one two").mkdir()
    configured(monkeypatch, tmp_path, SECTION.format(name="one", base=tmp_path / "one two") + "    is_default: true\n")
    said = nodes.SaveSAE.execute(sae, "mine").ui["text"][0]
    path = tmp_path / "one two" / "sae" / "mine.safetensors"
    assert path.is_file() and re.search(re.escape(str(path)), said)
    assert nodes.SAELoader.execute("mine.safetensors").args[0].config == sae.config
