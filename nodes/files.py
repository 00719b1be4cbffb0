"""Where SAE and concept files are found: the artist's ``models/sae`` folders and the files shipped with the pack."""

import codecs
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path

import folder_paths
import yaml
from comfy.cli_args import args
from safetensors import SafetensorError

from ..sae_models import shipped
from ..sae_models.concepts import Concept
from ..sae_models.formats import CONFIG_FILES, WEIGHT_FILES, concept_files, concepts_in, parts_of
from ..sae_models.formats.files import SAFETENSORS
from .listing import files_below, files_in
from .targets import require_writable

FOLDER = "sae"
CONCEPTS = "concepts"  # the folder below models/sae that holds concept files, and their prefix in lists
EXTENSIONS = {".safetensors", ".pt", ".pth"}
LIST_ENDING = ".txt"  # of lists of concepts, see concept_lists
SHIPPED = Path(__file__).resolve().parent.parent / "sae_models" / "weights"
SHIPPED_PREFIX = "shipped/"

SAFE_NAME = re.compile(r"\w[\w .+()=-]{0,98}")
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file names on Windows


def register_folder() -> None:
    """Add ``models/sae`` to ComfyUI's model folders; entries that others made or configured stay.

    The first folder is where files are saved. As with ComfyUI's own kinds that is ``models/sae``, unless a section of
    ``extra_model_paths.yaml`` is marked with ``is_default``.
    """
    own = str(Path(folder_paths.models_dir) / FOLDER)
    folder_paths.add_model_folder_path(FOLDER, own)
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    marked = _marked_as_default()
    # The kind was not known when ComfyUI read its configuration, so what stands there came first, marked or not.
    paths.sort(key=lambda path: 0 if path in marked else 1 if path == own else 2)
    # An empty set would list every file in the folder.
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | EXTENSIONS)


def _marked_as_default() -> set[str]:
    """Return the folders for SAEs that ComfyUI's configuration marks as those to save in."""
    usual = Path(folder_paths.__file__).resolve().parent / "extra_model_paths.yaml"
    found: set[str] = set()
    for file in [usual, *map(Path, itertools.chain(*(args.extra_model_paths_config or [])))]:
        try:
            sections = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # ComfyUI has said so, if there was a file
        for section in sections.values() if isinstance(sections, dict) else ():
            if isinstance(section, dict) and section.get("is_default") and isinstance(section.get(FOLDER), str):
                base = Path(os.path.expandvars(Path(str(section.get("base_path") or "")).expanduser()))
                lines = filter(None, section[FOLDER].split("\n"))
                found |= {os.path.normpath(file.absolute().parent / base / line) for line in lines}
    return found


def names() -> list[str]:
    """Return the names of all SAEs: the best shipped one, the other shipped ones, the artist's."""
    return [*_shipped(), *_own(_listed())]


def _shipped() -> dict[str, str]:
    """Return the SAEs that come with the pack, the best one first: name -> path."""
    paths = sorted(SHIPPED.glob("*.safetensors"), key=lambda path: (path.name != shipped.file_name(), path.name))
    return {SHIPPED_PREFIX + path.name: str(path) for path in paths}


def _listed() -> dict[str, str]:
    """Return the artist's readable files of weights, configurations and lists: path below models/sae -> whole path."""
    extensions = {each.lower() for each in folder_paths.folder_names_and_paths[FOLDER][1]} or EXTENSIONS

    def wanted(name: str) -> bool:
        ending = f".{name.lower().rpartition('.')[2]}"
        return ending in extensions or ending == LIST_ENDING or name.lower() in CONFIG_FILES

    return files_below(folder_paths.get_folder_paths(FOLDER), wanted)


