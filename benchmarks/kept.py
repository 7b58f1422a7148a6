"""
What the benchmarks keep: scores that are computed once, in a database, and results as JSON that a diff can show.

    python benchmarks/run_all.py
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import REPOSITORY


class ScoreStore:
    """
    Scores that are computed once: an SQLite file of numbers and JSON by a hash of what made them.

    The source code of the packages is part of the hash, so that no score outlives a change of the code.

    :param folder: Where the file is; None keeps the scores for this process only.
    """

    def __init__(self, folder: Path | None, *, source: str | None = None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        place = ":memory:" if folder is None else folder / "scores.sqlite"
        # A runner's passes run one at a time, in a thread of their own.
        self._file = sqlite3.connect(place, timeout=60, check_same_thread=False)
        self._file.execute("CREATE TABLE IF NOT EXISTS kept (key BLOB PRIMARY KEY, value) WITHOUT ROWID")
        self._source = (source_hash() if source is None else source).encode()

    def key(self, *made_by: bytes) -> bytes:
        """Return the key of what these bytes, with the code as it is, make."""
        made = hashlib.blake2b(self._source, digest_size=16)
        for part in made_by:
            made.update(len(part).to_bytes(8, "big") + part)
        return made.digest()

    def numbers(self, keys: Sequence[bytes], compute: Callable[[list[int]], Sequence[float]]) -> list[float]:
        """
        Return a number for each key.

        :param compute: Gives the numbers at these places of `keys`, which are not kept yet.
        """
        known = {key: self._get(key) for key in keys}
        new = [place for place, key in enumerate(keys) if known[key] is None]
        if new:
            found = {keys[place]: float(value) for place, value in zip(new, compute(new), strict=True)}
            self._put(found)
            known.update(found)
        return [known[key] for key in keys]

    def once(self, made_by: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Return what `compute` returned, as JSON keeps it, computing it only if that is not kept for `made_by`."""
        key = self.key(json.dumps(made_by, sort_keys=True, default=str).encode())
        kept = self._get(key)
        if kept is None:
            kept = json.dumps(compute())
            self._put({key: kept})
        return json.loads(kept)

    def _get(self, key: bytes) -> Any:
        found = self._file.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def _put(self, values: Mapping[bytes, Any]) -> None:
        with self._file:
            self._file.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", values.items())


def source_hash() -> str:
    """Return a hash of the source code of both packages."""
    made = hashlib.blake2b(digest_size=16)
    for file in sorted((REPOSITORY / "src").rglob("*.py")):
        made.update(file.read_bytes())
    return made.hexdigest()


def compact_json(value: Any, *, width: int = 240) -> str:
    """Return JSON in as few lines of this width as keep one object or a run of a list's entries on each."""

    def text(part: Any) -> str:
        flat = json.dumps(part, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if len(flat) <= width or not isinstance(part, dict | list) or not part:
            return flat
        if isinstance(part, dict):
            entries = [f"{json.dumps(key, ensure_ascii=False)}:{text(inner)}" for key, inner in part.items()]
            return "{\n" + _filled(entries, width) + "\n}"
        return "[\n" + _filled([text(inner) for inner in part], width) + "\n]"

    return text(value) + "\n"


def _filled(entries: Sequence[str], width: int) -> str:
    """Join entries by commas, as many on a line as fit."""
    lines = [entries[0]]
    for entry in entries[1:]:
        if len(lines[-1]) + len(entry) < width and "\n" not in lines[-1] + entry:
            lines[-1] += f",{entry}"
        else:
            lines.append(entry)
    return ",\n".join(lines)
