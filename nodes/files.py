"""Where SAE files are found: the artist's ``models/sae`` folders and the files shipped with the pack."""

from functools import lru_cache
from pathlib import Path

import folder_paths

from ..sae_models.native import SAEFile, SAEFileError

FOLDER = "sae"
EXTENSIONS = {".safetensors"}
SHIPPED = Path(__file__).resolve().parent.parent / "sae_models" / "weights"
SHIPPED_PREFIX = "shipped/"
BEST = "canvas_output_blocks.1.1.safetensors"  # of the shipped ones, by docs/results.md


def register_folder() -> None:
    """Add ``models/sae`` to ComfyUI's model folders; entries that others made or configured stay."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    # An empty set would list every file in the folder.
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | EXTENSIONS)


def names() -> list[str]:
    """Return the names of all SAE files: the best shipped one, the other shipped ones, the artist's."""
    paths = sorted(SHIPPED.glob("*.safetensors"), key=lambda path: (path.name != BEST, path.name))
    shipped = [SHIPPED_PREFIX + path.name for path in paths]
    return shipped + folder_paths.get_filename_list(FOLDER)


def resolve(name: str) -> str:
    """Return the full path of an SAE file.

    Args:
        name: as ``names`` lists it; anything else is refused, whatever path it spells.

    Raises:
        ValueError: no such file.
    """
    if name not in names():
        raise ValueError(
            f"SAE Loader: there is no SAE file '{name}' (input 'sae_file'). Put the file into ComfyUI's models/sae "
            "folder, press R to refresh the lists, and choose it again."
        )
    if name.startswith(SHIPPED_PREFIX):
        return str(SHIPPED / name.removeprefix(SHIPPED_PREFIX))
    return folder_paths.get_full_path_or_raise(FOLDER, name)


def concept_names() -> list[str]:
    """Return every concept that some SAE file knows, sorted. Only file headers are read."""
    found: set[str] = set()
    for name in names():
        path = Path(resolve(name))
        found.update(_concepts_in(str(path), path.stat().st_mtime_ns))
    return sorted(found)


@lru_cache(maxsize=256)
def _concepts_in(path: str, _modified: int) -> tuple[str, ...]:
    """Concepts of one file; the list of nodes is asked for often, the files change seldom."""
    try:
        return tuple(SAEFile(path).concept_names())
    except SAEFileError:
        # The loader reports a damaged file when it is chosen; it must not hide the other files here.
        return ()
