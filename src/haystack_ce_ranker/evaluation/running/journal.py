"""
The journal of an evaluation: what was found for each query, on disk as soon as it is known, so that a run can go on.

One JSON line an entry, appended and flushed. An entry is found again under its key, which names all that it depends on,
so that entries of other settings in the same file are neither used nor lost. A line that a crash left torn is skipped.
What is taken over from earlier runs is counted, with its time.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

NAME = "progress.jsonl"


class Journal:
    """
    Entries by key and name.

    :param folder: Where the file is or will be; None keeps everything in memory only.
    :param fresh: Whether to begin anew and overwrite the file.
    :raises OSError: If the file cannot be read or written.
    """

    def __init__(self, folder: Path | None = None, *, fresh: bool = False) -> None:
        self._entries: dict[tuple[str, str], Any] = {}
        self._times: dict[tuple[str, str], str] = {}
        self._taken: set[tuple[str, str]] = set()
        self._file: TextIO | None = None
        self._fresh = fresh
        self._path = None if folder is None else folder / NAME
        if self._path is not None and self._path.is_file() and not fresh:
            self._read(self._path)

    def get(self, key: str, name: str, *, counts: bool = False) -> Any | None:
        """
        Return what was noted, or None.

        :param counts: Whether `taken_over` counts it if it is from an earlier run.
        """
        entry = key, name
        if counts and entry in self._times:
            self._taken.add(entry)
        return self._entries.get(entry)

    def values(self, key: str) -> list[Any]:
        """Return all that was noted under a key, in the order of the file."""
        return [value for (own, _), value in self._entries.items() if own == key]

    def taken_over(self) -> list[str]:
        """Say how much is from earlier runs, and from when; nothing if nothing is."""
        times = sorted(self._times[entry] for entry in self._taken)
        if not times:
            return []
        when = times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
        return [f"{len(times)} results are taken over from {self._path}, of {when}; --fresh measures them again"]

    def note(self, key: str, name: str, value: Any) -> None:
        """Note plain values, on disk before this returns."""
        self._entries[key, name] = value
        if self._path is None:
            return
        if self._file is None:
            self._file = self._open(self._path, self._fresh)
            self._fresh = False
        now = datetime.now(UTC).isoformat(" ", "seconds")
        self._file.write(json.dumps({"key": key, "name": name, "at": now, "value": value}, allow_nan=False) + "\n")
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
                    self._times[entry["key"], entry["name"]] = entry.get("at", "an unknown time")

    @staticmethod
    def _open(path: Path, fresh: bool) -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            return path.open("w", encoding="utf-8")
        torn = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        stream = path.open("a", encoding="utf-8")
        if torn:
            stream.write("\n")
        return stream
