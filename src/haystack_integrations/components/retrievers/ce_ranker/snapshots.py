"""
What has changed in a document store: snapshots of its documents, and the comparison of two snapshots.

A snapshot keeps fingerprints of the texts and the values of fields, which later changes in place do not reach.
`freshness.py` reads the store.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from enum import Enum
from hashlib import blake2b
from itertools import repeat
from operator import attrgetter, is_
from typing import Any, NamedTuple

import numpy as np
from haystack import Document
from numpy.typing import NDArray

from haystack_ce_ranker.checks import text_or_none

_ATOMIC = frozenset({str, int, float, bool, type(None)})
_ATTRIBUTES = frozenset(field.name for field in fields_of(Document))
_STRETCH = 1024


def text_of(document: Document, meta_fields: Sequence[str]) -> str | None:
    """Return the text to index: the meta fields and the content, a line each; None if the document has neither."""
    if not meta_fields:
        return document.content
    parts = [_as_text(document.meta[name]) for name in meta_fields if document.meta.get(name) is not None]
    if document.content is not None:
        parts.append(document.content)
    return "\n".join(parts) if parts else None


def _as_text(value: Any) -> str:
    """Return the words of a meta field; none for a value that has no text."""
    parts = value if isinstance(value, list | tuple | set) else [value]
    return " ".join(part for part in map(text_or_none, parts) if part is not None)


def _as_known(value: Any) -> str:
    """Return a text by which a later change of a value is seen; of a value without `repr` only its exchange is."""
    found = text_or_none(value, repr)
    return object.__repr__(value) if found is None else found


class FieldValues(NamedTuple):
    """
    The values of one field in many documents, in a form that later changes in place do not reach.

    :param field: The field as a filter names it: `meta.name`, `meta.outer.inner`, an attribute, or the bare name of a
        meta field.
    :param values: One for each document. For a value that could be changed in place, such as a list, its `repr`.
    :param atomic: Whether no value is such a `repr`.
    """

    field: str
    values: list[Any]
    atomic: bool

    @classmethod
    def of(cls, documents: Sequence[Document], field: str) -> "FieldValues":
        """Read the field in each document."""
        found = _found(documents, field)
        if _ATOMIC.issuperset(map(type, found)):
            return cls(field, found, True)
        return cls(field, [value if type(value) in _ATOMIC else _as_known(value) for value in found], False)

    def still_hold(self, documents: Sequence[Document]) -> bool:
        """Tell whether the documents have these values now; for atomic values all loops run in C."""
        if self.atomic:
            return _found(documents, self.field) == self.values
        return FieldValues.of(documents, self.field).values == self.values

    def at(self, positions: Iterable[int]) -> "FieldValues":
        """Return the values of some of the documents."""
        return self._replace(values=list(map(self.values.__getitem__, positions)))


def _found(documents: Sequence[Document], field: str) -> list[Any]:
    if "." not in field and field not in _ATTRIBUTES:
        field = f"meta.{field}"
    root, *path = field.split(".")
    if root == "meta" and len(path) == 1:
        return list(map(dict.get, map(attrgetter("meta"), documents), repeat(path[0])))
    return [_at(getattr(document, root, None), path) for document in documents]


def _at(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


class StoreSnapshot(NamedTuple):
    """
    The documents of a store at one time that have a text: the collection that is indexed.

    :param state: What the probe said of the store before it was read.
    :param documents: The documents; None if only their ids are kept.
    :param ids: Their ids; empty if the documents are kept.
    :param fingerprints: One for the id and text of each, `uint64`; the same in every process.
    :param meta: A digest of the meta of all; None for documents that are shared with the store.
    :param meta_values: For shared documents the values of each indexed meta field.
    """

    state: Any
    documents: list[Document] | None
    ids: list[str]
    fingerprints: NDArray[np.uint64]
    meta: bytes | None
    meta_values: list[FieldValues]

    def names(self) -> Iterable[str]:
        """Return the ids in order."""
        return self.ids if self.documents is None else map(attrgetter("id"), self.documents)

    def indexed_meta_holds(self) -> bool:
        """Tell whether the indexed meta fields still have the values they had, for meta can be changed in place."""
        return all(values.still_hold(self.documents or ()) for values in self.meta_values)


NOTHING = StoreSnapshot(None, None, [], np.zeros(0, np.uint64), None, [])


class Keep(Enum):
    """What is kept of each document of a store."""

    SHARED = "the store's own object"
    COPY = "all but the embeddings"
    ID = "the id"


class Change(NamedTuple):
    """
    How a second snapshot differs from a first.

    :param snapshot: The second snapshot.
    :param previous: For each of its documents the position in the first one, -1 if the id or the text is new.
    :param texts: The new texts.
    """

    snapshot: StoreSnapshot
    previous: NDArray[np.int64]
    texts: list[str]

    def is_none(self, n_before: int) -> bool:
        """Tell whether the collection equals that of the first snapshot, of `n_before` documents, order included."""
        return len(self.previous) == n_before and np.array_equal(self.previous, np.arange(n_before))

    def gone(self, n_before: int) -> int:
        """Return how many of the first snapshot's `n_before` texts are not in the second."""
        return n_before - len(self.previous) + len(self.texts)