def _own(listed: dict[str, str]) -> dict[str, str]:
    """Return the artist's SAEs by name, each with its path: of a file, or of a folder.

    A folder with a configuration beside weights of a usual name is one entry, called as the folder.
    """
    configured = {_parted(path)[0] for name, path in listed.items() if _parted(name)[1].lower() in CONFIG_FILES}
    entries, usual = {}, {}
    for name, path in listed.items():
        folder, last = _parted(name)
        if last.lower() in CONFIG_FILES or last.lower().endswith(LIST_ENDING) or is_in_concepts(name):
            continue
        entries[name] = path
        if folder and last.lower() in WEIGHT_FILES and _parted(path)[0] in configured:
            usual[_parted(path)[0]] = Path(folder).as_posix()
    # Libraries put other tensors beside the weights, such as statistics; they are no SAEs.
    others = {name: path for name, path in entries.items() if _parted(path)[0] not in usual}
    return others | {name: path for path, name in usual.items()}


def _parted(path: str) -> tuple[str, str]:
    """Return the folder and the name of a file; quicker than pathlib, since there may be thousands."""
    folder, _, name = path.rpartition(os.sep)
    return folder, name


def is_in_concepts(name: str) -> bool:
    """Whether a name below ``models/sae`` lies in the folder of concepts, which a file system may show in capitals."""
    return name.replace(os.sep, "/").split("/")[0].lower() == CONCEPTS


def resolve(name: str) -> str:
    """Return the full path of an SAE: a file, or a folder of weights and configuration.

    Args:
        name: as ``names`` lists it; anything else is refused, whatever path it spells.

    Raises:
        ValueError: no such file.
    """
    path = _shipped().get(name) or _own(_listed()).get(name)
    if path is None:
        raise ValueError(
            f"SAE Loader: there is no SAE file '{name}' (input 'sae_file'). Put the file into ComfyUI's models/sae "
            "folder, press R to refresh the lists, and choose it again. If it is there, the log says why it cannot be "
            "read."
        )
    return path


def new_file(
    name: str, overwrite: bool, node: str = "Save SAE", below: str = "", size: int = 0, ending: str = ""
) -> Path:
    """Return where to save a file: in the first ``models/sae`` folder, or in a folder below it.

    Args:
        name: of the file, with or without ``.safetensors``.
        overwrite: whether a file may be there.
        node: display name of the node, for messages.
        below: the folder.
        size: of what is to be saved in bytes, as far as it is known.
        ending: what will be added to the name for files beside it.

    Raises:
        ValueError: the name is no plain file name, is taken, or cannot be written.
    """
    stem = without_extension(name)
    if not SAFE_NAME.fullmatch(stem) or stem[-1] in " ." or DEVICES.fullmatch(stem):
        raise ValueError(
            f"{node}: {name!r} cannot be the name of a file (input 'name'). Use up to 99 letters, digits, spaces "
            "and . _ + - = ( ), beginning with a letter or digit, and no folder."
        )
    root = Path(folder_paths.get_folder_paths(FOLDER)[0])
    path = root / below / f"{stem}{SAFETENSORS}"
    require_writable(path, node, size, root, ending)
    if os.path.lexists(path) and not (overwrite and path.is_file()):
        way = (
            "it is no plain file, which 'overwrite' leaves alone. Choose another 'name'."
            if overwrite
            else "choose another 'name', or switch 'overwrite' on."
        )
        raise ValueError(f"{node}: {path.name} is there already, in {path.parent}: {way}")
    return path


def without_extension(name: str) -> str:
    """Return a name that was typed in without spaces around it and without ``.safetensors``."""
    return re.sub(r"\.safetensors$", "", name.strip(), flags=re.IGNORECASE)


def read_text(path: Path) -> str:
    """Return what a text file holds: UTF-8, or UTF-16 with its mark, as editors on Windows save it.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is no text.
    """
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig")


def prompt_files() -> list[str]:
    """Return the names of the text files in ComfyUI's input folder."""
    return files_in(folder_paths.get_input_directory(), lambda name: name.lower().endswith(".txt"))


def no_prompts(name: str) -> str:
    """Return what to say about a text file that is not there."""
    return (
        f"SAE Trainer: there is no text file '{name}' (input 'prompts_file'). Put it into ComfyUI's input folder, "
        "press R to refresh the lists, and choose it again."
    )


