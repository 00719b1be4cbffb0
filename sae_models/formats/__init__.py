"""Reading SAEs: the pack's own format and those of public libraries, told apart by what the file holds."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..sae import SparseAutoencoder
from .native import FORMAT, SAEFile
from .published import CONFIG_FILES, WEIGHT_FILES, PublishedSAE, parts_of

__all__ = ["CONFIG_FILES", "WEIGHT_FILES", "PublishedSAE", "load_whole", "open_sae", "parts_of"]


def open_sae(path: str | Path, hookpoint: str = "", inside: Path | None = None) -> SAEFile | PublishedSAE:
    """Open an SAE of any known format; only headers are read.

    Args:
        path, hookpoint, inside: see PublishedSAE. A native file says itself which block it reads.

    Raises:
        SAEFileError: it is damaged, of no known format, or does not say which block it reads.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors" and _is_native(path):
        return SAEFile(path)
    if path.is_file() or path.is_dir():
        return PublishedSAE(path, hookpoint, inside)
    return SAEFile(path)


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
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format", "").startswith(FORMAT.partition("/")[0])
    except (OSError, SafetensorError):
        return True  # its own reader says best what is wrong with it
