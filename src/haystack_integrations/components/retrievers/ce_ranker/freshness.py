"""
Whether an index still fits its document store: one probe for each kind of store.

What a run without a change costs with `refresh="auto"`, and what is kept of a document:

| store | how it is read | probe | kept of a document |
|---|---|---|---|
| `InMemoryDocumentStore` | its storage | documents compared by identity | a reference, 16 bytes |
| OpenSearch, Elasticsearch | by pages, without vectors | `count_documents()` | the id; hits are fetched |
| Qdrant | by pages, without vectors | `count_documents()` | the id; hits are fetched |
| Chroma | in one request, without vectors | `count_documents()` | the id; hits are fetched |
| Milvus | by pages | `count_documents()` | the id; hits are fetched |
| pgvector | `filter_documents()`, on a cursor of its own | `count_documents()` | the id; hits are fetched |
| any other, such as FAISS | `filter_documents()` | `count_documents()` | all but the embeddings |

The first probe takes 4 ns per document. `benchmarks/bm25.md` has the cost of the others. By default, OpenSearch
and Elasticsearch answer the query themselves (`native.py`), and nothing is kept or probed; their row is for
`engine="bm25s"`. Where `filter_documents()` is believed, it must be as long as `count_documents()` says (`listing.py`).

The first probe is exact: documents that were added, deleted or replaced are found at the next run. The number of
documents is not. A store of the other rows is therefore read again in the background, at most every `refresh_seconds`,
while runs go on with the old index; `refreshing.py` does that. `refresh="every_run"` reads it in each run.

To add a probe for a store that can tell more, write its functions in `integrations.py` and add its line to `PROBES`.
From outside this package, call `register_probe`.

Documents of the in-memory store that are changed *in place* stay the same objects. A change of `meta` is found
nevertheless: indexed fields are compared at every run, at up to 0.2 us per document and field. The fields of a filter
are compared only in the documents that decide the search, which takes 1 ms at 100,000 documents and a filter that
passes a tenth. A change of `content` is found only with `refresh="every_run"`, which compares all texts of any store.

After a change only new texts are analysed, and only the postings of documents since the last merge are made again. Some
work is not proportional to the change:

- The list of documents and some arrays with an entry per document are made anew: 15 ms at 100,000 documents.
- A filter is evaluated anew on all documents when it is next used: 1 us for each in memory.
- When more than a tenth of the index is new or gone, all postings are merged, without reading a text.
- Every text of a store with an inexact probe is read and hashed.

`benchmarks/bm25.py` measures these figures, `benchmarks/bm25.md` has them.
"""

import operator
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

from haystack import Document

from haystack_integrations.components.retrievers.ce_ranker import integrations, listing
from haystack_integrations.components.retrievers.ce_ranker.stores import entry_for


class Probe(NamedTuple):
    """
    How to read a kind of store, and how to see that it has not changed.

    :ivar read: Given the store, returns or yields all its documents in its order.
    :ivar state: Given the store, returns a value that differs after any change of its documents, such as a version. It
        is taken before the documents are read.
    :ivar exact: Whether equal states mean equal documents. False where a state tells only some of the changes, such as
        the number of documents; then the store is read in the background, too.
    :ivar passing: Given the store and filters, returns or yields the ids of the documents that pass them.
    :ivar fetch: Given the store and ids, quickly returns the documents that it still has. With it, nothing but the ids
        is kept of the documents; without it, everything but their embeddings.
    :ivar same: Tells whether two states are equal.
    :ivar shares: Whether `read` returns the store's own objects, which need no copy and stay the same while they are
        unchanged.
    :ivar needs: Methods that the store's class must have. A class of another release, without them, gets the probe for
        any store.
    :ivar view: Given the store and documents, returns an object whose `filter_documents` is the store's, but over these
        alone, so that a filter sees the same documents as the index. None if there is no such object;
        then the filter asks the store as it is at that time.
    """

    read: Callable[[Any], Iterable[Document]]
    state: Callable[[Any], Any]
    exact: bool = True
    passing: Callable[[Any, dict[str, Any]], Iterable[str]] = listing.passing
    fetch: Callable[[Any, Sequence[str]], list[Document]] | None = None
    same: Callable[[Any, Any], bool] = operator.eq
    shares: bool = False
    needs: tuple[str, ...] = ()
    view: Callable[[Any, Any], Any] | None = None


