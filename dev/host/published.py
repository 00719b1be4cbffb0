"""The files that a user of the pack gets: what git tracks (or would), minus ``.comfyignore``.

The test server runs on a copy of exactly these, so a file that is needed at run time but left out of the
archive fails the tests.
"""

import shutil
import subprocess
from pathlib import Path

import pathspec
from load import ROOT

# The folder that ComfyUI's manager installs into: the normalised project name.
FOLDER = "sae-concept-erasure"


def tracked_files() -> list[Path]:
    """Return every file under version control, or new and not ignored, relative to the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
    return sorted(Path(name) for name in names if name and (ROOT / name).is_file())


def published_files() -> list[Path]:
    """Return the files that the registry's archive holds, relative to the root."""
    ignored = pathspec.PathSpec.from_lines("gitwildmatch", (ROOT / ".comfyignore").read_text().splitlines())
    return [path for path in tracked_files() if not ignored.match_file(path.as_posix())]


def install(custom_nodes: Path) -> Path:
    """Copy the published files into ``custom_nodes``, as the manager would; return the pack's folder."""
    folder = custom_nodes / FOLDER
    for path in published_files():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    return folder
