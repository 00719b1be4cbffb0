"""Lists of files: one bad thing in a folder never takes the rest with it, and a list is quick."""

import json
import logging
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from pathlib import Path

import pytest
from load import ROOT
from support.demo_model import FILE_NAME, SAE_FILE
from support.workflows import read


@pytest.fixture
def root(pack, tmp_path, monkeypatch):
    """An empty models/sae, in a path with a space and an umlaut."""
    import folder_paths
    from concept_erasure.nodes import files, listing

    folder = tmp_path / "Künstlerin Müller" / "sae"
    folder.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(folder)], set(files.EXTENSIONS)))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(listing, "_said", {})
    return folder


def own() -> list[str]:
    from concept_erasure.nodes import files

    return [name for name in files.names() if not name.startswith(files.SHIPPED_PREFIX)]


def good(path: Path) -> Path:
    from concept_erasure.nodes import files

    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(files.SHIPPED / FILE_NAME, path)
    return path


def broken_link(root: Path) -> None:
    (root / "bad.safetensors").symlink_to("/nowhere/x.safetensors")


def broken_folder_link(root: Path) -> None:
    (root / "bad").symlink_to("/nowhere/at/all")


def link_to_itself(root: Path) -> None:
    (root / "bad.safetensors").symlink_to(root / "bad.safetensors")


def folders_in_a_circle(root: Path) -> None:
    """Two links at each level: every path through them would be more than can be walked."""
    for name in ("bad_one", "bad_two"):
        (root / name).symlink_to(root)
        (root / "a" / name).symlink_to(root / "a")