def _read_in_memory(store: Any) -> list[Document]:
    return list(store.storage.values())


def _same_in_memory(known: list[Document], current: list[Document]) -> bool:
    if len(current) != len(known):
        return False
    # A list compares its items by identity before equality, in C. Rewritten documents go to the end of the list.
    # So the last item tells whether there are equal but other objects, which would be slow to compare by value.
    try:
        return not current or (current[-1] is known[-1] and current == known)
    except Exception:  # two documents that cannot be compared are not the same one
        return False


@lru_cache(maxsize=16)
def _view_class(store_class: Any) -> type:
    """Derive a class whose objects have the documents given to them. They own nothing, so they close nothing."""
    members = {"storage": property(lambda view: vars(view)["_snapshot"]), "__del__": lambda _: None}
    return type(store_class.__name__, (store_class,), members)


def _view_in_memory(store: Any, documents: list[Document]) -> Any:
    """Return a store of the same class and settings over these documents, without writing them into one."""
    view: Any = object.__new__(_view_class(cast(Hashable, type(store))))
    snapshot = {document.id: document for document in documents}
    # The documents are only looked at, so copies without embeddings are not needed.
    view.__dict__.update({**vars(store), "_snapshot": snapshot, "return_embedding": True})
    return view


def _counted(read: Callable[[Any], Iterable[Document]], **others: Any) -> Probe:
    """Return the probe of a store of which only the number of documents is known."""
    return Probe(read, listing.number_of, exact=False, **others)


_STORES = "haystack_integrations.document_stores"
_SEARCHING = ("_ensure_initialized", "_search_documents", "_deserialize_document")

PROBES: dict[str, Probe] = {
    "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore": Probe(
        _read_in_memory, _read_in_memory, same=_same_in_memory, shares=True, view=_view_in_memory
    ),
    f"{_STORES}.opensearch.document_store.OpenSearchDocumentStore": _counted(
        integrations.read_opensearch,
        passing=integrations.passing_opensearch,
        fetch=integrations.fetch_opensearch,
        needs=(*_SEARCHING, "_prepare_filter_search_request"),
    ),
    f"{_STORES}.elasticsearch.document_store.ElasticsearchDocumentStore": _counted(
        integrations.read_elasticsearch,
        passing=integrations.passing_elasticsearch,
        fetch=integrations.fetch_elasticsearch,
        needs=_SEARCHING,
    ),
    f"{_STORES}.qdrant.document_store.QdrantDocumentStore": _counted(
        integrations.read_qdrant,
        passing=integrations.passing_qdrant,
        fetch=integrations.fetch_qdrant,
        needs=("_initialize_client", "_validate_filters"),
    ),
    f"{_STORES}.chroma.document_store.ChromaDocumentStore": _counted(
        integrations.read_chroma,
        fetch=integrations.fetch_chroma,
        needs=("_ensure_initialized", "_get_result_to_documents"),
    ),
    f"{_STORES}.pgvector.document_store.PgvectorDocumentStore": Probe(
        partial(integrations.on_own_cursors, listing.whole),
        partial(integrations.on_own_cursors, listing.number_of),
        exact=False,
        passing=partial(integrations.on_own_cursors, listing.passing),
        fetch=partial(integrations.on_own_cursors, integrations.fetch_by_filter),
        needs=("_ensure_db_setup",),
    ),
    "milvus_haystack.document_store.MilvusDocumentStore": _counted(
        integrations.read_milvus,
        passing=integrations.passing_milvus,
        fetch=integrations.fetch_milvus,
        needs=("_get_output_fields", "_parse_document"),
    ),
}
"""Probes by the qualified name of a store's class; an entry counts for derived classes too."""

ANY_STORE = _counted(listing.whole)
"""The probe for all other stores."""


def probe_of(store: Any) -> Probe:
    """Return the probe for this kind of store, or that for any other."""
    probe = entry_for(store, PROBES)
    return ANY_STORE if probe is None or not all(hasattr(type(store), name) for name in probe.needs) else probe


def register_probe(class_name: str, probe: Probe) -> None:
    """Add the probe of a kind of store, by the qualified name of its class; it counts for derived classes too."""
    PROBES[class_name] = probe
