"""What is in a folder, whatever else is in it: one bad entry never takes the others with it.

Links may lead nowhere or in circles, pipes may stand among files, folders may be closed, files may vanish while they
are listed, names may be no text. Such are left out, and the log says so once.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

NAMED = 5  # how many of those left out are named
MOST_FOLDERS = 20_000  # links among folders can make more paths than there are atoms

_said: dict[tuple[str, bool], str] = {}


def files_below(roots: Iterable[str], wanted: Callable[[str], bool]) -> dict[str, str]:
    """Return the readable files in some folders and below: path below its folder -> whole path, sorted.

    Where two folders have a file of one name, the first folder's counts, as for ComfyUI.

    Args:
        roots: the folders; those that are missing hold nothing.
        wanted: whether a file of that name is asked for.
    """
    found: dict[str, str] = {}
    for root in roots:
        for name, path in _walk(root, wanted, deep=True).items():
            found.setdefault(name, path)
    return dict(sorted(found.items()))


def files_in(folder: str, wanted: Callable[[str], bool]) -> list[str]:
    """Return the names of the readable files in a folder, not below it, sorted."""
    return sorted(_walk(folder, wanted, deep=False))


def is_file(path: Path) -> bool:
    """Return whether a plain file is there; one that cannot be looked at is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_text(name: str) -> bool:
    """Return whether a name can stand in a workflow: on Linux a file's may be bytes that are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(root: str, wanted: Callable[[str], bool], deep: bool) -> dict[str, str]:
    """Return the readable files of one folder, and say in the log what was left out."""
    found: dict[str, str] = {}
    left_out: list[str] = []
    # Each with what it is called below the root, and the folders above it by number, to notice circles.
    waiting: deque[tuple[str, str, frozenset[tuple[int, int]]]] = deque([(root, "", frozenset())])
    seen = 0
    while waiting:
        folder, below, above = waiting.popleft()
        seen += 1
        if seen > MOST_FOLDERS:
            left_out.append(f"{below} and what comes after it (more than {MOST_FOLDERS} folders)")
            break
        try:
            above |= _number(folder)
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if folder != root or os.path.lexists(root):
                left_out.append(f"{below or 'the folder'} ({_reason(error)})")
            continue
        for entry in listed:
            name = f"{below}{os.sep}{entry.name}" if below else entry.name
            try:
                if not entry.is_dir():
                    if wanted(entry.name):
                        _require_readable(entry, name)
                        found[name] = entry.path
                    elif entry.is_symlink():
                        _require_target(entry)
                elif deep and entry.name != ".git":
                    name.encode()
                    if _number(entry.path) & above:
                        raise ValueError("a link to a folder above it")
                    waiting.append((entry.path, name, above))
            except (OSError, ValueError) as error:
                left_out.append(f"{name} ({_reason(error)})")
    _say(root, deep, left_out)
    return found


def _number(folder: str) -> frozenset[tuple[int, int]]:
    """Return what tells a folder from others, whatever path leads to it; nothing where the file system does not say.

    Raises:
        OSError: it cannot be looked at.
    """
    status = Path(folder).stat()
    return frozenset({(status.st_dev, status.st_ino)} if status.st_ino else ())


def _require_readable(entry: "os.DirEntry[str]", name: str) -> None:
    """Check that an entry is a plain file that can be opened, without opening it.

    Raises:
        OSError, ValueError: it is not; the message says what it is.
    """
    name.encode()  # what is no text cannot stand in a workflow
    if not entry.is_file():
        _require_target(entry)
        raise ValueError("not a file")
    if not os.access(entry.path, os.R_OK):
        raise ValueError("may not be read")


def _require_target(entry: "os.DirEntry[str]") -> None:
    """Check that a link leads somewhere.

    Raises:
        ValueError: it does not.
    """
    if not Path(entry.path).exists():
        raise ValueError("a link that leads nowhere" if entry.is_symlink() else "gone")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeError):
        return "its name is no text"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _say(root: str, deep: bool, left_out: list[str]) -> None:
    """Log what was left out of a folder, unless that was said before."""
    more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
    line = ", ".join(left_out[:NAMED]) + more
    if _said.get((root, deep), "") == line:
        return
    _said[root, deep] = line
    if line:
        text = f"some things cannot be read and are left out of the lists: {line}"
        logging.warning("SAE Concept Erasure: in %s %s.", root, text.encode(errors="backslashreplace").decode())
