"""Ways to change a file.

Each takes its bytes, a random generator and the bytes of another file of any format, and returns the new bytes, or None
where it cannot be done to this file.
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random, bytes], bytes | None]
DEEP = 100_000
SIZES = (0, -1, 1, 2**15, 2**31, 2**32 + 1, 2**40, 2**63 - 1, 2**63, 2**64, 10**30, 1.5, "8", None, [], True)
ODD = (None, [], {}, -1, 0, 10**12, 10**400, 1e308, float("nan"), "x", "", "\ud800", "\0", True, {"k": []}, [[]], 2.5)
BOMB_BYTES = 2**28
PICKLE, DIRECTORY = "data.pkl", b"PK\x01\x02"


def flip(content: bytes, random: Random, _: bytes) -> bytes | None:
    """One to eight bits, anywhere."""
    return _flipped(content, random, len(content))


def flip_early(content: bytes, random: Random, _: bytes) -> bytes | None:
    """One to eight bits where a file says what is in it."""
    return _flipped(content, random, min(len(content), 1024))


def cut(content: bytes, random: Random, _: bytes) -> bytes | None:
    """The end is missing, as after a broken download."""
    return content[: random.randrange(len(content))] if content else None


def cut_the_start(content: bytes, random: Random, _: bytes) -> bytes | None:
    """The start is missing."""
    return content[random.randrange(len(content)) :] if content else None


def lengthen(content: bytes, random: Random, other: bytes) -> bytes:
    """Something follows that does not belong there."""
    return content + random.choice((bytes(1000), other[:5000], random.randbytes(77)))


def blank(content: bytes, random: Random, _: bytes) -> bytes | None:
    """A stretch is zero, as where a disk lost it, or all ones, which are NaN."""
    if not content:
        return None
    start = random.randrange(len(content))
    size = min(len(content) - start, random.choice((1, 16, 512, 4096)))
    return content[:start] + random.choice((b"\0", b"\xff")) * size + content[start + size :]


def swap_stretches(content: bytes, random: Random, _: bytes) -> bytes | None:
    """Two stretches have changed places."""
    size = random.choice((1, 16, 512))
    if len(content) < 2 * size:
        return None
    one, two = sorted(random.randrange(len(content) - size) for _ in range(2))
    if two < one + size:
        return None
    parts = content[:one], content[two : two + size], content[one + size : two], content[one : one + size]
    return b"".join((*parts, content[two + size :]))


def another_file(_: bytes, __: Random, other: bytes) -> bytes:
    """Another file under this one's name."""
    return other


def swap_headers(content: bytes, random: Random, other: bytes) -> bytes | None:
    """The header of another safetensors file, or the pickle of another file of torch.save."""
    if _is_safetensors(content) and _is_safetensors(other):
        return other[: _start(other)] + content[_start(content) :]
    if zipfile.is_zipfile(io.BytesIO(content)) and zipfile.is_zipfile(io.BytesIO(other)):
        return _rezipped(content, lambda _: _pickle_of(other))
    start = random.randrange(1, 64)
    return other[:start] + content[start:]


def lie_about_length(content: bytes, random: Random, _: bytes) -> bytes | None:
    """A safetensors header that claims another length."""
    if not _is_safetensors(content):
        return None
    length = _start(content) - 8
    lies = (0, 1, length - 1, length + 1, 2**31, 2**40, 2**63, 2**64 - 1, random.randrange(len(content)))
    return struct.pack("<Q", max(0, random.choice(lies))) + content[8:]


def huge_shapes(content: bytes, random: Random, _: bytes) -> bytes | None:
    """A shape that is not that of the data, with places to match or without; a number of a pickle or of a picture."""
    if _is_safetensors(content):
        return _with_header(content, lambda header: _reshape(header, random))
    if zipfile.is_zipfile(io.BytesIO(content)):
        return _rezipped(content, lambda pickled: _renumbered(pickled, random))
    if content.startswith(b"\x89PNG"):
        size = struct.pack(">II", *(random.choice((1, 2**14, 2**20, 2**31 - 1)) for _ in range(2)))
        chunk = b"IHDR" + size + content[24:29]
        return content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
    return _renumbered(content, random) if content.startswith(b"\x80") else None


