"""Where SAE and concept files are found: the artist's ``models/sae`` folders and the files shipped with the pack."""

import os
import re
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..sae_models.concepts import Concept
from ..sae_models.formats import CONFIG_FILES, WEIGHT_FILES, concept_files, open_sae, parts_of
from ..sae_models.formats.native import SAEFileError

FOLDER = "sae"
CONCEPTS = "concepts"  # the folder below models/sae that holds concept files, and their prefix in lists
EXTENSIONS = {".safetensors", ".pt", ".pth"}
SHIPPED = Path(__file__).resolve().parent.parent / "sae_models" / "weights"
SHIPPED_PREFIX = "shipped/"
BEST = "canvas_output_blocks.1.1.safetensors"  # of the shipped ones, by docs/results.md

SAFE_NAME = re.compile(r"\w[\w .+()=-]{0,98}")
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file names on Windows


def register_folder() -> None:
    """Add ``models/sae`` to ComfyUI's model folders; entries that others made or configured stay."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    # An empty set would list every file in the folder.
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | EXTENSIONS)


def names() -> list[str]:
    """Return the names of all SAEs: the best shipped one, the other shipped ones, the artist's."""
    paths = sorted(SHIPPED.glob("*.safetensors"), key=lambda path: (path.name != BEST, path.name))
    return [SHIPPED_PREFIX + path.name for path in paths] + list(_own())


def _own() -> dict[str, str]:
    """Return the artist's SAEs by name, each with its weights' name in ComfyUI's list.

    A folder with a configuration beside weights of a usual name is one entry, called as the folder.
    """
    listed = [name for name in folder_paths.get_filename_list(FOLDER) if Path(name).parts[0] != CONCEPTS]
    main = {Path(name).parent for name in listed if Path(name).name in WEIGHT_FILES and _has_configuration(name)}
    entries = {}
    for name in listed:
        folder = Path(name).parent
        if folder == Path() or folder not in main:
            entries[name] = name
        elif Path(name).name in WEIGHT_FILES:
            # Libraries put other tensors beside the weights, such as statistics; they are no SAEs.
            entries[folder.as_posix()] = name
    return entries


def _has_configuration(name: str) -> bool:
    full = folder_paths.get_full_path(FOLDER, name)
    return full is not None and any((Path(full).parent / config).is_file() for config in CONFIG_FILES)


def resolve(name: str) -> str:
    """Return the full path of an SAE: a file, or a folder of weights and configuration.

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
    listed = _own()[name]
    full = folder_paths.get_full_path_or_raise(FOLDER, listed)
    return full if listed == name else str(Path(full).parent)


def new_file(name: str, overwrite: bool, node: str = "SAE Save", below: str = "") -> Path:
    """Return where to save a file: in the first ``models/sae`` folder, or in a folder below it.

    Args:
        name: of the file, with or without ``.safetensors``.
        overwrite: whether a file may be there.
        node: display name of the node, for messages.
        below: the folder.

    Raises:
        ValueError: the name is no plain file name, or is taken.
    """
    stem = re.sub(r"\.safetensors$", "", name.strip(), flags=re.IGNORECASE)
    if not SAFE_NAME.fullmatch(stem) or stem[-1] in " ." or DEVICES.fullmatch(stem):
        raise ValueError(
            f"{node}: {name!r} cannot be the name of a file (input 'name'). Use up to 99 letters, digits, spaces "
            "and . _ + - = ( ), beginning with a letter or digit, and no folder."
        )
    path = Path(folder_paths.get_folder_paths(FOLDER)[0]) / below / f"{stem}.safetensors"
    if os.path.lexists(path) and not (overwrite and path.is_file()):
        raise ValueError(
            f"{node}: {path.name} is there already, in {path.parent}. Choose another 'name', or switch 'overwrite' on."
        )
    return path


def prompt_files() -> list[str]:
    """Return the names of the text files in ComfyUI's input folder."""
    return sorted(path.name for path in Path(folder_paths.get_input_directory()).glob("*.txt") if path.is_file())


def read_prompts(name: str) -> str:
    """Return what a text file of the input folder holds.

    Args:
        name: as ``prompt_files`` lists it; anything else is refused, whatever path it spells.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    if name not in prompt_files():
        raise ValueError(
            f"SAE Trainer: there is no text file '{name}' (input 'prompts_file'). Put it into ComfyUI's input folder, "
            "press R to refresh the lists, and choose it again."
        )
    path = Path(folder_paths.get_input_directory()) / name
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"SAE Trainer: {name} cannot be read as text (input 'prompts_file'): {error}. Save it as UTF-8."
        ) from error


def training_folder(name: str, digest: str) -> Path:
    """Return where a training run keeps what it collected and learned, in ComfyUI's output folder."""
    return Path(folder_paths.get_output_directory()) / "sae_training" / f"{name}-{digest}"


def fingerprint(name: str) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when an SAE changes on disk: name, size and time of its weights and its configuration."""
    parts = [part for part in parts_of(Path(resolve(name))) if part is not None]
    return tuple((part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts)


def unwritable(path: Path, error: OSError, node: str) -> ValueError:
    """Return what to tell somebody whose file could not be written."""
    return ValueError(
        f"{node}: {path.name} cannot be written to {path.parent} ({error.strerror or error}). Free some space, or "
        "close what uses the file."
    )


def listed_in(path: str) -> Path | None:
    """Return the model folder that a file of ``resolve`` lies in; None for a shipped one."""
    roots = map(Path, folder_paths.get_folder_paths(FOLDER))
    return next((root for root in roots if Path(path).is_relative_to(root)), None)


def concept_file_names() -> list[str]:
    """Return the artist's concept files, as they are listed: ``concepts/whiskers.safetensors``."""
    listed = map(Path, folder_paths.get_filename_list(FOLDER))
    return sorted(path.as_posix() for path in listed if path.parts[0] == CONCEPTS and path.suffix == ".safetensors")


def _concept_path(name: str) -> Path:
    """Return the full path of a concept file.

    Args:
        name: as ``concept_file_names`` lists it; anything else is refused, whatever path it spells.

    Raises:
        ValueError: no such file.
    """
    for listed in folder_paths.get_filename_list(FOLDER):
        if Path(listed).as_posix() == name and name in concept_file_names():
            return Path(folder_paths.get_full_path_or_raise(FOLDER, listed))
    raise ValueError(
        f"there is no concept file '{name}'. Put it into ComfyUI's models/sae/{CONCEPTS} folder, press R to refresh "
        "the lists, and choose it again"
    )


def load_concept(name: str) -> Concept:
    """Read one of ``concept_file_names``.

    Raises:
        ValueError: there is no such file, or it is damaged.
    """
    return concept_files.load(_concept_path(name)).concept


def concept_fingerprint(name: str) -> tuple[int, int]:
    """Return what changes when a concept file changes on disk.

    Raises:
        ValueError: there is no such file.
    """
    status = _concept_path(name).stat()
    return status.st_size, status.st_mtime_ns


def concept_names() -> list[str]:
    """Return every concept that some SAE file knows, sorted. Only file headers are read."""
    found: set[str] = set()
    for name in names():
        found.update(_concepts_in(resolve(name), fingerprint(name)))
    return sorted(found)


@lru_cache(maxsize=256)
def _concepts_in(path: str, _fingerprint: tuple[tuple[str, int, int], ...]) -> tuple[str, ...]:
    """Concepts of one file; the list of nodes is asked for often, the files change seldom."""
    try:
        return tuple(open_sae(path).concept_names())
    except SAEFileError:
        # The loader reports a damaged file when it is chosen; it must not hide the other files here.
        return ()
