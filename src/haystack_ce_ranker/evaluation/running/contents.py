"""
What figures depend on, as keys under which they are found again: settings, the files they name, packages, the machine.

A file counts by its size and time, a small one by its hash as well. A model on the hub counts by the commit that is in
the cache. Nothing is downloaded.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from haystack_ce_ranker.backends.model_files import locate
from haystack_ce_ranker.machine.facts import machine

_SMALL = 1_000_000  # bytes up to which a file is hashed
_MOST = 2_000  # files of a folder that are looked at
_LONGEST = 1_000  # characters of a text that may be a path
_MADE = frozenset({"document_store", "index_path"})  # what evaluating itself fills with the collection
_STORE = ".InMemoryDocumentStore"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def key_of(*parts: Any) -> str:
    """Return a short key for plain values."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def system_key(*parts: Any) -> str:
    """Return a key for plain values that describe a system, with all else that its figures depend on."""
    named = {text: found for text in _texts(parts) if (found := _contents(text)) is not None}
    return key_of(_without_made_names(parts, {}), named, _environment())


def _without_made_names(value: Any, names: dict[str, int]) -> Any:
    """Return the values with numbers for the names of in-memory stores, which are new each time: no UUID else is."""
    if isinstance(value, list | tuple):
        return [_without_made_names(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    plain = {key: _without_made_names(one, names) for key, one in value.items()}
    parameters = plain.get("init_parameters")
    if str(plain.get("type")).endswith(_STORE) and isinstance(parameters, dict):
        index = str(parameters.get("index"))
        if _UUID.fullmatch(index):
            plain["init_parameters"] = {**parameters, "index": names.setdefault(index, len(names))}
    return plain


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in _MADE:
                yield from _texts(one)


def _contents(text: str) -> Any:
    """Return what lies where a text points to: a file, a folder, a package's folder, a model in the hub's cache."""
    if not text or len(text) > _LONGEST or "\n" in text:
        return None
    with suppress(ValueError, OSError):
        path = Path(text).expanduser()
        path = path if path.exists() else Path(locate(text))
        if path.is_file():
            return _file(path)
        if path.is_dir():
            files = sorted(islice((one for one in path.rglob("*") if one.is_file()), _MOST))
            return {str(one.relative_to(path)): _file(one) for one in files}
        return _commit(text)
    return None


def _file(path: Path) -> tuple[int, int, str | None]:
    facts = path.stat()
    small = facts.st_size <= _SMALL
    return facts.st_size, facts.st_mtime_ns, hashlib.blake2b(path.read_bytes()).hexdigest() if small else None


def _commit(model: str) -> str | None:
    """Return the commit of a hub's model that is in the cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")  # ValueError if the text is no name of a model
    return Path(found).parent.name if isinstance(found, str) else None


@cache
def _environment() -> Any:
    """Return the machine, the versions of the packages at work, and our own source, which a checkout changes."""
    own = Path(__file__).parents[2]
    components = own.parent / "haystack_integrations" / "components"
    files = sorted([*own.rglob("*.py"), *components.glob("*/ce_ranker/**/*.py")])
    source = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    return machine(), os.environ.get("OMP_NUM_THREADS"), source
