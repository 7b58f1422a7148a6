"""
Whether an index still fits its document store, and what has changed in it: probes, and the comparison of two readings.

How a change is found, per kind of store, with `refresh="auto"`:

| store | probe | cost per run without a change | memory for the bodies |
|---|---|---|---|
| `InMemoryDocumentStore` | its documents, compared by identity | 4 ns per document | references, 16 bytes each |
| Elasticsearch's, OpenSearch's | none: the store's own engine answers | none | none |
| any other | `filter_documents()`, compared by id and text | the whole store is read | a copy of every document |

The first and the last find documents that were added, deleted or replaced, also where their number stays the same.

For the last row a warning says once that `refresh="manual"` avoids the cost; `register_probe` adds a row for a store
that can tell more cheaply.

Documents of the in-memory store that are changed *in place* stay the same objects. A change of `meta` is still found:
indexed fields are compared too, at up to 0.2 us per document and field, and the fields of a filter, only in the
documents that decide the search, which takes 1 ms at 100,000 documents and a filter that passes a tenth. A change of
`content` is found only with `refresh="every_run"`, which compares all texts of any store.

After a change only new texts are analysed, and only the postings of what came since the last merge are made again. What
is not proportional to the change: the list of documents and some arrays with an entry per document are made anew (15 ms
at 100,000 documents); a filter is evaluated anew on all documents, 1 us for each, when it is next used; when more than
a tenth of the index is new or gone, all postings are merged, without reading a text; of a store of the last row every
text is read and hashed. `benchmarks/bm25.py` measures these figures, `benchmarks/bm25.md` has them.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import fields as fields_of
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from operator import attrgetter, is_
from typing import Any, NamedTuple, cast

import numpy as np
from haystack import Document
from numpy.typing import NDArray

_ATOMIC = frozenset({str, int, float, bool, type(None)})
_ATTRIBUTES = frozenset(field.name for field in fields_of(Document))
_STRETCH = 1024


class Probe(NamedTuple):
    """
    How to read a kind of store, and how to see that it has not changed.

    :param read: Given the store, returns all its documents in its order.
    :param unchanged: Given the store and the documents read before, tells whether these are still all there is. It may
        say False although nothing changed, never the reverse.
    :param keeps_identity: Whether an unchanged document is the same object in the next reading.
    :param reads_all: Whether every probe reads the whole store.
    :param view: Given the store and documents read before, returns something whose `filter_documents` is the store's,
        but over these documents: so that a filter sees the same state as the index. None where there is no such thing,
        and the store is asked as it is by then.
    """

    read: Callable[[Any], list[Document]]
    unchanged: Callable[[Any, list[Document]], bool]
    keeps_identity: bool = False
    reads_all: bool = False
    view: Callable[[Any, list[Document]], Any] | None = None


def _read_in_memory(store: Any) -> list[Document]:
    return list(store.storage.values())


def _unchanged_in_memory(store: Any, known: list[Document]) -> bool:
    current = _read_in_memory(store)
    if len(current) != len(known):
        return False
    # A list compares its items by identity before equality, in C. What the store rewrites goes to the end of its list,
    # so the last item tells whether there are equal but other objects: comparing all of these by value would be slow.
    return not current or (current[-1] is known[-1] and current == known)


@lru_cache(maxsize=16)
def _view_class(store_class: Any) -> type:
    """Derive a class whose objects have the documents given to them; they close nothing, for they own nothing."""
    members = {"storage": property(lambda view: vars(view)["_snapshot"]), "__del__": _never}
    return type(store_class.__name__, (store_class,), members)


def _view_in_memory(store: Any, documents: list[Document]) -> Any:
    """Return a store of the same class and settings over these documents, without writing them into one."""
    view: Any = object.__new__(_view_class(cast(Hashable, type(store))))
    snapshot = {document.id: document for document in documents}
    # The documents are only looked at, so copies without embeddings are not needed.
    view.__dict__.update({**vars(store), "_snapshot": snapshot, "return_embedding": True})
    return view


def _read_any(store: Any) -> list[Document]:
    documents: list[Document] = store.filter_documents()
    return documents


def _never(*_: Any) -> bool:
    return False  # the comparison of what is read then decides


_ANY = Probe(_read_any, _never, reads_all=True)
_PROBES: dict[str, Probe] = {
    "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore": Probe(
        _read_in_memory, _unchanged_in_memory, keeps_identity=True, view=_view_in_memory
    ),
}


def class_names(store: Any) -> list[str]:
    """Return the qualified names of a store's class and of those it derives from, nearest first."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(store).__mro__]


