"""
Whether an index still fits its document store, and which of the store's documents are new: probes, and the comparison.

How a change is found, per kind of store, with `refresh="auto"`:

| store | probe | cost per run | what it finds |
|---|---|---|---|
| `InMemoryDocumentStore` | the store's list of documents, compared by identity | about 5 ns per document | added, deleted, replaced, in any number |
| any other | `filter_documents()`, compared by id and text | the store is read | the same; and a warning, once, that names the alternatives |

Documents of the in-memory store that are changed *in place* keep their identity: a change of `meta` is found where it
matters (indexed fields and filters compare those fields), one of `content` only with `refresh="every_run"`.

`register_probe` adds a row for a store that can tell more cheaply.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from operator import is_
from typing import Any, NamedTuple

import numpy as np
from haystack import Document
from numpy.typing import NDArray


class Probe(NamedTuple):
    """
    How to read a kind of store, and how to see that it has not changed.

    :param read: All documents, in the store's order.
    :param unchanged: Whether documents read before are still all there is. It may say False too often, never True.
    :param keeps_identity: Whether an unchanged document is the same object in the next reading.
    :param reads_all: Whether `unchanged` reads the whole store.
    """

    read: Callable[[Any], list[Document]]
    unchanged: Callable[[Any, list[Document]], bool]
    keeps_identity: bool = False
    reads_all: bool = False


def _read_in_memory(store: Any) -> list[Document]:
    return list(store.storage.values())


def _unchanged_in_memory(store: Any, known: list[Document]) -> bool:
    current = _read_in_memory(store)
    if len(current) != len(known):
        return False
    # A list compares its items by identity before equality, in C. What the store rewrites goes to the end of its list, so
    # the last item tells whether equal but other objects are there: comparing all of these by value would be slow.
    return not current or (current[-1] is known[-1] and current == known)


def _read_any(store: Any) -> list[Document]:
    documents: list[Document] = store.filter_documents()
    return documents


def _unchanged_any(store: Any, known: list[Document]) -> bool:
    return False  # the comparison of what was read decides


_ANY = Probe(_read_any, _unchanged_any, reads_all=True)
_PROBES: dict[str, Probe] = {
    "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore": Probe(
        _read_in_memory, _unchanged_in_memory, keeps_identity=True
    ),
}


def class_names(store: Any) -> list[str]:
    """Return the qualified names of a store's class and of those it derives from, nearest first."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(store).__mro__]


def probe_of(store: Any) -> Probe:
    """Return the probe for this kind of store, or the one that reads everything."""
    return next((_PROBES[name] for name in class_names(store) if name in _PROBES), _ANY)


def register_probe(class_name: str, probe: Probe) -> None:
    """Add the probe of a kind of store, by the qualified name of its class; it also counts for derived classes."""
    _PROBES[class_name] = probe


def text_of(document: Document, meta_fields: Sequence[str]) -> str | None:
    """Return what is indexed of a document: the given meta fields and the content, a line each; None where it has none."""
    if not meta_fields:
        return document.content
    parts = [_as_text(document.meta[name]) for name in meta_fields if document.meta.get(name) is not None]
    if document.content is not None:
        parts.append(document.content)
    return "\n".join(parts) if parts else None


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple | set) else str(value)


class Reading(NamedTuple):
    """
    Documents of a store as they were read once.

    :param source: All of them.
    :param documents: Those that have a text, in the same order: the collection that is indexed.
    :param hashes: Of their texts, `int64`; comparable within one process.
    """

    source: list[Document]
    documents: list[Document]
    hashes: NDArray[np.int64]


class Change(NamedTuple):
    """
    What a second reading found.

    :param reading: The second reading.
    :param previous: For each of its documents the position in the first one, -1 where the text is new.
    :param texts: The new texts.
    """

    reading: Reading
    previous: NDArray[np.int64]
    texts: list[str]

    def changes_index(self, n_before: int) -> bool:
        """Tell whether the collection differs from the first reading of `n_before` documents in text or in order."""
        return len(self.previous) != n_before or not np.array_equal(self.previous, np.arange(n_before))


NOTHING = Reading([], [], np.zeros(0, np.int64))


def compare(before: Reading, source: list[Document], meta_fields: Sequence[str], *, trust_identity: bool) -> Change:
    """
    Find out what has changed between two readings.

    :param before: The first reading.
    :param source: All documents of the second.
    :param meta_fields: The meta fields that are indexed.
    :param trust_identity: Take a document that is the same object for unchanged, and look at no others: then the cost is
        that of the changed stretch. Otherwise all texts are compared.
    """
    if trust_identity and not meta_fields and all(document.content is not None for document in source):
        documents = source
    else:
        documents = [document for document in source if text_of(document, meta_fields) is not None]

    start, end = _same_ends(before.documents, documents) if trust_identity else (0, 0)
    n_before, n_after = len(before.documents), len(documents)
    previous = np.full(n_after, -1, np.int64)
    previous[:start] = np.arange(start)
    previous[n_after - end :] = np.arange(n_before - end, n_before)
    hashes = np.zeros(n_after, np.int64)

    known = {before.documents[position].id: position for position in range(start, n_before - end)}
    texts: list[str] = []
    for position in range(start, n_after - end):
        document = documents[position]
        text = text_of(document, meta_fields)
        if text is None:  # documents holds those with a text only
            raise RuntimeError(f"document {document.id!r} lost its text while it was read")
        hashes[position] = hash(text)
        old = known.pop(document.id, -1)
        if old >= 0 and before.hashes[old] == hashes[position]:
            previous[position] = old
        else:
            texts.append(text)
    kept = previous >= 0
    hashes[kept] = before.hashes[previous[kept]]
    return Change(Reading(source, documents, hashes), previous, texts)


def _same_ends(before: list[Document], after: list[Document]) -> tuple[int, int]:
    """Return how many documents are the same objects at the beginning, and how many of the rest at the end."""
    start = _count_true(map(is_, before, after))
    rest = min(len(before), len(after)) - start
    end = min(rest, _count_true(map(is_, reversed(before), reversed(after))))
    return start, end


def _count_true(values: Iterable[bool]) -> int:
    return sum(1 for _ in takewhile(bool, values))