def lying_offsets(content: bytes, random: Random, _: bytes) -> bytes | None:
    """Data in another place than it is; entries of an archive that are elsewhere, or larger than they are."""
    if _is_safetensors(content):
        return _with_header(content, lambda header: _move(header, random))
    entries = [i for i in range(len(content)) if content.startswith(DIRECTORY, i)]
    if not entries or not zipfile.is_zipfile(io.BytesIO(content)):
        return None
    place = random.choice(entries) + random.choice((20, 24, 42))  # packed size, size, where it begins
    lie = random.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1, len(content), random.randrange(len(content))))
    return content[:place] + struct.pack("<I", lie) + content[place + 4 :]


def other_types(content: bytes, random: Random, _: bytes) -> bytes | None:
    """Numbers that claim another type."""
    if not _is_safetensors(content):
        return None

    def change(header: dict[str, Any]) -> None:
        kinds = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "I64", "I8", "U8", "BOOL", "X9", "", 5)
        _tensor(header, random)["dtype"] = random.choice(kinds)

    return _with_header(content, change)


def other_names(content: bytes, random: Random, _: bytes) -> bytes | None:
    """Tensors under each other's names, missing, or there twice."""
    if not _is_safetensors(content):
        return None

    def change(header: dict[str, Any]) -> None:
        names = [name for name in header if name != "__metadata__"]
        one, two = random.choice(names), random.choice(names)
        what = random.randrange(4)
        if what == 0:
            header[one], header[two] = header[two], header[one]
        elif what == 1:
            header[random.choice(("x", "", "a" * 10**5, "../x", "\ud800", "module." + one))] = header.pop(one)
        elif what == 2:
            del header[one]
        else:
            header[random.choice(("x", "module." + one))] = header[two]

    return _with_header(content, change)


def other_texts(content: bytes, random: Random, _: bytes) -> bytes | None:
    """Metadata that say something else, or configuration values that are something else."""
    if _is_safetensors(content):

        def change(header: dict[str, Any]) -> None:
            metadata = header.setdefault("__metadata__", {})
            name = random.choice([*metadata, "format", "config", "k"])
            texts = ("", "{}", "[]", "null", '{"concepts": 5}', "[" * DEEP, '{"a":' * DEEP, "9" * 5000, "x\0", 5, None)
            metadata[name] = random.choice((*texts, *metadata.values()))
            if random.random() < 0.1:
                header["__metadata__"] = random.choice((None, [], 5, "x"))

        return _with_header(content, change)
    settings = _json(content)
    if not isinstance(settings, dict):
        return None
    inner = settings["trainer"] if isinstance(settings.get("trainer"), dict) and random.random() < 0.5 else settings
    names = [*inner, "hookpoint", "sae", "metadata", "activation_fn", "signed", "k", "trainer"]
    inner[random.choice(names)] = random.choice(ODD)
    return json.dumps(settings).encode(random.choice(("utf-8", "utf-16", "utf-8-sig")), errors="surrogatepass")


