"""
Whether an index still fits its document store: one probe for each kind of store.

How a change is found with `refresh="auto"`:

| store | probe | cost of a run without a change | memory for the documents |
|---|---|---|---|
| `InMemoryDocumentStore` | its documents, compared by identity | 4 ns per document | references, 16 bytes each |
| Elasticsearch's, OpenSearch's | none: the store's own engine answers | none | none |
| any other | `filter_documents()`, compared by id and text | the whole store is read | a copy of every document |

The first and the last find documents that were added, deleted or replaced, even if their number stays the same. For the
last, a warning says once that `refresh="manual"` avoids the cost. `snapshots.py` finds out what has changed.

To add a probe for a store that can tell more cheaply, write its functions here and add its line to `PROBES`. From
outside this package, call `register_probe`.

Documents of the in-memory store that are changed *in place* stay the same objects. A change of `meta` is found
nevertheless: indexed fields are compared at every run, at up to 0.2 us per document and field. The fields of a filter
are compared only in the documents that decide the search, which takes 1 ms at 100,000 documents and a filter that
passes a tenth. A change of `content` is found only with `refresh="every_run"`, which compares all texts of any store.

After a change only new texts are analysed, and only the postings of documents since the last merge are made again. Some
work is not proportional to the change:

- The list of documents and some arrays with an entry per document are made anew: 15 ms at 100,000 documents.
- A filter is evaluated anew on all documents when it is next used: 1 us for each.
- When more than a tenth of the index is new or gone, all postings are merged, without reading a text.
- Every text of a store of the last row is read and hashed.

`benchmarks/bm25.py` measures these figures, `benchmarks/bm25.md` has them.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, NamedTuple, cast

from haystack import Document

from haystack_integrations.components.retrievers.ce_ranker.stores import entry_for


class Probe(NamedTuple):
    """
    How to read a kind of store, and how to see that it has not changed.

    :ivar read: Given the store, returns all its documents in its order.
    :ivar unchanged: Given the store and the documents read before, tells whether the store still holds these and no
        others. It may say False although nothing changed, never the reverse.
    :ivar keeps_identity: Whether an unchanged document is the same object when it is read again.
    :ivar reads_all: Whether every probe reads the whole store.
    :ivar view: Given the store and documents read before, returns an object whose `filter_documents` is the store's,
        but over these documents, so that a filter sees the same state as the index. None if there is no such object;
        then the filter asks the store as it is at that time.
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
    # A list compares its items by identity before equality, in C. Rewritten documents go to the end of the list.
    # So the last item tells whether there are equal but other objects, which would be slow to compare by value.
    return not current or (current[-1] is known[-1] and current == known)


@lru_cache(maxsize=16)
def _view_class(store_class: Any) -> type:
    """Derive a class whose objects have the documents given to them. They own nothing, so they close nothing."""
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
    return False  # comparing the documents then decides


PROBES: dict[str, Probe] = {
    "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore": Probe(
        _read_in_memory, _unchanged_in_memory, keeps_identity=True, view=_view_in_memory
    ),
}
"""Probes by the qualified name of a store's class; an entry counts for derived classes too."""

ANY_STORE = Probe(_read_any, _never, reads_all=True)
"""The probe for all other stores. It reads everything."""


def probe_of(store: Any) -> Probe:
    """Return the probe for this kind of store, or the one that reads everything."""
    probe = entry_for(store, PROBES)
    return ANY_STORE if probe is None else probe


def register_probe(class_name: str, probe: Probe) -> None:
    """Add the probe of a kind of store, by the qualified name of its class; it counts for derived classes too."""
    PROBES[class_name] = probe
