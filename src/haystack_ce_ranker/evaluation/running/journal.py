"""
The journal of an evaluation: what was found for each query, on disk as soon as it is known, so that a run can go on.

One JSON line an entry, appended and flushed. An entry is found again under its key, which names all that it depends on,
so that entries of other settings in the same file are neither used nor lost. A line that a crash left torn is skipped.
What is taken over from earlier runs is counted, with its time.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

from haystack_ce_ranker.data_files import open_to_append, parse_json

NAME = "progress.jsonl"

Value = TypeVar("Value")


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

    def restore(self, key: str, name: str, form: Callable[[Any], Value], *, counts: bool = False) -> Value | None:
        """
        Return what `form` makes of what was noted, or None.

        :raises ValueError: If the file holds something of another form. The error names it, and what to do.
        """
        plain = self.get(key, name, counts=counts)
        try:
            return None if plain is None else form(plain)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            why = " ".join(str(error).split())
            message = f"{self._path}: what it holds for {name!r:.80} has another form ({why:.200}); delete that file"
            raise ValueError(message) from error

    def values(self, key: str, form: Callable[[Any], Any] = lambda plain: plain) -> list[Any]:
        """Return what `form` makes of all that was noted under a key, in its order, or None; see `restore`."""
        return [self.restore(own, name, form) for own, name in self._entries if own == key]

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
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_to_append(self._path, fresh=self._fresh)
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
                    entry = parse_json(line)
                    self._entries[str(entry["key"]), str(entry["name"])] = entry["value"]
                    self._times[str(entry["key"]), str(entry["name"])] = str(entry.get("at", "an unknown time"))
