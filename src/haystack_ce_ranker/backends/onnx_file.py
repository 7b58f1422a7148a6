"""
Reads from an ONNX file which other files hold its weights, what these are called and stored in, and its operators.

Walks over the messages of the file (protobuf) and reads no weights but those asked for, so that a file of gigabytes
costs little. The package onnx could do the same, but OpenVINO reads ONNX files without it.
"""

import math
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Which field of a message holds messages of which kind: the numbers are those of onnx.proto.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_OPERATOR, _DIMENSIONS, _ELEMENT, _NAME, _ENTRY, _KEY, _VALUE = 4, 1, 2, 8, 13, 1, 2
_FLOAT_DATA, _RAW_DATA, _INPUT, _OUTPUT = 4, 9, 1, 2
_MOST_FIELDS = 1_000_000  # a field of two bytes takes some hundred in memory
_MOST_DIMENSIONS = 64
_FLOATS = {1: "float32", 10: "float16", 16: "bfloat16"}
_STORED = {1: np.float32, 2: np.uint8, 3: np.int8, 10: np.float16}  # numpy has no bfloat16
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

Field = tuple[int, int | memoryview]


@dataclass(frozen=True)
class OnnxFile:
    """
    What an ONNX file says of itself.

    :ivar locations: The files that hold its weights, as paths from its own folder, in the order they are named.
    :ivar operators: The names of its operators.
    :ivar floats: What most of its weights are stored in, of those that are floating-point numbers: `float32`,
        `float16` or `bfloat16`.
    :ivar shapes: The shapes of its weights by their names.
    :ivar lookups: What rows are picked from (`Gather`), with the name of what says which rows.
    """

    locations: tuple[str, ...]
    operators: frozenset[str]
    floats: str
    shapes: Mapping[str, tuple[int, ...]]
    lookups: Mapping[str, str]


def read_onnx(file: Path) -> OnnxFile:
    """
    Read an ONNX file.

    :raises ValueError: If it is none.
    """
    found: OnnxFile | str
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            found = _read(memoryview(mapped))
    except ValueError as error:  # an empty file cannot be mapped
        found = str(error)
    if isinstance(found, str):
        raise ValueError(f"{file} is no ONNX file that can be read ({found}); export or download it again.")
    return found


def _read(message: memoryview) -> OnnxFile | str:
    """Return what a file says, or what is wrong with it: an error would hold on to the map, which is to be closed."""
    locations: dict[str, None] = {}
    operators: set[str] = set()
    sizes: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}
    lookups: dict[str, str] = {}
    casts: dict[str, str] = {}
    try:
        for kind, fields in _messages("model", message):
            if kind == "node":
                kinds = {_text(value) for number, value in fields if number == _OPERATOR}
                operators |= kinds
                names = [_text(value) for number, value in fields if number in (_INPUT, _OUTPUT)]
                if "Gather" in kinds and len(names) > 1:
                    lookups[names[0]] = names[1]
                elif "Cast" in kinds and len(names) > 1:
                    casts[names[1]] = names[0]
            elif kind == "tensor":
                locations |= dict.fromkeys(_locations(fields))
                shape = _shape(fields)
                shapes |= {_text(value): shape for number, value in fields if number == _NAME}
                element = next((value for number, value in fields if number == _ELEMENT), None)
                if element in _FLOATS:
                    sizes[_FLOATS[element]] += math.prod(shape)
    except IndexError:
        return "it is cut off"
    except (ValueError, RecursionError) as error:
        return str(error)
    stored = max(sizes, key=sizes.__getitem__, default="float32")
    return OnnxFile(tuple(locations), frozenset(operators), stored, shapes, _before_casts(lookups, casts))


def _before_casts(lookups: Mapping[str, str], casts: Mapping[str, str]) -> dict[str, str]:
    """Return lookups with the names that their indexes had before they became another kind of whole number."""
    return {table: casts.get(indexes, indexes) for table, indexes in lookups.items()}


