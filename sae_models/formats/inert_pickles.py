"""The data part of the pickle language, read without running anything.

A pickle is a small program. What ``pickle.dump`` and ``torch.save`` write of tensors needs few of its instructions:
containers, numbers, texts, and calls of a handful of functions that rebuild arrays. Here those instructions are
carried out on plain descriptions: a call becomes a ``Call`` with the function's name, bytes become a ``Span`` that
says where in the file they are. Nothing that a file names is ever imported, called or hashed, and the bytes
of its arrays are not read, so a pickle of gigabytes costs a few kilobytes.

The instructions are described in CPython's ``pickletools``.
"""

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_TEXT = 65_536
HIGHEST_PROTOCOL = 5

# Instructions that are followed by one number: as it is laid out.
NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
TEXTS = {b"\x8c": "<B", b"X": "<I", b"\x8d": "<Q"}
BYTES = {b"C": "<B", b"B": "<I", b"\x8e": "<Q", b"\x96": "<Q"}
PUTS = {b"q": "<B", b"r": "<I"}
GETS = {b"h": "<B", b"j": "<I"}
CONSTANTS: dict[bytes, Callable[[], Any]] = {
    b"N": lambda: None,
    b"\x88": lambda: True,
    b"\x89": lambda: False,
    b"}": dict,
    b"]": list,
    b")": tuple,
}
SHORT_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}


class PickleRefused(ValueError):
    """A pickle that is damaged, or that does more than hold data; the message says what."""


@dataclass(eq=False)
class Name:
    """A function or class that a pickle names, as ``module.name``."""

    text: str


@dataclass(eq=False)
class Call:
    """A call that a pickle asks for, and what it then stores into the result."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None
    items: dict[str | int, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Span:
    """Bytes in the file: where they begin, counted from the file's start, and how many they are."""

    start: int
    length: int


@dataclass(eq=False)
class Persistent:
    """Something that the pickle keeps elsewhere, such as a storage of ``torch.save``."""

    key: Any


class Machine:
    """Carries out the instructions of one pickle.

    Args:
        file: opened for reading bytes, at the pickle's first one.
        end: where the pickle ends at the latest, counted from the file's start.
        allowed: the names that it may mention, as ``module.name``.
    """

    def __init__(self, file: BinaryIO, end: int, allowed: Collection[str]) -> None:
        self._file, self._end, self._allowed = file, end, allowed
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return what the pickle holds.

        Raises:
            PickleRefused: see there.
        """
        try:
            while True:
                instruction = self._take(1)
                if instruction == b".":
                    return self._pop()
                self._step(instruction)
        except (IndexError, KeyError, UnicodeDecodeError, OverflowError) as error:
            raise PickleRefused(f"it is damaged ({type(error).__name__})") from error

    def _step(self, instruction: bytes) -> None:
        if instruction in CONSTANTS:
            self._stack.append(CONSTANTS[instruction]())
        elif instruction in NUMBERS:
            self._stack.append(self._number(NUMBERS[instruction]))
        elif instruction in TEXTS:
            self._stack.append(self._text(self._number(TEXTS[instruction])))
        elif instruction in BYTES:
            self._stack.append(self._span(self._number(BYTES[instruction])))
        elif instruction in PUTS:
            self._memo[self._number(PUTS[instruction])] = self._stack[-1]
        elif instruction in GETS:
            self._stack.append(self._memo[self._number(GETS[instruction])])
        elif instruction in SHORT_TUPLES:
            self._stack.append(tuple(self._pop_many(len(self._stack) - SHORT_TUPLES[instruction])))
        elif instruction in self.OTHERS:
            self.OTHERS[instruction](self)
        else:
            raise PickleRefused(f"it uses an instruction that data does not need ({instruction!r})")

    def _take(self, count: int) -> bytes:
        if count > self._end - self._file.tell():
            raise PickleRefused("it ends too early")
        return self._file.read(count)

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _text(self, length: int) -> str:
        if length > MAX_TEXT:
            raise PickleRefused(f"it holds a text of {length} bytes")
        return self._take(length).decode()

    def _span(self, length: int) -> Span:
        start = self._file.tell()
        if length > self._end - start:
            raise PickleRefused("it ends too early")
        self._file.seek(length, 1)
        return Span(start, length)

    def _pop(self) -> Any:
        return self._pop_many(len(self._stack) - 1)[0]

    def _pop_many(self, start: int) -> list[Any]:
        """Take everything from a place of the stack on, but nothing below the last mark."""
        if start < (self._marks[-1] if self._marks else 0):
            raise IndexError
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        return self._pop_many(self._marks.pop())

    def _protocol(self) -> None:
        if self._number("<B") > HIGHEST_PROTOCOL:
            raise PickleRefused("it is of a newer kind than is known here")

    def _line(self) -> str:
        line = self._file.readline(min(MAX_TEXT, self._end - self._file.tell()))
        if not line.endswith(b"\n"):
            raise PickleRefused("it ends too early")
        return line[:-1].decode()

    def _name(self, module: Any, name: Any) -> None:
        text = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
        if text not in self._allowed:
            raise PickleRefused(f"it would run {text or 'something'}")
        self._stack.append(Name(text))

    def _global(self) -> None:
        module = self._line()
        self._name(module, self._line())

    def _stack_global(self) -> None:
        self._name(*self._pop_many(len(self._stack) - 2))

    def _call(self) -> None:
        function, arguments = self._pop_many(len(self._stack) - 2)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise PickleRefused("it calls what is no function")
        if function.text == "collections.OrderedDict" and arguments:
            raise PickleRefused("it fills a dictionary in an unusual way")
        self._stack.append(Call(function.text, arguments))

    def _build(self) -> None:
        target, state = self._pop_many(len(self._stack) - 2)
        if not isinstance(target, Call):
            raise PickleRefused("it stores a state where none belongs")
        target.state = state
        self._stack.append(target)

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise PickleRefused("it appends to what is no list")
        target.extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        items = target.items if isinstance(target, Call) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise PickleRefused("it stores into what is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Hashing anything deeper can take forever.
            if not isinstance(key, (str, int)):
                raise PickleRefused("it has a key that is neither text nor number")
            items[key] = value

    OTHERS: dict[bytes, Callable[["Machine"], None]] = {
        b"\x80": _protocol,
        b"\x95": lambda self: self._number("<Q") and None,  # the length of a frame
        b"(": lambda self: self._marks.append(len(self._stack)),
        b"t": lambda self: self._stack.append(tuple(self._pop_to_mark())),
        b"a": lambda self: self._append([self._pop()]),
        b"e": lambda self: self._append(self._pop_to_mark()),
        b"s": lambda self: self._set(self._pop_many(len(self._stack) - 2)),
        b"u": lambda self: self._set(self._pop_to_mark()),
        b"\x94": lambda self: self._memo.update({len(self._memo): self._stack[-1]}),
        b"\x8a": lambda self: self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True)),
        b"c": _global,
        b"\x93": _stack_global,
        b"R": _call,
        b"\x81": _call,
        b"b": _build,
        b"Q": lambda self: self._stack.append(Persistent(self._pop())),
    }


def read_pickle(file: BinaryIO, end: int, allowed: Collection[str]) -> Any:
    """Return what one pickle holds, described as the module says; afterwards the file stands behind it.

    Args:
        file, end, allowed: see Machine.

    Raises:
        PickleRefused: it is damaged, or names anything that is not allowed.
    """
    return Machine(file, end, allowed).run()
