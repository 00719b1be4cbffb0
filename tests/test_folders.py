"""Folders of pictures in ComfyUI's input folder: what is listed, what is refused, and how pictures are read."""

import numpy as np
import pytest
from PIL import Image

NODE = "Some Node"


@pytest.fixture
def root(pack, tmp_path, monkeypatch):
    """An input folder with pets/cats (three pictures, one captioned), notes (no picture) and, beside it, secret."""
    import folder_paths

    inputs = tmp_path / "input"
    (inputs / "pets" / "cats").mkdir(parents=True)
    (inputs / "notes").mkdir()
    (inputs / "notes" / "todo.txt").write_text("buy milk")
    (tmp_path / "secret").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret" / "me.png")
    for name, colour in (("b.png", "lime"), ("a.JPG", "red"), ("c.webp", "blue")):
        Image.new("RGB", (60, 30), colour).save(inputs / "pets" / "cats" / name)
    (inputs / "pets" / "cats" / "b.txt").write_text("\ufeffA green\ncat ", encoding="utf-8")
    monkeypatch.setattr(folder_paths, "input_directory", str(inputs))
    return inputs


def test_only_folders_with_pictures_are_listed(root):
    from concept_erasure.nodes.folders import picture_folders

    assert picture_folders() == ["pets/cats"], "neither notes nor pets itself nor the input folder holds a picture"


def test_pictures_come_by_name_and_a_share_of_them_evenly(root):
    from concept_erasure.nodes.folders import pictures_of

    assert [path.name for path in pictures_of("pets/cats", NODE)] == ["a.JPG", "b.png", "c.webp"]
    assert [path.name for path in pictures_of("pets/cats", NODE, 2)] == ["a.JPG", "b.png"]
    assert len(pictures_of("pets/cats", NODE, 9)) == 3


@pytest.mark.parametrize("name", ["../secret", "pets/../../secret", "notes", "", ".", "none", "/etc"])
def test_what_is_not_listed_is_refused(root, name):
    from concept_erasure.nodes.folders import folder_fingerprint, pictures_of

    with pytest.raises(ValueError, match=r"Some Node: there is no folder .*input 'image_folder'"):
        pictures_of(name, NODE)
    assert folder_fingerprint(name) == ()


def test_a_picture_is_cropped_around_its_middle_and_not_squeezed(root):
    from concept_erasure.nodes.folders import read_picture

    path = root / "pets" / "cats" / "b.png"
    pixels = np.zeros((30, 60, 3), np.uint8)
    pixels[:, 15:45] = 255
    Image.fromarray(pixels).save(path)
    picture = read_picture(path, 16, 16, NODE)
    assert picture.shape == (16, 16, 3) and picture.min() > 0.9 and picture.max() <= 1


def test_a_picture_lies_as_its_camera_says(root):
    from concept_erasure.nodes.folders import read_picture

    path = root / "pets" / "cats" / "turned.jpg"
    picture = Image.new("RGB", (16, 16), "black")
    picture.paste("white", (0, 0, 16, 8))  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(path, exif=exif, quality=95)
    read = read_picture(path, 16, 16, NODE)
    assert read[:6].mean() < 0.1 and read[10:].mean() > 0.9


def test_captions(root):
    from concept_erasure.nodes.folders import caption_of, pictures_of

    assert [caption_of(path, NODE) for path in pictures_of("pets/cats", NODE)] == ["", "A green cat", ""]
    (root / "pets" / "cats" / "c.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"Some Node: c\.txt in folder cats cannot be read as text.*'image_folder'"):
        caption_of(root / "pets" / "cats" / "c.webp", NODE)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_damaged_picture_is_named(root, content):
    from concept_erasure.nodes.folders import read_picture

    path = root / "pets" / "cats" / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Some Node: broken\.png in folder cats cannot be read.*'image_folder'"):
        read_picture(path, 16, 16, NODE)


def test_the_fingerprint_sees_pictures_and_captions(root):
    from concept_erasure.nodes.folders import folder_fingerprint

    before = folder_fingerprint("pets/cats")
    (root / "pets" / "cats" / "a.txt").write_text("A red cat")
    with_caption = folder_fingerprint("pets/cats")
    (root / "pets" / "cats" / "c.webp").unlink()
    assert len({before, with_caption, folder_fingerprint("pets/cats")}) == 3