def read_matrix(file: Path, name: str) -> NDArray[Any] | None:
    """
    Read a weight as it is stored; None if it is not there, is cut off, or is stored in a way that numpy does not know.

    Where a weight is in another file, `model_files.parts_of` checks that this file lies in the model's folder.

    :raises OSError: If the file, or one that holds the weight beside it, cannot be read.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        found = _stored(memoryview(mapped), name)
    if found is None or found.dtype is None:
        return None
    data = found.data if found.beside is None else _read_beside(file.parent / found.beside, found)
    return np.frombuffer(data, found.dtype).reshape(found.shape) if len(data) == found.size > 0 else None


class _Stored(NamedTuple):
    """A weight: its shape, what it is stored in, and its bytes, or where these stand in a file beside."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    data: bytes = b""
    beside: str | None = None
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return 0 if self.dtype is None else math.prod(self.shape) * self.dtype.itemsize


def _stored(message: memoryview, name: str) -> _Stored | None:
    """Return a weight with a copy of its bytes: what holds on to the map would keep it from being closed."""
    for kind, fields in _messages("model", message):
        if kind != "tensor" or not any(number == _NAME and _text(value) == name for number, value in fields):
            continue
        element = next((value for number, value in fields if number == _ELEMENT), None)
        dtype = np.dtype(_STORED[element]).newbyteorder("<") if element in _STORED else None
        entries = dict(_entries(fields))
        data = (value for number, value in fields if number in (_FLOAT_DATA, _RAW_DATA) and not isinstance(value, int))
        beside = entries.get("location")
        held = b"" if beside is not None else b"".join(map(bytes, data))
        return _Stored(_shape(fields), dtype, held, beside, int(entries.get("offset", "0")))
    return None


def _read_beside(file: Path, wanted: _Stored) -> bytes:
    if not 0 <= wanted.offset <= file.stat().st_size - wanted.size:
        return b""
    with file.open("rb") as opened:
        opened.seek(wanted.offset)
        return opened.read(wanted.size)


def _messages(kind: str, message: memoryview) -> Iterator[tuple[str, list[Field]]]:
    fields = list(islice(_fields(message), _MOST_FIELDS + 1))
    if len(fields) > _MOST_FIELDS:
        raise ValueError(f"a {kind} has more than {_MOST_FIELDS:,} fields")
    yield kind, fields
    for number, value in fields:
        inside = _INSIDE.get(kind, {}).get(number)
        if inside is not None and isinstance(value, memoryview):
            yield from _messages(inside, value)


def _fields(message: memoryview) -> Iterator[Field]:
    """Return the number and the value of each field: a whole number, or the bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == _LENGTH:
            size, place = _varint(message, place)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire}")
        if place + size > len(message):
            raise ValueError("it is cut off")
        yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # 64 bits have at most ten bytes
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
    raise ValueError("a number has more than ten bytes")


def _locations(tensor: list[Field]) -> Iterator[str]:
    return (value for key, value in _entries(tensor) if key == "location")


def _entries(tensor: list[Field]) -> Iterator[tuple[str, str]]:
    """Return what a tensor says of a file beside that holds its values."""
    for number, entry in tensor:
        if number == _ENTRY and isinstance(entry, memoryview):
            pair = dict(_fields(entry))
            yield _text(pair.get(_KEY)), _text(pair.get(_VALUE))


def _shape(tensor: list[Field]) -> tuple[int, ...]:
    shape = tuple(islice(_dimensions(tensor), _MOST_DIMENSIONS + 1))
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor has more than {_MOST_DIMENSIONS} dimensions")
    return shape


def _dimensions(tensor: list[Field]) -> Iterator[int]:
    for number, value in tensor:
        if number != _DIMENSIONS:
            continue
        if isinstance(value, int):
            yield value
            continue
        place = 0
        while place < len(value):  # all of them in one field
            size, place = _varint(value, place)
            yield size


def _text(value: int | memoryview | None) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else ""