def changes_since(
    before: StoreSnapshot,
    source: Iterable[Document],
    meta_fields: Sequence[str],
    *,
    state: Any,
    keep: Keep,
    trust_identity: bool = False,
) -> Change:
    """
    Take a second snapshot and find out how it differs from the first.

    :param before: The first snapshot. Only its fingerprints are needed unless identity is trusted.
    :param source: All documents of the store now. Each is let go at once if nothing is kept but ids.
    :param meta_fields: The meta fields that are indexed.
    :param state: What the probe said of the store before.
    :param keep: What is kept of each document.
    :param trust_identity: Assume that the same object has the same text. Then only the stretch of documents between the
        first and the last change is hashed. For shared documents only.
    """
    n_before, start, end = len(before.fingerprints), 0, 0
    shared: list[Document] | None = None
    if keep is Keep.SHARED:
        shared = [document for document in source if text_of(document, meta_fields) is not None]
        if trust_identity and before.documents is not None:
            start, end = _same_ends(before.documents, shared)
        source = shared[start : len(shared) - end]
    known = dict(zip(before.fingerprints[start : n_before - end].tolist(), range(start, n_before - end), strict=True))
    kept: list[Any] = []
    positions, fingerprints, texts, meta = [], array("Q"), [], blake2b(digest_size=16)
    for document in source:
        text = text_of(document, meta_fields)
        if text is None:
            continue
        fingerprint = _fingerprint(document, text)
        fingerprints.append(fingerprint)
        positions.append(known.pop(fingerprint, -1))  # pop: no position is taken twice
        if positions[-1] < 0:
            texts.append(text)
        if shared is None:
            meta.update(_as_known(document.meta).encode("utf-8", "surrogatepass"))
            kept.append(document.id if keep is Keep.ID else _without_embeddings(document))
    previous = [np.arange(start), np.array(positions, np.int64), np.arange(n_before - end, n_before)]
    new = np.frombuffer(fingerprints, np.uint64)
    snapshot = StoreSnapshot(
        state,
        None if keep is Keep.ID else kept if shared is None else shared,
        kept if keep is Keep.ID else [],
        np.concatenate([before.fingerprints[:start], new, before.fingerprints[n_before - end :]]),
        meta.digest() if shared is None else None,
        [] if shared is None else [FieldValues.of(shared, f"meta.{name}") for name in meta_fields],
    )
    return Change(snapshot, np.concatenate(previous, dtype=np.int64), texts)


def _without_embeddings(document: Document) -> Document:
    if document.embedding is None and document.sparse_embedding is None:
        return document
    return replace(document, embedding=None, sparse_embedding=None)


def _fingerprint(document: Document, text: str) -> int:
    identifier = document.id.encode("utf-8", "surrogatepass")
    data = b"%d:%b%b" % (len(identifier), identifier, text.encode("utf-8", "surrogatepass"))
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _same_ends(before: list[Document], after: list[Document]) -> tuple[int, int]:
    """Return how many documents are the same objects from the beginning on, and how many of the rest up to the end."""
    start = _same_start(before, after)
    rest = min(len(before), len(after)) - start
    end = _same_start(before[: -rest - 1 : -1], after[: -rest - 1 : -1]) if rest else 0
    return start, end


def _same_start(before: list[Document], after: list[Document]) -> int:
    limit = min(len(before), len(after))
    start = 0
    while start < limit and all(map(is_, before[start : start + _STRETCH], after[start : start + _STRETCH])):
        start = min(start + _STRETCH, limit)
    while start < limit and before[start] is after[start]:
        start += 1
    return start
