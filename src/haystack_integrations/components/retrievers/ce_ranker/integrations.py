"""
How the stores of Haystack's integrations are paged through, filtered and asked for documents by id.

Their `filter_documents()` is cut (OpenSearch, Elasticsearch and Milvus: 10,000 documents) or reads all embeddings
(Qdrant, Chroma), which BM25 does not need. The calls go through the store's own client. Its package is imported only
when such a store is given, so it is installed then.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from haystack import Document

_STORES = "haystack_integrations.document_stores"
_PAGE = 1000
_VECTORS = {"excludes": ["embedding", "sparse_embedding"]}


# OpenSearch and Elasticsearch


def _scan(store: Any, package: str, query: dict[str, Any] | None) -> Iterator[Document]:
    """Yield all documents that a query finds, as they were when it began."""
    store._ensure_initialized()
    body = {"_source": _VECTORS} if query is None else {"query": query, "_source": _VECTORS}
    scan = import_module(f"{package}.helpers").scan
    # An id that is not in the document is made from its content, so a filter needs the content, too.
    return map(store._deserialize_document, scan(store._client, query=body, index=store._index, size=_PAGE))


def read_opensearch(store: Any) -> Iterator[Document]:
    """Yield all documents."""
    return _scan(store, "opensearchpy", None)


def passing_opensearch(store: Any, filters: dict[str, Any]) -> Iterator[str]:
    """Yield the ids of the documents that pass a filter."""
    store._ensure_initialized()
    query = store._prepare_filter_search_request(filters)["query"]
    return (document.id for document in _scan(store, "opensearchpy", query))


def read_elasticsearch(store: Any) -> Iterator[Document]:
    """Yield all documents."""
    return _scan(store, "elasticsearch", None)


def passing_elasticsearch(store: Any, filters: dict[str, Any]) -> Iterator[str]:
    """Yield the ids of the documents that pass a filter."""
    normalize = import_module(f"{_STORES}.elasticsearch.filters")._normalize_filters
    query = {"bool": {"filter": normalize(filters)}}
    return (document.id for document in _scan(store, "elasticsearch", query))


def fetch_opensearch(store: Any, ids: Sequence[str]) -> list[Document]:
    """Return documents by id, with embeddings if the store is set to return them."""
    store._ensure_initialized()
    found: list[Document] = []
    for some in _batches(ids):
        body = {"query": {"ids": {"values": some}}, "size": len(some)}
        found += store._search_documents(body if store._return_embedding else {**body, "_source": _VECTORS})
    return found


def fetch_elasticsearch(store: Any, ids: Sequence[str]) -> list[Document]:
    """Return documents by id, with embeddings."""
    store._ensure_initialized()
    return [
        document
        for some in _batches(ids)
        for document in store._search_documents(query={"ids": {"values": some}}, size=len(some))
    ]


# Qdrant


def _scroll(store: Any, filters: Any) -> Iterator[Any]:
    """Yield the points that pass a filter, without vectors."""
    store._initialize_client()
    asked = import_module(f"{_STORES}.qdrant.filters").convert_filters_to_qdrant(filters)
    offset = None
    while True:
        points, offset = store._client.scroll(
            collection_name=store.index,
            scroll_filter=asked,
            limit=store.scroll_size,
            offset=offset,
            with_payload=True,
            with_vectors=False,
        )
        yield from points
        # Through gRPC, the end is a point id of zeros.
        if offset is None or (getattr(offset, "num", None) == 0 and getattr(offset, "uuid", None) == ""):
            return


def _from_points(store: Any, points: Iterable[Any]) -> Iterator[Document]:
    convert = import_module(f"{_STORES}.qdrant.converters").convert_qdrant_point_to_haystack_document
    return (convert(point, use_sparse_embeddings=store.use_sparse_embeddings) for point in points)


def read_qdrant(store: Any) -> Iterator[Document]:
    """Yield all documents."""
    return _from_points(store, _scroll(store, None))


def passing_qdrant(store: Any, filters: Any) -> Iterator[str]:
    """Yield the ids of the documents that pass a filter, which may also be one of Qdrant's own."""
    store._validate_filters(filters)
    return (document.id for document in _from_points(store, _scroll(store, filters)))


def fetch_qdrant(store: Any, ids: Sequence[str]) -> list[Document]:
    """Return documents by id, with embeddings if the store is set to return them."""
    store._initialize_client()
    convert_id = import_module(f"{_STORES}.qdrant.converters").convert_id
    points = store._client.retrieve(
        collection_name=store.index,
        ids=[convert_id(name) for name in ids],
        with_payload=True,
        with_vectors=store.return_embedding,
    )
    return list(_from_points(store, points))


# Chroma

_TEXTS = ["documents", "metadatas"]


def read_chroma(store: Any) -> list[Document]:
    """Return all documents: in one request, for pages by position miss some while others are deleted."""
    store._ensure_initialized()
    documents: list[Document] = store._get_result_to_documents(store._collection.get(include=_TEXTS))
    return documents


def fetch_chroma(store: Any, ids: Sequence[str]) -> list[Document]:
    """Return documents by id, with embeddings."""
    store._ensure_initialized()
    found: list[Document] = store._get_result_to_documents(
        store._collection.get(ids=list(dict.fromkeys(ids)), include=[*_TEXTS, "embeddings"])
    )
    return found


# Milvus


def _rows(store: Any, filters: dict[str, Any] | None, fields: list[str]) -> Iterator[dict[str, Any]]:
    """Yield these fields of all rows that pass a filter, page by page."""
    if not store._collection_exists:
        return
    pages = store.client.query_iterator(
        store.collection_name,
        batch_size=_PAGE,
        filter=import_module("milvus_haystack.filters").parse_filters(filters) if filters else "",
        output_fields=fields,
        partition_names=store.partition_names,
    )
    try:
        while page := pages.next():
            yield from page
    finally:
        pages.close()


def read_milvus(store: Any) -> Iterator[Document]:
    """Yield all documents."""
    return map(store._parse_document, _rows(store, None, store._get_output_fields()))


def passing_milvus(store: Any, filters: dict[str, Any]) -> Iterator[str]:
    """Yield the ids of the documents that pass a filter."""
    return (row[store._primary_field] for row in _rows(store, filters, [store._primary_field]))


def fetch_milvus(store: Any, ids: Sequence[str]) -> list[Document]:
    """Return documents by id, with embeddings."""
    return fetch_by_filter(store, ids, field=store._primary_field)


# pgvector


def with_own_cursors(store: Any) -> Any:
    """
    Return a copy of the store that has the same connection and cursors of its own.

    The store has one cursor for all threads. Two that use it at once get each other's documents.
    """
    store._ensure_db_setup()
    own = copy.copy(store)
    own._cursor = store._connection.cursor()
    own._dict_cursor = store._connection.cursor(row_factory=store._dict_cursor.row_factory)
    return own


def on_own_cursors(call: Callable[..., Any], store: Any, *arguments: Any) -> Any:
    """Call a function with a copy of the store that has cursors of its own."""
    return call(with_own_cursors(store), *arguments)


# Stores that answer a filter on the id by an index


def fetch_by_filter(store: Any, ids: Sequence[str], *, field: str = "id") -> list[Document]:
    """Return documents by id, by a filter that names the ids."""
    return [
        document
        for some in _batches(ids)
        for document in store.filter_documents({"field": field, "operator": "in", "value": some})
    ]


def _batches(ids: Sequence[str]) -> Iterator[list[str]]:
    return (list(ids[start : start + _PAGE]) for start in range(0, len(ids), _PAGE))
