"""Lazy access to the tensors of a file, whichever of two containers it is: safetensors, or what torch.save wrote."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import is_safetensors, require_plain
from .inert_pickles import read_pickle
from .native import EIGHT_BITS, SAEFileError, require_finite, widened

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, *EIGHT_BITS)
# What programs that convert to eight bits put beside a tensor; without it the numbers mean something else.
SCALES = ("scale_weight", "weight_scale", "weight_scale_inv", "scaled_fp8")
# Modules that torch.compile and parallel training put around others; their names come before those of the tensors.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# An SAE file holds a few tensors; a pickle that claims many objects is no SAE.
MAX_PICKLE = 2**20
MAX_DEPTH = 6
PART_NUMBERS = 2**21  # of a matrix that is read in parts
MAX_PARTS = 10_000
# What torch.save may need to write tensors and plain settings.
STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
TENSOR_NAMES = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.storage.UntypedStorage",
    *(f"torch.{kind}Storage" for kind in STORAGES),
    *map(str, FLOATS),
}


class TensorFile:
    """The tensors of one file by name; nothing large is read before it is asked for.

    Args:
        path: ``.safetensors``, or a zip file of ``torch.save`` (``.pt``, ``.pth``).

    Attributes:
        shapes: name -> shape. Names in nested dictionaries and lists are joined by dots; those of modules that only
            wrap others are left out.
        metadata: of a safetensors file; whatever is no tensor in a torch file, by name.

    Raises:
        SAEFileError: it is missing, damaged, or needs code to be run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self._tensors: dict[str, Tensor] = {}
        if is_safetensors(path):
            stored = self._open_safetensors()
        else:
            self._tensors, self.metadata = self._flatten(self._open_torch())
            stored = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}
        self._stored = {_unwrapped(key): key for key in stored}
        if len(self._stored) != len(stored):
            raise SAEFileError(f"{path.name}: holds an SAE twice, once as it is and once wrapped in another module")
        self.shapes = {key: stored[name] for key, name in self._stored.items()}

    def _open_safetensors(self) -> dict[str, tuple[int, ...]]:
        try:
            require_plain(self.path)
            with safe_open(self.path, framework="pt") as file:
                self.metadata = dict(file.metadata() or {})
                return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
        except (OSError, SafetensorError) as error:
            raise SAEFileError(f"{self.path.name}: cannot be read as a safetensors file ({error})") from error

    def _open_torch(self) -> Any:
        """Map the file into memory with torch's weights-only loader: storages stay on disk until they are used."""
        try:
            require_plain(self.path)
            self._check_archive()
            return torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except SAEFileError:
            raise
        except (OSError, zipfile.BadZipFile) as error:
            raise SAEFileError(
                f"{self.path.name}: cannot be read as a file of torch.save ({error}). If it is older than PyTorch 1.6, "
                "load and save it once with a newer version"
            ) from error
        except Exception as error:  # torch and zipfile raise many kinds for what they refuse
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise SAEFileError(
                f"{self.path.name}: holds more than tensors, or is damaged, and is not loaded because a pickle can run "
                f"code ({reason}). Ask its author for a safetensors file"
            ) from error

    def _check_archive(self) -> None:
        """Look at a file of torch.save before torch does: a pickle can also hang, or ask for all memory there is."""
        with zipfile.ZipFile(self.path) as archive:
            pickles = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE:
                raise SAEFileError(f"{self.path.name}: is no file of torch.save that holds a few tensors")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise SAEFileError(f"{self.path.name}: is compressed. Unpack it, load it and torch.save it again")
            content = archive.read(pickles[0])
        read_pickle(io.BytesIO(content), len(content), TENSOR_NAMES)

    def _flatten(self, root: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Collect the tensors of nested dictionaries and lists, and what else is in them."""
        tensors: dict[str, Tensor] = {}
        metadata: dict[str, Any] = {}
        waiting = [("", root, MAX_DEPTH)]
        seen = 0
        while waiting:
            name, value, depth = waiting.pop()
            seen += 1
            if seen > MAX_PARTS:
                raise SAEFileError(f"{self.path.name}: holds too many parts for an SAE")
            if isinstance(value, Tensor):
                self._check_tensor(name, value)
                tensors[name] = value
            elif depth and isinstance(value, (Mapping, list, tuple)):
                if len(waiting) + len(value) > MAX_PARTS:
                    raise SAEFileError(f"{self.path.name}: holds too many parts for an SAE")
                parts = value.items() if isinstance(value, Mapping) else enumerate(value)
                waiting += [(f"{name}.{key}" if name else str(key), part, depth - 1) for key, part in parts]
            else:
                metadata[name] = value
        return tensors, metadata

    def _check_tensor(self, name: str, tensor: Tensor) -> None:
        """Refuse what only claims to be large: its numbers must lie in the file."""
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.numel() * tensor.element_size() > self.path.stat().st_size:
            raise SAEFileError(f"{self.path.name}: {name} is no plain tensor whose numbers lie in the file")

    def read(self, key: str) -> Tensor:
        """Read one tensor.

        Raises:
            SAEFileError: it is missing, is not of floating point, or holds NaN or infinity.
        """
        self._require_there(key)
        stored = self._stored[key]
        if self._tensors:
            tensor = self._tensors[stored].detach()
        else:
            try:
                with safe_open(self.path, framework="pt") as file:
                    tensor = file.get_tensor(stored)
            except (OSError, SafetensorError) as error:
                raise SAEFileError(f"{self.path.name}: {error}") from error
        return self._checked(key, tensor)

    def read_copy(self, key: str, transposed: bool = False) -> Tensor:
        """Read a matrix into memory of its own, as it is or transposed.

        It is read in parts, each from the file opened anew: parts of a file that stays open stay in memory, so that a
        copy of all of it would take twice its size for a while.

        Raises:
            SAEFileError: as ``read``.
        """
        self._require_there(key)
        rows, columns = self.shapes[key]
        step = max(1, PART_NUMBERS // max(1, columns))
        copy: Tensor | None = None
        for start in range(0, rows, step):
            part = self._checked(key, self._rows(self._stored[key], slice(start, min(start + step, rows))))
            if copy is None:
                copy = torch.empty((columns, rows) if transposed else (rows, columns), dtype=part.dtype)
            (copy.T if transposed else copy)[start : start + len(part)] = part
            del part  # else the file would stay open until the next part is there
        return torch.empty(self.shapes[key]) if copy is None else copy

    def _rows(self, stored: str, rows: slice) -> Tensor:
        """Return some rows of a matrix, from the file opened anew."""
        if self._tensors:
            tensors, _ = self._flatten(self._open_torch())
            if stored not in tensors:
                raise SAEFileError(f"{self.path.name}: changed on disk after it was opened")
            return tensors[stored].detach()[rows]
        try:
            with safe_open(self.path, framework="pt") as file:
                part: Tensor = file.get_slice(stored)[rows]
                return part
        except (OSError, SafetensorError) as error:
            raise SAEFileError(f"{self.path.name}: {error}") from error

    def _require_there(self, key: str) -> None:
        if key not in self.shapes:
            raise SAEFileError(f"{self.path.name}: tensor {key} is missing")

    def _checked(self, key: str, tensor: Tensor) -> Tensor:
        """Return a tensor of floating point that holds numbers only, widened from eight bits."""
        if tensor.dtype not in FLOATS:
            raise SAEFileError(f"{self.path.name}: {key} is {tensor.dtype}; expected floating point")
        if tensor.dtype in EIGHT_BITS:
            self._require_no_scales()
        tensor = widened(tensor)
        require_finite(tensor, f"{self.path.name}: {key}")
        return tensor

    def _require_no_scales(self) -> None:
        scale = next((key for key in self.shapes if key.rpartition(".")[2] in SCALES), None)
        if scale is not None:
            raise SAEFileError(
                f"{self.path.name}: holds eight-bit numbers that must be scaled ({scale}), which is not done here",
                "Use the file of the same SAE in float16 or float32.",
            )


def _unwrapped(key: str) -> str:
    """Return the name of a tensor without those of modules that only wrap others."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)