def pipe(root: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in folders here")
    os.mkfifo(root / "bad.safetensors")
    os.mkfifo(root / "concepts" / "bad.safetensors")


def unix_socket(root: Path) -> None:
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no sockets in folders here")
    with socket.socket(socket.AF_UNIX) as opened, tempfile.TemporaryDirectory() as short:
        opened.bind(str(Path(short) / "s"))  # the other path may be too long for a socket's name
        (Path(short) / "s").rename(root / "bad.safetensors")


def bytes_for_a_name(root: Path) -> None:
    try:
        (root / os.fsdecode(b"bad\xe9.safetensors")).write_bytes(b"x")
        (root / os.fsdecode(b"bad\xe9")).mkdir()
    except OSError:
        pytest.skip("names must be text here")


def folder_called_as_a_file(root: Path) -> None:
    (root / "bad.safetensors").mkdir()


BAD = [
    broken_link,
    broken_folder_link,
    link_to_itself,
    folders_in_a_circle,
    pipe,
    unix_socket,
    bytes_for_a_name,
    folder_called_as_a_file,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_one_bad_thing_leaves_the_rest(root, bad, caplog):
    from concept_erasure.nodes import ConceptDetector, LoadConcept, SAELoader, files

    good(root / "a" / "mine.safetensors")
    good(root / "z.safetensors")
    good(root / "concepts" / "cat.safetensors")
    bad(root)
    with caplog.at_level(logging.WARNING):
        assert own() == [str(Path("a", "mine.safetensors")), "z.safetensors"]
        assert files.concept_file_names() == ["concepts/cat.safetensors"]
        for node in (SAELoader, ConceptDetector, LoadConcept):
            json.dumps(node.define_schema().get_v1_info(node).input).encode()
    assert "cat" in files.concept_names()
    assert SAELoader.execute("z.safetensors").args[0].name == "z.safetensors"
    said = [record.getMessage() for record in caplog.records if "left out of the lists" in record.getMessage()]
    if bad is not folder_called_as_a_file:
        (line,) = said
        assert "bad" in line and str(root) in line
        line.encode()
    with pytest.raises(ValueError, match=r"SAE Loader: there is no SAE file 'bad\.safetensors'"):
        SAELoader.execute("bad.safetensors")


def test_the_log_speaks_again_when_something_else_is_wrong(root, caplog):
    broken_link(root)
    with caplog.at_level(logging.WARNING):
        own(), own()
        assert len(caplog.records) == 1
        for i in range(50):
            (root / f"gone{i}.safetensors").symlink_to("/nowhere")
        own(), own()
        assert len(caplog.records) == 2 and "and 46 more" in caplog.records[1].getMessage()
        for path in root.iterdir():
            path.unlink()
        own(), own()
        assert len(caplog.records) == 2
        broken_link(root)
        own()
    assert len(caplog.records) == 3


def refusing(function, error: type[OSError], *names: str):
    """The function, but for paths that end in one of some names: those give an error, as the system would."""

    def refuse(path, *args, **options):
        if str(path).endswith(names):
            raise error(13 if error is PermissionError else 2, "refused", str(path))
        return function(path, *args, **options)

    return refuse


def test_closed_folders_and_files(root, monkeypatch, caplog):
    """A folder that may not be listed, one that may be listed and not entered, a file that may not be read."""
    for name in ("closed/x", "listed/y", "secret", "open/z"):
        good(root / f"{name}.safetensors")
    access = os.access
    monkeypatch.setattr(os, "scandir", refusing(os.scandir, PermissionError, "closed"))
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: not str(path).endswith(("y.safetensors", "secret.safetensors")) and access(path, mode),
    )
    with caplog.at_level(logging.WARNING):
        assert own() == [str(Path("open", "z.safetensors"))]
    (record,) = caplog.records
    for part in ("closed (refused)", f"listed{os.sep}y.safetensors (may not be read)", "secret.safetensors (may not"):
        assert part in record.getMessage()


def may_look_here() -> bool:
    """Whether another user may enter the folder that the pack lies in."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (ROOT, *ROOT.parents))


@pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() != 0, reason="another user's eyes are needed")
@pytest.mark.skipif(not may_look_here(), reason="another user may not enter the folder of the pack itself")
def test_what_another_user_may_not_enter(root, tmp_path):
    """The same with real permissions, in a process that gives up being root."""
    good(root / "listed" / "y.safetensors")
    good(root / "secret.safetensors").chmod(0)
    good(root / "open.safetensors")
    (root / "listed").chmod(0o744)
    shared = Path(tempfile.gettempdir()).resolve()
    for folder in root.resolve().parents:
        if folder.is_relative_to(shared) and folder != shared and folder.stat().st_uid == 0:
            folder.chmod(0o755)
    # What is imported on first use may lie where that user may not look.
    assert "open.safetensors" in own()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens, the child must not go on with the other tests.
        try:
            os.setuid(65534)
            os.write(writing, json.dumps(own()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        assert json.load(answer) == ["open.safetensors"]


def test_files_that_vanish_while_they_are_listed(root, monkeypatch):
    from concept_erasure.nodes import files

    good(root / "here.safetensors")
    gone = good(root / "gone.safetensors")
    listed = files._listed
    monkeypatch.setattr(files, "_listed", lambda: (listed(), gone.unlink(missing_ok=True))[0])
    assert "cat" in files.concept_names()
    assert own() == ["here.safetensors"]


@pytest.mark.parametrize("harm", ["missing", "file", "pipe", "vanishes"])
def test_a_folder_that_is_none(root, harm, monkeypatch, caplog):
    """The folder itself: not there, something else in its place, or gone between two looks."""
    from concept_erasure.nodes import SAELoader, files

    root.rmdir()
    if harm == "file":
        root.write_text("x")
    elif harm == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes in folders here")
        os.mkfifo(root)
    elif harm == "vanishes":
        monkeypatch.setattr(os, "scandir", refusing(os.scandir, FileNotFoundError, "sae"))
    with caplog.at_level(logging.WARNING):
        assert own() == [] and files.concept_file_names() == [] and "cat" in files.concept_names()
        SAELoader.define_schema()
    assert bool(caplog.records) == (harm in ("file", "pipe"))


def test_links_that_lead_somewhere_are_followed(root, tmp_path):
    good(tmp_path / "elsewhere" / "deep" / "x.safetensors")
    good(tmp_path / "single.safetensors")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "y.safetensors").symlink_to(tmp_path / "single.safetensors")
    places = [str(Path(folder, "deep", "x.safetensors")) for folder in ("again", "linked")]
    assert own() == [*places, "y.safetensors"]


def test_folders_full_of_links_to_each_other_end(root, monkeypatch):
    """No circle in any one path, but far more paths than folders."""
    from concept_erasure.nodes import listing

    entered, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (entered.append(str(folder)), scandir(folder))[1])
    monkeypatch.setattr(listing, "MOST_FOLDERS", 500)
    folders = [root / str(i) for i in range(9)]
    for folder in folders:
        folder.mkdir()
        for other in folders:
            if other != folder:
                (folder / f"to_{other.name}").symlink_to(other)
    good(root / "x.safetensors")
    assert own() == ["x.safetensors"]
    assert 100 < sum(folder.startswith(str(root)) for folder in entered) <= 500


def test_ten_thousand_files_are_listed_quickly_and_opened_once(root, monkeypatch):
    from concept_erasure.nodes import ConceptDetector, LoadConcept, SAELoader, files

    content = (files.SHIPPED / FILE_NAME).read_bytes()
    (root / "many").mkdir()
    first = root / "first.safetensors"
    first.write_bytes(content[: 2**10])
    for i in range(10_000):
        os.link(first, root / "many" / f"{i}.safetensors")
    opened = []
    inside = files.concepts_in
    monkeypatch.setattr(files, "concepts_in", lambda path: (opened.append(path), inside(path))[1])

    def described() -> float:
        start = time.process_time()
        for node in (SAELoader, ConceptDetector, LoadConcept):
            node.define_schema()
        return time.process_time() - start

    described()
    assert sum(str(root) in path for path in opened) == 10_001
    opened.clear()
    assert min(described() for _ in range(3)) < 1.5
    assert not opened, "what did not change is not opened again"
    os.utime(root / "many" / "7.safetensors", (1, 1))  # a hard link: all are one file
    files.concept_names()
    assert len(opened) == 10_001
    start = time.process_time()
    with pytest.raises(ValueError):
        SAELoader.execute("many/7.safetensors".replace("/", os.sep))
    assert time.process_time() - start < 1.5


def test_a_torch_file_is_not_opened_for_its_concepts(root, monkeypatch):
    from concept_erasure.nodes import files

    (root / "x.pt").write_bytes(b"x")
    monkeypatch.setattr(files, "concepts_in", lambda path: pytest.fail(path) if path.endswith("x.pt") else [])
    files.concept_names()
    assert own() == ["x.pt"]


def test_prompts_and_pictures_survive_the_same(root, tmp_path, caplog):
    from concept_erasure.nodes import SAETrainer, files, folders
    from PIL import Image

    inputs = tmp_path / "input"
    (inputs / "cats").mkdir(parents=True)
    (inputs / "words.TXT").write_bytes("\ufeffA grün cat".encode("utf-16-le"))
    (inputs / "gone.txt").symlink_to("/nowhere")
    (inputs / "self.txt").symlink_to(inputs / "self.txt")
    (inputs / "cats" / "a.png").symlink_to(inputs / "cats" / "a.png")
    Image.new("RGB", (4, 4)).save(inputs / "cats" / "b.png")
    (inputs / "cats" / "b.txt").symlink_to(inputs / "cats" / "b.txt")
    if sys.platform == "linux":
        (inputs / os.fsdecode(b"d\xe9")).mkdir()
        Image.new("RGB", (4, 4)).save(inputs / os.fsdecode(b"d\xe9") / "c.png")
    assert files.prompt_files() == ["words.TXT"]
    assert files.read_prompts("words.TXT") == "A grün cat"
    assert folders.picture_folders() == ["cats"]
    assert folders.captioned("cats", "Some Node") == [(inputs / "cats" / "b.png", "")]
    assert len(folders.folder_fingerprint("cats")) == 1
    json.dumps(SAETrainer.define_schema().get_v1_info(SAETrainer).input).encode()
    assert SAETrainer.validate_inputs("words.TXT", "cats") is True
    assert "no text file 'gone.txt'" in SAETrainer.validate_inputs("gone.txt", "none")
    assert "no folder 'dogs' with images" in SAETrainer.validate_inputs("none", "dogs")


@pytest.mark.parametrize(
    ("workflow", "parts"),
    [("erase_sd15", ("cfg.json", "sae.safetensors")), ("erase_sdxl", ("config.json", "state_dict.pth"))],
)
def test_workflows_for_published_saes_name_them_as_the_list_does(root, workflow, parts):
    """The files as downloaded, in the folders that docs/published-saes.md names."""
    [loader] = [
        node for node in read(ROOT / "workflows" / f"{workflow}.json")["nodes"] if node["type"].endswith("SAELoader")
    ]
    name = loader["widgets_values"][0]
    (root / name).mkdir(parents=True)
    for part in parts:
        (root / name / part).write_bytes(b"")
    assert own() == [name]
    page = (ROOT / "docs" / "published-saes.md").read_text(encoding="utf-8")
    assert f"`{name.removeprefix('saeuron/')}`" in page


def test_a_file_that_is_gone_is_named_before_anything_runs(root):
    from concept_erasure.nodes import ConceptDetector, LoadConcept, SAELoader, files

    good(root / "here.safetensors")
    assert SAELoader.validate_inputs("here.safetensors") is True and SAELoader.validate_inputs(None) is True
    assert "SAE Loader: there is no SAE file 'gone.safetensors'" in SAELoader.validate_inputs("gone.safetensors")
    assert "Load Concept: there is no concept file 'concepts/x" in LoadConcept.validate_inputs("concepts/x.safetensors")
    assert ConceptDetector.validate_inputs("concepts/x.safetensors") is True
    sae = SAELoader.execute(files.names()[0]).args[0]
    with pytest.raises(ValueError, match=r"Concept Detector: input 'concept': there is no concept file 'concepts/gone"):
        ConceptDetector.execute(sae, "concepts/gone.safetensors", 1.0, 0.0, 1.0, "", "union")
    assert ConceptDetector.execute(sae, "concepts/gone.safetensors", 1.0, 0.0, 1.0, "3", "union")


def test_capitals(root):
    import torch
    from concept_erasure.nodes import LoadConcept, SAELoader, SaveConcept, files
    from safetensors.torch import save_file

    good(root / "MINE.SAFETENSORS")
    folder = root / "unet.up_blocks.1.attentions.1"
    folder.mkdir()
    weights = {"encoder.weight": torch.randn(12, 8), "encoder.bias": torch.zeros(12), "b_dec": torch.zeros(8)}
    save_file({**weights, "W_dec": torch.randn(12, 8)}, folder / "SAE.SAFETENSORS")
    (folder / "CFG.JSON").write_text('{"k": 4}')
    assert own() == ["MINE.SAFETENSORS", folder.name]
    sae = SAELoader.execute("MINE.SAFETENSORS").args[0]
    assert "cat" in sae.dictionary.concepts
    assert SAELoader.execute(folder.name).args[0].config.k == 4
    before = SAELoader.fingerprint_inputs(folder.name)
    (folder / "CFG.JSON").write_text('{"k":  5}')
    assert SAELoader.fingerprint_inputs(folder.name) != before
    SaveConcept.execute(sae.concept("cat"), "cat")
    (root / "concepts").rename(root / "Concepts")
    (root / "Concepts" / "cat.safetensors").rename(root / "Concepts" / "CAT.SAFETENSORS")
    assert files.concept_file_names() == ["Concepts/CAT.SAFETENSORS"]
    assert own() == ["MINE.SAFETENSORS", folder.name], "no concept among the SAEs"
    assert LoadConcept.execute("Concepts/CAT.SAFETENSORS").args[0].name == "cat"


def test_a_server_with_all_of_it_in_its_folders(tmp_path):
    """Before the start and while it runs: every node is there, and a run names the file that is gone."""
    from live_server import LiveServer, ServerError
    from support.nodes import NODES

    folder = tmp_path / "Künstlerin Müller" / "sae"
    (folder / "a").mkdir(parents=True)
    (folder / "concepts").mkdir()
    config = tmp_path / "paths.yaml"
    mine = {"mine": {"base_path": str(folder.parent), "sae": "sae", "is_default": True}}
    config.write_text(json.dumps(mine), encoding="utf-8")
    (folder / "gone.safetensors").symlink_to("/nowhere/x.safetensors")
    for bad in (broken_folder_link, folders_in_a_circle, pipe):
        bad(folder)
    with LiveServer("--extra-model-paths-config", str(config)) as server:
        assert set(NODES) <= set(server.object_info())
        assert server.log().count("left out of the lists") == 1
        loader = {"class_type": "ConceptErasureSAELoader", "inputs": {"sae_file": "bad.safetensors"}}
        saver = {"class_type": "ConceptErasureSaveSAE", "inputs": {"sae": ["1", 0], "name": "süß"}}
        saver["inputs"] |= {"weights": "as in its file", "overwrite": False}
        with pytest.raises(
            ServerError, match=r"ConceptErasureSAELoader \(1\).*there is no SAE file 'bad\.safetensors'"
        ):
            server.run({"1": loader, "2": saver})
        link_to_itself(folder / "a")
        loader["inputs"]["sae_file"] = SAE_FILE
        server.run({"1": loader, "2": saver})
        assert (folder / "süß.safetensors").is_file()
        described = server.object_info()
        assert set(NODES) <= set(described)
        assert "süß.safetensors" in str(described["ConceptErasureSAELoader"]["input"]["required"]["sae_file"])
