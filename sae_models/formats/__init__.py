"""Reading SAEs: the pack's own format and those of public libraries, told apart by what the file holds."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..sae import SparseAutoencoder
from .files import is_safetensors, require_plain
from .native import FORMAT, SAEFile
from .published import CONFIG_FILES, WEIGHT_FILES, PublishedSAE, parts_of

__all__ = ["CONFIG_FILES", "WEIGHT_FILES", "PublishedSAE", "concepts_in", "load_whole", "open_sae", "parts_of"]


def open_sae(path: str | Path, hookpoint: str = "", inside: Path | None = None) -> SAEFile | PublishedSAE:
    """Open an SAE of any known format; only headers are read.

    Args:
        path, hookpoint, inside: see PublishedSAE. A native file says itself which block it reads.

    Raises:
        SAEFileError: it is damaged, of no known format, or does not say which block it reads.
    """
    path = Path(path)
    weights = parts_of(path)[0] if path.is_dir() else path
    if weights.is_file() and not (is_safetensors(weights) and _is_native(weights)):
        return PublishedSAE(path, hookpoint, inside)
    return SAEFile(weights)


def concepts_in(path: str | Path) -> list[str]:
    """Return the names of the concepts that a file says it holds; other formats than ours hold none.

    Quicker than to open it: only the metadata is looked at, and nothing is checked against it.

    Raises:
        OSError, SafetensorError, ValueError, AttributeError, RecursionError: it is damaged.
    """
    require_plain(Path(path))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        return []
    concepts = json.loads(metadata.get("dictionary", "{}")).get("concepts", {})
    return sorted(concepts) if isinstance(concepts, dict) else []


def load_whole(file: SAEFile | PublishedSAE) -> SparseAutoencoder:
    """Read encoder and, where there is one, decoder, with the dtype that the file has.

    Raises:
        SAEFileError: a tensor cannot be read or holds NaN.
    """
    sae = file.load()
    if file.has_decoder:
        file.load_decoder(sae)
    return sae


def _is_native(path: Path) -> bool:
    try:
        require_plain(path)
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format", "").startswith(FORMAT.partition("/")[0])
    except (OSError, SafetensorError):
        return True  # its own reader says best what is wrong with it
