"""Checksums of the pack's own files: whether they hold what was saved.

A file's metadata name ``checksums`` is a JSON object: the name of a part -> SHA-256, in hexadecimal. The parts are
read at different times, so each has its own: the texts of the metadata with the header, the weights of encoder and
decoder, and the concepts. They find damage and not malice: whoever changes a file can change its checksums too.
"""

import hashlib
import json
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

KEY = "checksums"
TEXTS = "metadata"


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the checksum of some tensors: of the name, type, shape and bytes of each, in the order of names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        shape = ",".join(map(str, tensor.shape))
        found.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{shape}\0".encode())
        if tensor.numel():
            # Its bytes are read where they are; a file that is mapped is not copied.
            found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def of_texts(metadata: Mapping[str, str], names: Collection[str]) -> str:
    """Return the checksum of those names of a file's metadata that are there, with their texts."""
    found = hashlib.sha256()
    for name in sorted(names):
        if name in metadata:
            text = metadata[name].encode()
            found.update(f"{name}\0{len(text)}\0".encode() + text)
    return found.hexdigest()


def stated(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums that a file states; none for a file from before there were any.

    Raises:
        ValueError: they are no checksums.
    """
    found = json.loads(metadata.get(KEY, "{}"))
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("no JSON object of texts")
    return found
