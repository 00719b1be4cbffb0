"""Folders of pictures in ComfyUI's input folder: which there are, and what is in them.

A picture may have a caption, in a text file of the same name: ``cat_01.png`` and ``cat_01.txt``.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageOps
from torch import Tensor

from ..training.from_model.folder import PictureError, upright
from .checking import FileChoice
from .files import read_text
from .listing import is_file, is_text

NO_FOLDER = "none"
EXTENSIONS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def folder_input(tooltip: str) -> io.Input:
    """Return the choice of a folder, or of none."""
    return FileChoice("image_folder", options=[NO_FOLDER, *picture_folders()], default=NO_FOLDER, tooltip=tooltip)


def picture_folders() -> list[str]:
    """Return the folders below ComfyUI's input folder that hold images, such as ``cats`` and ``pets/dogs``."""
    root = Path(folder_paths.get_input_directory())
    folders = filter(is_text, folder_paths.get_input_subfolders())
    return [name for name in folders if next(_picture_names(root / name), None)]


def is_there(name: str | None, node: str) -> bool | str:
    """Return whether a choice of ``folder_input`` can be used; if not, what to say about it."""
    try:
        return name in (None, NO_FOLDER) or bool(pictures_of(str(name), node))
    except ValueError as error:
        return str(error)


def pictures_of(name: str, node: str, most: int | None = None) -> list[Path]:
    """Return the pictures of a folder, by name.

    Args:
        name: as ``picture_folders`` lists it; anything else is refused, whatever path it spells.
        node: display name of the node, for messages.
        most: how many at most, evenly spread over the names; None for all.

    Raises:
        ValueError: there is no such folder.
    """
    if name not in picture_folders():
        raise ValueError(
            f"{node}: there is no folder '{name}' with images (input 'image_folder'). Make a folder in ComfyUI's "
            f"input folder, put images into it ({', '.join(sorted(end[1:] for end in EXTENSIONS))}), press R to "
            "refresh the lists, and choose it again."
        )
    found = _pictures_in(Path(folder_paths.get_input_directory()) / name)
    if most is None or len(found) <= most:
        return found
    return [found[i * len(found) // most] for i in range(most)]


def read_picture(path: Path, width: int, height: int, node: str) -> Tensor:
    """Return a picture, cropped around its middle to the shape that is asked for, and scaled to it.

    Args:
        path: of ``pictures_of``.
        width, height: in pixels.
        node: display name of the node, for messages.

    Returns:
        [height, width, 3] in 0..1.

    Raises:
        ValueError: the file is no picture, or damaged, or too large for PIL to trust it.
    """
    try:
        fitted = ImageOps.fit(upright(path), (width, height), Image.Resampling.LANCZOS)
    except PictureError as error:
        raise ValueError(
            f"{node}: {path.name} in folder {path.parent.name} cannot be read as an image ({error.__cause__}; input "
            "'image_folder'). Take it out of the folder, or save it anew."
        ) from error
    return torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255)


def caption_of(path: Path, node: str) -> str:
    """Return what the text file beside a picture says, in one line; "" if there is none.

    Raises:
        ValueError: it is no text.
    """
    beside = path.with_suffix(".txt")
    if not is_file(beside):
        return ""
    try:
        return " ".join(read_text(beside).split())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{node}: {beside.name} in folder {beside.parent.name} cannot be read as text ({error}; input "
            "'image_folder'). Save it as UTF-8."
        ) from error


def captioned(name: str, node: str) -> list[tuple[Path, str]]:
    """Return the images of a folder, each with its caption; see ``pictures_of`` and ``caption_of``."""
    return [(path, caption_of(path, node)) for path in pictures_of(name, node)]


def folder_fingerprint(name: str) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a folder's images or captions change: names, sizes and times; () for no folder."""
    if name not in picture_folders():
        return ()
    pictures = _pictures_in(Path(folder_paths.get_input_directory()) / name)
    files = [file for path in pictures for file in (path, path.with_suffix(".txt")) if is_file(file)]
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _pictures_in(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(_picture_names(folder))]


def _picture_names(folder: Path) -> Iterator[str]:
    """Yield the names of a folder's images; of none if it may not be read, or has just gone."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # one that cannot be looked at leaves the others
                if Path(entry.name).suffix.lower() in EXTENSIONS and is_text(entry.name) and entry.is_file():
                    yield entry.name