def deep_json(content: bytes, random: Random, _: bytes) -> bytes | None:
    """JSON without end, in place of a header or a configuration."""
    deep = random.choice((b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"k": ' + b"9" * DEEP + b"}"))
    if _is_safetensors(content):
        return struct.pack("<Q", len(deep)) + deep + content[_start(content) :]
    return deep if _json(content) is not None else None


def flip_the_pickle(content: bytes, random: Random, _: bytes) -> bytes | None:
    """One to eight bits of the pickle in a file of torch.save, whose archive stays whole."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return None
    return _rezipped(content, lambda pickled: _flipped(pickled, random, len(pickled)) or b"")


def zip_bomb(content: bytes, random: Random, _: bytes) -> bytes | None:
    """An archive that grows a thousandfold: all of it packed, or with an entry of zeros, or with that as its pickle."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return None
    what = random.randrange(3)
    if what == 0:
        return _rezipped(content, lambda pickled: pickled, zipfile.ZIP_DEFLATED)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as changed:
        root = archive.namelist()[0].partition("/")[0]
        for entry in archive.infolist():
            if what == 1 or not entry.filename.endswith(PICKLE):
                changed.writestr(entry.filename, archive.read(entry))
    return _with_packed(buffer.getvalue(), f"{root}/data/99" if what == 1 else f"{root}/{PICKLE}")


MUTATIONS: tuple[Mutation, ...] = (
    flip,
    flip_early,
    cut,
    cut_the_start,
    lengthen,
    blank,
    swap_stretches,
    another_file,
    swap_headers,
    lie_about_length,
    huge_shapes,
    lying_offsets,
    other_types,
    other_names,
    other_texts,
    deep_json,
    flip_the_pickle,
    zip_bomb,
)


def _flipped(content: bytes, random: Random, end: int) -> bytes | None:
    if not end:
        return None
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(end)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _start(content: bytes) -> int:
    """Return where the data of a safetensors file begins."""
    return 8 + int.from_bytes(content[:8], "little")


def _is_safetensors(content: bytes) -> bool:
    return len(content) > 10 and _start(content) <= len(content) and content[8:9] == b"{"


def _with_header(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes | None:
    """Return a safetensors file with a changed header."""
    header = _json(content[8 : _start(content)])
    if not isinstance(header, dict) or not any(name != "__metadata__" for name in header):
        return None
    change(header)
    text = json.dumps(header).encode(errors="surrogatepass")
    return struct.pack("<Q", len(text)) + text + content[_start(content) :]


def _tensor(header: dict[str, Any], random: Random) -> dict[str, Any]:
    found = header[random.choice([name for name in header if name != "__metadata__"])]
    assert isinstance(found, dict)
    return found


def _reshape(header: dict[str, Any], random: Random) -> None:
    tensor = _tensor(header, random)
    shape = [*tensor["shape"], 1]
    shape[random.randrange(len(shape))] = size = random.choice(SIZES)
    tensor["shape"] = shape if random.random() < 0.8 else random.choice(SIZES)
    if isinstance(size, int) and random.random() < 0.5:
        tensor["data_offsets"] = [tensor["data_offsets"][0], tensor["data_offsets"][0] + size * 4]


def _move(header: dict[str, Any], random: Random) -> None:
    tensor = _tensor(header, random)
    start, end = tensor["data_offsets"]
    shift = random.choice((-1, 1, 2, 64, 2**31, 2**63, -start))
    places = ([start + shift, end + shift], [end, start], [start, end + shift], [0, end - start], [start], start, None)
    tensor["data_offsets"] = random.choice(places)


def _renumbered(pickled: bytes, random: Random) -> bytes | None:
    """Return a pickle in which a small number has become a large one."""
    small = [i for i in range(len(pickled) - 1) if pickled[i : i + 1] == b"K"]
    if not small:
        return None
    place = random.choice(small)
    number = struct.pack("<i", random.choice((0, -1, 2**15, 2**20, 2**30, 2**31 - 1)))
    return pickled[:place] + b"J" + number + pickled[place + 2 :]


def _pickle_of(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(PICKLE)))


def _rezipped(
    content: bytes, change: Callable[[bytes], bytes | None], method: int = zipfile.ZIP_STORED
) -> bytes | None:
    """Return a file of torch.save with a changed pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w", method) as changed:
        for entry in archive.infolist():
            held = archive.read(entry)
            new = change(held) if entry.filename.endswith(PICKLE) else held
            if new is None:
                return None
            changed.writestr(entry.filename, new)
    return buffer.getvalue()


@cache
def _zeros() -> bytes:
    """Return an archive of one entry that grows to a quarter of a GiB."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros", "w", force_zip64=True) as entry,
    ):
        for _ in range(BOMB_BYTES // 2**20):
            entry.write(bytes(2**20))
    return buffer.getvalue()


def _with_packed(content: bytes, name: str) -> bytes:
    """Return an archive with one more entry, of packed zeros; its bytes are packed once and copied."""
    with zipfile.ZipFile(io.BytesIO(_zeros())) as archive:
        entry = archive.infolist()[0]
        packed = _zeros()[entry.header_offset : archive.start_dir]
        packed = packed[len(packed) - entry.compress_size :]
    raw = name.encode()
    start = content.rindex(b"PK\x05\x06")
    directory_size, directory_start = struct.unpack("<II", content[start + 12 : start + 20])
    directory = content[directory_start : directory_start + directory_size]
    facts = struct.pack("<HHHHHIII", 20, 0, 8, 0, 33, entry.CRC, entry.compress_size, entry.file_size)
    local = b"PK\x03\x04" + facts + struct.pack("<HH", len(raw), 0) + raw + packed
    listed = (
        DIRECTORY + struct.pack("<H", 20) + facts + struct.pack("<HHHHHII", len(raw), 0, 0, 0, 0, 0, directory_start)
    )
    entries = struct.unpack("<H", content[start + 10 : start + 12])[0] + 1
    whole = directory + listed + raw
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, entries, entries, len(whole), directory_start + len(local), 0)
    return content[:directory_start] + local + whole + end


def _json(content: bytes) -> Any:
    """Return what a short text of JSON holds; None for anything else."""
    if content[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
