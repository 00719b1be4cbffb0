"""Lazy access to the tensors of a file, whichever of two containers it is: safetensors, or what torch.save wrote."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..native import SAEFileError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# An SAE file holds a few tensors; a pickle that claims many objects is no SAE.
MAX_PICKLE = 4 * 2**20
MAX_DEPTH = 6


class TensorFile:
    """The tensors of one file by name; nothing large is read before it is asked for.

    Args:
        path: ``.safetensors``, or a zip file of ``torch.save`` (``.pt``, ``.pth``).

    Attributes:
        shapes: name -> shape. Names in nested dictionaries and lists are joined by dots.
        metadata: of a safetensors file; whatever is no tensor in a torch file, by name.

    Raises:
        SAEFileError: it is missing, damaged, or needs code to be run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self._tensors: dict[str, Tensor] = {}
        if path.suffix == ".safetensors":
            self.shapes = self._open_safetensors()
        else:
            self._flatten(self._open_torch(), "", MAX_DEPTH)
            self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def _open_safetensors(self) -> dict[str, tuple[int, ...]]:
        try:
            with safe_open(self.path, framework="pt") as file:
                self.metadata = dict(file.metadata() or {})
                return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
        except (OSError, SafetensorError) as error:
            raise SAEFileError(f"{self.path.name}: cannot be read as a safetensors file ({error})") from error

    def _open_torch(self) -> Any:
        """Map the file into memory with torch's weights-only loader: storages stay on disk until they are used."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                pickles = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE:
                raise SAEFileError(f"{self.path.name}: is no file of torch.save that holds a few tensors")
            return torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except SAEFileError:
            raise
        except (OSError, zipfile.BadZipFile) as error:
            raise SAEFileError(
                f"{self.path.name}: cannot be read as a file of torch.save ({error}). If it is older than PyTorch 1.6, "
                "load and save it once with a newer version"
            ) from error
        except Exception as error:  # torch raises many kinds for what it refuses
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise SAEFileError(
                f"{self.path.name}: holds more than tensors, or is damaged, and is not loaded because a pickle can run "
                f"code ({reason}). Ask its author for a safetensors file"
            ) from error

    def _flatten(self, value: Any, name: str, depth: int) -> None:
        if isinstance(value, Tensor):
            self._tensors[name] = value
        elif depth and isinstance(value, Mapping):
            for key, part in value.items():
                self._flatten(part, f"{name}.{key}" if name else str(key), depth - 1)
        elif depth and isinstance(value, (list, tuple)):
            for i, part in enumerate(value):
                self._flatten(part, f"{name}.{i}" if name else str(i), depth - 1)
        else:
            self.metadata[name] = value

    def read(self, key: str) -> Tensor:
        """Read one tensor.

        Raises:
            SAEFileError: it is missing, is not of floating point, or holds NaN or infinity.
        """
        if key not in self.shapes:
            raise SAEFileError(f"{self.path.name}: tensor {key} is missing")
        if self._tensors:
            tensor = self._tensors[key].detach()
        else:
            try:
                with safe_open(self.path, framework="pt") as file:
                    tensor = file.get_tensor(key)
            except (OSError, SafetensorError) as error:
                raise SAEFileError(f"{self.path.name}: {error}") from error
        if tensor.dtype not in FLOATS:
            raise SAEFileError(f"{self.path.name}: {key} is {tensor.dtype}; expected floating point")
        if not torch.isfinite(tensor).all():
            raise SAEFileError(f"{self.path.name}: {key} contains NaN or infinity; the file is damaged")
        return tensor
