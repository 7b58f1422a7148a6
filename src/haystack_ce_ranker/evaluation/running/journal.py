"""
The journal of an evaluation: what was found for each query, on disk as soon as it is known, so that a run can go on.

One JSON line an entry, appended and flushed. An entry is found again under its key, which names all that it depends on,
so that entries of other settings in the same file are neither used nor lost. A line that a crash left torn is skipped.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

NAME = "progress.jsonl"


class Journal:
    """
    Entries by key and name.

    :param folder: Where the file is or will be; None keeps everything in memory only.
    :raises OSError: If the file cannot be read or written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._entries: dict[tuple[str, str], Any] = {}
        self._file: TextIO | None = None
        self._path = None if folder is None else folder / NAME
        if self._path is not None and self._path.is_file():
            self._read(self._path)

    def get(self, key: str, name: str) -> Any | None:
        """Return what was noted, or None."""
        return self._entries.get((key, name))

    def note(self, key: str, name: str, value: Any) -> None:
        """Note plain values, on disk before this returns."""
        self._entries[key, name] = value
        if self._path is None:
            return
        if self._file is None:
            self._file = self._open(self._path)
        self._file.write(json.dumps({"key": key, "name": name, "value": value}, allow_nan=False) + "\n")
        self._file.flush()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, path: Path) -> None:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with suppress(ValueError, TypeError, KeyError):
                    entry = json.loads(line)
                    self._entries[entry["key"], entry["name"]] = entry["value"]

    @staticmethod
    def _open(path: Path) -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        stream = path.open("a", encoding="utf-8")
        if torn:
            stream.write("\n")
        return stream
