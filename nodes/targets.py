"""Whether a file can be saved where it is to be: found out before work begins, and said in words of the artist's."""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

import folder_paths

SPARE_BYTES = 2**20  # what headers, checksums and the file system take beside the numbers
WAY_OUT = "Choose another folder for saving: one that is marked with is_default in extra_model_paths.yaml"


def _numbers(*names: str) -> set[int]:
    """Return the system's numbers of some errors; not every system has them all."""
    return {getattr(errno, name) for name in names if hasattr(errno, name)}


FULL = _numbers("ENOSPC", "EDQUOT", "EFBIG")
FORBIDDEN = _numbers("EACCES", "EPERM")
READ_ONLY = _numbers("EROFS")
TOO_LONG = _numbers("ENAMETOOLONG")
NO_FOLDER = _numbers("ENOTDIR", "EEXIST", "ELOOP")
GONE = _numbers("ENOENT", "ENODEV", "ENXIO", "EIO", "ESTALE", "ENOTCONN", "EHOSTDOWN", "ENETDOWN", "ETIMEDOUT")


def require_writable(
    path: Path, node: str, size: int = 0, root: Path | None = None, ending: str = "", way_out: str = WAY_OUT
) -> None:
    """Check that a file can be written, by writing a small one beside it and removing it again.

    Args:
        path: of the file; its folder is made.
        node: display name of the node, for messages.
        size: of the file in bytes, as far as it is known.
        root: the folder that the path was made from, if it is not ComfyUI's own: what it lies in must be there, since
            a folder made in place of a drive that is not connected would fill another disk.
        ending: what will be added to the name for files beside it.
        way_out: how to save somewhere else.

    Raises:
        ValueError: it cannot; the message says why and what to do.
    """
    # As long as the longest name that will be needed, which is that of an unfinished file.
    trial = path.with_name(f"{path.stem}{ending}{path.suffix}.{secrets.token_hex(2)}")
    try:
        if root is not None and not path.is_relative_to(folder_paths.models_dir):
            root.mkdir(exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with trial.open("xb") as file:
                file.write(bytes(4096))
        finally:
            with suppress(OSError):
                trial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise unwritable(path, error, node, way_out) from error
    if free < size + SPARE_BYTES:
        raise _full(path, node, way_out, free, size)


def unwritable(path: Path, error: OSError, node: str, way_out: str = WAY_OUT) -> ValueError:
    """Return what to tell somebody whose file could not be written."""
    number, folder = error.errno or 0, path.parent
    if number in FULL:
        return _full(path, node, way_out, _free(folder))
    if number in READ_ONLY:
        why, advice = f"{folder} is read-only", f"Make it writable. {way_out}"
    elif number in FORBIDDEN:
        why = f"{folder} cannot be written: the system does not permit it"
        advice = f"Give the user that runs ComfyUI the right to write there, or close what uses the file. {way_out}"
    elif number in TOO_LONG or (os.name == "nt" and len(str(path)) > 240):
        why, advice = "the name is too long for this disk", "Choose a shorter 'name'"
    elif number in NO_FOLDER:
        why, advice = f"{folder} is not a folder, but a file or a link", "Move it away"
    elif number in GONE:
        why = f"{folder} is not there or does not answer"
        advice = f"Connect its drive, or make the folder. {way_out}"
    else:
        why, advice = f"{folder} cannot be written ({error.strerror or error})", way_out
    return ValueError(f"{node}: {path.name} cannot be saved: {why} (input 'name'). {advice}.")


def _full(path: Path, node: str, way_out: str, free: int | None, size: int = 0) -> ValueError:
    left = "" if free is None else f"; {free / 1e6:.0f} MB are left"
    needed = f", {(size + SPARE_BYTES) / 1e6:.0f} MB are needed" if size else ""
    return ValueError(
        f"{node}: {path.name} cannot be saved: the disk of {path.parent} is full{left}{needed} (input 'name'). "
        f"Free some space there. {way_out}."
    )


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