def read_prompts(name: str) -> str:
    """Return what a text file of the input folder holds.

    Args:
        name: as ``prompt_files`` lists it; anything else is refused, whatever path it spells.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    if name not in prompt_files():
        raise ValueError(no_prompts(name))
    try:
        return read_text(Path(folder_paths.get_input_directory()) / name)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"SAE Trainer: {name} cannot be read as text (input 'prompts_file'): {error}. Save it as UTF-8."
        ) from error


def training_folder(name: str, digest: str) -> Path:
    """Return where a training run keeps what it collected and learned, in ComfyUI's output folder.

    Raises:
        ValueError: it cannot be written.
    """
    folder = Path(folder_paths.get_output_directory()) / "sae_training" / f"{name}-{digest}"
    require_writable(folder, "SAE Trainer", way_out="Start ComfyUI with --output-directory and another folder")
    return folder


def fingerprint(name: str) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when an SAE changes on disk: name, size and time of its weights and its configuration."""
    parts = [part for part in parts_of(Path(resolve(name))) if part is not None]
    return tuple((part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts)


def listed_in(path: str) -> Path | None:
    """Return the model folder that a file of ``resolve`` lies in; None for a shipped one."""
    roots = map(Path, folder_paths.get_folder_paths(FOLDER))
    return next((root for root in roots if Path(path).is_relative_to(root)), None)


def in_concepts(*endings: str) -> dict[str, str]:
    """Return the artist's files in ``models/sae/concepts`` that end so: ``concepts/whiskers.safetensors`` -> path."""
    listed = {Path(name).as_posix(): path for name, path in _listed().items() if is_in_concepts(name)}
    return {name: path for name, path in listed.items() if name.lower().endswith(endings)}


def concept_file_names() -> list[str]:
    """Return the artist's concept files, as they are listed."""
    return list(in_concepts(SAFETENSORS))


def concept_choices() -> list[str]:
    """Return the artist's concept files and then the lists of concepts, as they are listed."""
    return sorted(in_concepts(SAFETENSORS, LIST_ENDING), key=lambda name: name.lower().endswith(LIST_ENDING))


def concept_fingerprints(names: Iterable[str]) -> list[tuple[int, int]]:
    """Return what changes when one of ``concept_choices`` changes on disk, of those names that are one."""
    there = in_concepts(SAFETENSORS, LIST_ENDING)
    return [_stamp(there[name]) for name in names if name in there]


def _stamp(path: str | Path) -> tuple[int, int]:
    """Return size and time of a file, of which one changes when the file does."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def is_concept_file(name: str) -> bool:
    """Whether a choice of the Concept Detector is a concept file, there or not, and no concept of an SAE."""
    return is_in_concepts(name) and name.lower().endswith(SAFETENSORS)


def _concept_path(name: str) -> Path:
    """Return the full path of a concept file.

    Args:
        name: as ``concept_file_names`` lists it; anything else is refused, whatever path it spells.

    Raises:
        ValueError: no such file.
    """
    path = in_concepts(SAFETENSORS).get(name)
    if path is None:
        raise ValueError(
            f"there is no concept file '{name}'. Put it into ComfyUI's models/sae/{CONCEPTS} folder, press R to "
            "refresh the lists, and choose it again"
        )
    return Path(path)


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
    return _stamp(_concept_path(name))


def concept_names() -> list[str]:
    """Return every concept that some SAE file knows, sorted. Only file headers are read, and only of changed files."""
    paths = {**_shipped(), **_own(_listed())}.values()
    held = {path: _concepts_of(path) for path in paths if path.lower().endswith(SAFETENSORS)}
    for path in _concepts_by_path.keys() - held.keys():
        del _concepts_by_path[path]
    return sorted(set().union(*held.values()))


# The list of nodes is asked for often, the files change seldom: path -> size and time, and what was in the file then.
_concepts_by_path: dict[str, tuple[tuple[int, int], tuple[str, ...]]] = {}


def _concepts_of(path: str) -> tuple[str, ...]:
    """Return the concepts of one file."""
    try:
        stamp = _stamp(path)
    except OSError:
        return ()
    known = _concepts_by_path.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    try:
        held = tuple(concepts_in(path))
    except (OSError, SafetensorError, ValueError, AttributeError, RecursionError):
        held = ()  # the loader reports a damaged file when it is chosen; it must not hide the other files here
    _concepts_by_path[path] = stamp, held
    return held