def probe_of(store: Any) -> Probe:
    """Return the probe for this kind of store, or the one that reads everything."""
    return next((_PROBES[name] for name in class_names(store) if name in _PROBES), _ANY)


def register_probe(class_name: str, probe: Probe) -> None:
    """Add the probe of a kind of store, by the qualified name of its class; it counts for derived classes too."""
    _PROBES[class_name] = probe


def text_of(document: Document, meta_fields: Sequence[str]) -> str | None:
    """Return what is indexed of a document: the meta fields and the content, a line each; None where it has none."""
    if not meta_fields:
        return document.content
    parts = [_as_text(document.meta[name]) for name in meta_fields if document.meta.get(name) is not None]
    if document.content is not None:
        parts.append(document.content)
    return "\n".join(parts) if parts else None


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple | set) else str(value)


class FieldValues(NamedTuple):
    """
    What filters look at in each document, in a form that later changes in place do not reach.

    :param field: As a filter names it: `meta.name`, `meta.outer.inner`, an attribute, or the bare name of a meta field.
    :param values: One for each document; the text of what could be changed in place.
    :param atomic: Whether none of them is such a text.
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
        return cls(field, [value if type(value) in _ATOMIC else repr(value) for value in found], False)

    def still_hold(self, documents: Sequence[Document]) -> bool:
        """Tell whether the documents have these values now; where they are atomic, the loops are C's."""
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


class Reading(NamedTuple):
    """
    The documents of a store as they were read once.

    :param source: All of them.
    :param documents: Those that have a text, in the same order: the collection that is indexed.
    :param fingerprints: Of their ids and texts, `uint64`; the same in every process.
    :param meta_values: Of each indexed meta field.
    """

    source: list[Document]
    documents: list[Document]
    fingerprints: NDArray[np.uint64]
    meta_values: list[FieldValues]


NOTHING = Reading([], [], np.zeros(0, np.uint64), [])


class Change(NamedTuple):
    """
    What a second reading found.

    :param reading: The second reading.
    :param previous: For each of its documents the position in the first one, -1 where id or text is new.
    :param texts: The new texts.
    """

    reading: Reading
    previous: NDArray[np.int64]
    texts: list[str]

    def is_none(self, n_before: int) -> bool:
        """Tell whether the collection is that of the first reading, of `n_before` documents, in the same order."""
        return len(self.previous) == n_before and np.array_equal(self.previous, np.arange(n_before))


def compare(before: Reading, source: list[Document], meta_fields: Sequence[str], *, trust_identity: bool) -> Change:
    """
    Find out what has changed between two readings.

    :param before: The first reading; only its fingerprints are needed unless identity is trusted.
    :param source: All documents of the second.
    :param meta_fields: The meta fields that are indexed.
    :param trust_identity: Take the same object for the same text; then the cost is that of the stretch that changed.
    """
    if meta_fields:
        documents = [document for document in source if text_of(document, meta_fields) is not None]
    else:
        documents = [document for document in source if document.content is not None]
    n_before, n_after = len(before.fingerprints), len(documents)
    start, end = _same_ends(before.documents, documents) if trust_identity else (0, 0)
    changed = documents[start : n_after - end]

    texts = [text_of(document, meta_fields) or "" for document in changed]
    fingerprints = np.fromiter(map(_fingerprint, changed, texts), np.uint64, len(changed))
    known = dict(zip(before.fingerprints[start : n_before - end].tolist(), range(start, n_before - end), strict=True))
    positions = [known.pop(fingerprint, -1) for fingerprint in fingerprints.tolist()]  # pop: no position is taken twice

    previous = np.concatenate(
        [np.arange(start), np.array(positions, np.int64), np.arange(n_before - end, n_before)], dtype=np.int64
    )
    reading = Reading(
        source,
        documents,
        np.concatenate([before.fingerprints[:start], fingerprints, before.fingerprints[n_before - end :]]),
        [FieldValues.of(documents, f"meta.{name}") for name in meta_fields],
    )
    return Change(reading, previous, [text for text, old in zip(texts, positions, strict=True) if old < 0])


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
