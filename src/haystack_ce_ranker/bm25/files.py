"""
Arrays in a folder: written so that a crash leaves the old ones usable, read by memory map, checked before use.

A manifest names the files of all arrays with their sizes and checksums. Every file has a new name and is never written
again. Replacing the manifest, in one atomic step, puts the new files in force. Nothing is pickled. `index.py` knows
what the arrays mean.
"""

import json
import os
import re
import sys
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.data_files import read_json

if sys.platform != "win32":
    import fcntl

FORMAT = "haystack-ce-ranker-bm25"
VERSION = 2
MANIFEST = "manifest.json"

_DTYPES = ("int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32")
_SUFFIX = ".array"
_LEFTOVER_SECONDS = 3600.0  # a save removes the files of an unfinished save that are older than this
_CHUNK = 1 << 20
_LARGEST_MANIFEST = 1 << 20  # bytes
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # no way out of the folder, and none of the system's own names


class IndexFilesError(Exception):
    """The folder holds no index that can be used; the message says what is wrong with it."""


class Entry(NamedTuple):
    """One array's file, as the manifest names it."""

    file: str
    dtype: str
    length: int
    crc32: int


class Contents(NamedTuple):
    """What a folder holds: arrays mapped read-only, the values saved with them, and the files of the arrays."""

    arrays: dict[str, NDArray[Any]]
    values: dict[str, Any]
    entries: dict[str, Entry]


def write(
    folder: Path, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any], known: Mapping[str, Entry]
) -> dict[str, Entry]:
    """
    Save arrays. The old contents of the folder stay in force until all of them are on disk.

    :param folder: Made if it is not there.
    :param arrays: One-dimensional.
    :param values: Plain values.
    :param known: Files that hold the array of this name already, from an earlier `write` or `read`. They are not
        written again if they are still there.
    :returns: The files of all arrays.
    :raises OSError: If the folder cannot be written.
    """
    try:
        return _write(folder, arrays, values, known)
    except FileNotFoundError:
        if not known:
            raise
        return _write(folder, arrays, values, {})  # another process saved meanwhile, and removed a file of `known`


