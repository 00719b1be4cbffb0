"""Saved lists of concepts: text files in ``models/sae/concepts``, for a Concept Detector that finds many at once."""

from pathlib import Path

from . import files


def is_list(name: str) -> bool:
    """Whether a choice of the Concept Detector is a list, there or not, and no concept."""
    return name.lower().endswith(files.LIST_ENDING) and files.is_in_concepts(name)


def read(name: str) -> list[str]:
    """Return the names in a list: one a line or separated by commas, each once; what follows a # is a comment.

    Args:
        name: as ``files.concept_choices`` lists it; anything else is refused, whatever path it spells.

    Raises:
        ValueError: there is no such list, it is no text, or it names nothing.
    """
    path = files.in_concepts(files.LIST_ENDING).get(name)
    if path is None:
        raise ValueError(
            f"there is no list '{name}'. Put it into ComfyUI's models/sae/{files.CONCEPTS} folder, press R to refresh "
            "the lists, and choose it again"
        )
    try:
        lines = files.read_text(Path(path)).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the list '{name}' cannot be read as text ({error}). Save it as UTF-8") from error
    found = [part.strip() for line in lines for part in line.partition("#")[0].split(",")]
    if not any(found):
        raise ValueError(f"the list '{name}' names no concept. Write one name a line")
    return list(dict.fromkeys(filter(None, found)))
