"""
Document stores with a BM25 engine of their own, and how a query is handed to it.

The retriever of the store's integration asks the engine. It is imported only when such a store is given. A store means
that its package is installed: `elasticsearch-haystack` or `opensearch-haystack`.

To add a store, add its line to `ENGINES`. The retriever named there must take `document_store` and have Haystack's
`run(query, filters, top_k)` and `run_async`.

The requests were checked against a local HTTP server that knows the documented query form, not against a cluster.
`examples/opensearch_check.py` names the command that checks them against a cluster.
"""

from importlib import import_module
from typing import Any

from haystack_integrations.components.retrievers.ce_ranker.stores import entry_for

_STORES = "haystack_integrations.document_stores"
_RETRIEVERS = "haystack_integrations.components.retrievers"

ENGINES = {
    f"{_STORES}.elasticsearch.document_store.ElasticsearchDocumentStore": (
        f"{_RETRIEVERS}.elasticsearch.bm25_retriever.ElasticsearchBM25Retriever"
    ),
    f"{_STORES}.opensearch.document_store.OpenSearchDocumentStore": (
        f"{_RETRIEVERS}.opensearch.bm25_retriever.OpenSearchBM25Retriever"
    ),
}
"""The BM25 retriever of a store's integration, by the qualified name of the store's class."""


def has_engine(document_store: Any) -> bool:
    """Tell whether the store brings a BM25 engine that is known here."""
    return entry_for(document_store, ENGINES) is not None


def make_retriever(document_store: Any, parameters: dict[str, Any]) -> Any:
    """
    Return the integration's own BM25 retriever for this store.

    :param parameters: Its other init parameters, for example `{"fuzziness": 0}`.
    :raises ValueError: If the store has no engine that is known here.
    """
    found = entry_for(document_store, ENGINES)
    if found is None:
        known = ", ".join(name.rpartition(".")[2] for name in ENGINES)
        raise ValueError(
            f"engine='native' needs a store with a BM25 engine ({known}), "
            f"but got {type(document_store).__name__}: use engine='bm25s' or 'auto'"
        )
    module, _, class_name = found.rpartition(".")
    return getattr(import_module(module), class_name)(document_store=document_store, **parameters)