def _write(
    folder: Path, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any], known: Mapping[str, Entry]
) -> dict[str, Entry]:
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Entry] = {}
    written: list[Path] = []
    try:
        for name, array in arrays.items():
            if name in known and _size(folder / known[name].file) == array.nbytes:
                entries[name] = known[name]
            else:
                written.append(folder / f"{name}-{uuid.uuid4().hex}{_SUFFIX}")
                entries[name] = _write_array(written[-1], name, array)
        written.append(folder / f"{MANIFEST}.{uuid.uuid4().hex}")
        _write_synced(written[-1], _manifest_of(entries, values))
        with _alone(folder):
            _require([*written, *(folder / entry.file for entry in entries.values())])
            previous = _files_in_force(folder)
            written[-1].replace(folder / MANIFEST)
            written.clear()  # they are in force now
            _sync_folder(folder)
            _remove_others(folder, {entry.file for entry in entries.values()}, previous)
    except BaseException:  # on a full disk, what is left of each try would take the room of the next
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise
    return entries


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from saving here meanwhile, as far as the system can lock a folder."""
    with ExitStack() as held:
        if sys.platform != "win32":
            with suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY)
                held.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                held.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # a process forked meanwhile has it open, too
        yield


def _manifest_of(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> bytes:
    body = {
        "format": FORMAT,
        "version": VERSION,
        "byte_order": sys.byteorder,
        "values": dict(values),
        "arrays": {name: entry._asdict() for name, entry in entries.items()},
    }
    return json.dumps({**body, "crc32": zlib.crc32(_canonical(body))}, indent=1).encode("utf-8")


def _require(needed: Sequence[Path]) -> None:
    """
    Check that no other process has removed these files.

    One that saves removes what only the last manifest names, and what it takes for old, as it does where its clock is
    ahead by hours.
    """
    gone = [path.name for path in needed if not path.exists()]
    if gone:
        raise FileNotFoundError(f"{', '.join(gone)} in {needed[0].parent} was removed before the index was saved")


def read(folder: Path) -> Contents:
    """
    Check every byte of what `write` saved, and open it.

    :raises IndexFilesError: If something is missing, of another format or version, cut off or changed.
    """
    body = _read_manifest(folder)
    arrays: dict[str, NDArray[Any]] = {}
    entries: dict[str, Entry] = {}
    described, values = body.get("arrays"), body.get("values")
    if not isinstance(described, dict) or not isinstance(values, dict):
        raise IndexFilesError("its manifest is malformed: it describes no arrays and values")
    for name, fields in described.items():
        entry = _entry(name, fields)
        arrays[name], entries[name] = _open_array(folder / entry.file, entry), entry
    return Contents(arrays, values, entries)


def stretches(folder: Path, entry: Entry) -> Iterator[NDArray[Any]]:
    """
    Yield an array in pieces, none of them empty, so that looking at all of it leaves nothing in the process's memory.

    :raises IndexFilesError: If it cannot be read.
    """
    try:
        with (folder / entry.file).open("rb") as file:
            while content := file.read(_CHUNK):
                yield np.frombuffer(content, entry.dtype)
    except (OSError, ValueError) as error:
        raise IndexFilesError(f"{entry.file} cannot be read: {error}") from error


def _entry(name: str, fields: Any) -> Entry:
    """Return what the manifest says of an array, which is a file of its own folder."""
    kinds = {"file": str, "dtype": str, "length": int, "crc32": int}
    if isinstance(fields, dict) and fields.keys() == kinds.keys():
        entry = Entry(**fields)
        typed = all(type(fields[key]) is kind for key, kind in kinds.items())
        if typed and entry.length >= 0 and entry.dtype in _DTYPES and _FILE.fullmatch(entry.file):
            return entry
    raise IndexFilesError(f"its manifest is malformed: array {name!r:.80} is {fields!r:.200}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_json(folder / MANIFEST, most=_LARGEST_MANIFEST)
        checksum = manifest.pop("crc32")
        found = (manifest["format"], manifest["version"], manifest["byte_order"])
    except FileNotFoundError as error:
        raise IndexFilesError(f"there is no {MANIFEST}") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise IndexFilesError(f"its {MANIFEST} cannot be read: {error!r}") from error
    if found != (FORMAT, VERSION, sys.byteorder):
        raise IndexFilesError(
            f"it is of format {found[0]!r:.80}, version {found[1]!r:.80}, {found[2]!s:.80}-endian, "
            f"but {FORMAT!r}, version {VERSION}, {sys.byteorder}-endian is needed"
        )
    if checksum != zlib.crc32(_canonical(manifest)):
        raise IndexFilesError(f"its {MANIFEST} is damaged: the checksum differs")
    body: dict[str, Any] = manifest
    return body


def _open_array(path: Path, entry: Entry) -> NDArray[Any]:
    dtype = np.dtype(entry.dtype)
    size = _size(path)
    if size >= 0 and not path.is_file():
        raise IndexFilesError(f"{path.name} is no regular file")
    if size != entry.length * dtype.itemsize:
        wanted = entry.length * dtype.itemsize
        raise IndexFilesError(
            f"{path.name} is missing" if size < 0 else f"{path.name} has {size} bytes, but {wanted} are needed"
        )
    checksum = 0
    try:
        with path.open("rb") as file:  # not mapped, so that the check leaves nothing in the process's memory
            while chunk := file.read(_CHUNK):
                checksum = zlib.crc32(chunk, checksum)
        if checksum != entry.crc32:
            raise IndexFilesError(f"{path.name} is damaged: the checksum differs")
        if not entry.length:
            return np.zeros(0, dtype)
        return np.asarray(np.memmap(path, dtype, mode="r", shape=(entry.length,)))
    except OSError as error:
        raise IndexFilesError(f"{path.name} cannot be read: {error}") from error


def _write_array(path: Path, name: str, array: NDArray[Any]) -> Entry:
    data = np.ascontiguousarray(array)
    if data.ndim != 1 or data.dtype.name not in _DTYPES:
        raise ValueError(f"array {name!r} must have one dimension and a type among {', '.join(_DTYPES)}")
    view = memoryview(data.view(np.uint8).data)
    _write_synced(path, view)
    return Entry(path.name, data.dtype.name, len(data), zlib.crc32(view))


def _write_synced(path: Path, data: bytes | memoryview) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _files_in_force(folder: Path) -> set[str]:
    try:
        return {_entry(name, fields).file for name, fields in _read_manifest(folder)["arrays"].items()}
    except (IndexFilesError, KeyError, AttributeError):
        return set()


def _remove_others(folder: Path, keep: set[str], previous: set[str]) -> None:
    """Remove the files that only the last manifest names, and those that an unfinished save left long ago."""
    for path in folder.iterdir():
        ours = path.suffix == _SUFFIX or path.name.startswith(f"{MANIFEST}.")
        if not ours or path.name in keep:
            continue
        with suppress(OSError):  # another process removed it, or has it open on a system that forbids this
            if path.name in previous or time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                path.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("utf-8")
