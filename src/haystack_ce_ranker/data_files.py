"""
Small files that are data: JSON is read with its size and form checked, and texts are written whole or not at all.

A file may come from somebody else, and a folder may be one that others write to. So only regular files are read, and
what is written replaces a link instead of following it.
"""

import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

LARGEST = 64 * 2**20
"""The most bytes of a file that `read_json` reads. It needs some ten times as much memory."""

_LONGEST_NAME = 100  # of the target's characters in a temporary file's name, which has others, too


def read_json(path: Path, *, most: int = LARGEST) -> Any:
    """
    Read a file of JSON in UTF-8.

    :param most: The most bytes that the file may have.
    :raises OSError: If it cannot be read.
    :raises ValueError: If it is no regular file, too large, or no JSON: a key that stands twice in an object, NaN and
        infinity are none, either. The error names the file in one line.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"{path} is no regular file.")
    if state.st_size > most:
        raise ValueError(f"{path} has {state.st_size:,} bytes, but such a file has at most {most:,}.")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON that can be read ({error}).") from error


def parse_json(content: bytes | str) -> Any:
    """
    Read JSON, of which `read_json` says what it is.

    :raises ValueError: If it is none. The error says why in one line.
    """
    try:
        return json.loads(content, object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_text(path: Path, text: str) -> None:
    """
    Write a file at once or not at all, over the one that is there.

    :raises OSError: If it cannot be written.
    """
    with replacing(path) as file:
        file.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Do what `write_text` does."""
    with replacing(path) as file:
        file.buffer.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """
    Open a new file beside `path`, which takes its place at the end of the block; after an error all is as it was.

    Lines end as they are written. Halves of a character, which no file can hold, are written as escapes.

    :raises OSError: If it cannot be written.
    """
    temporary = beside(path)
    try:
        with temporary.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        if path.is_file() and not path.is_symlink():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """Return a name for a temporary file in the folder of `path`, which nobody can guess."""
    return path.with_name(f".{path.name[:_LONGEST_NAME]}.{uuid.uuid4().hex}")


def open_to_append(path: Path, *, fresh: bool = False) -> TextIO:
    """
    Open a file of lines to add to it. What is added begins on a line of its own, even after a line that a crash tore.

    :param fresh: Whether to begin anew.
    :raises OSError: If it cannot be written, or is a link or another kind of file than a regular one.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(f"{path} is a link or no regular file: remove it, or name another folder.")
    torn = False
    if not fresh and path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
    stream = open(path, "w" if fresh else "a", encoding="utf-8", opener=_without_links)  # noqa: SIM115
    if torn:
        stream.write("\n")
    return stream


def _without_links(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")
