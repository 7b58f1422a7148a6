"""
Document stores with a BM25 engine of their own: which they are, and how the query is handed to them.

| store | retriever of the integration |
|---|---|
| `ElasticsearchDocumentStore` | `ElasticsearchBM25Retriever`, package `elasticsearch-haystack` |
| `OpenSearchDocumentStore` | `OpenSearchBM25Retriever`, package `opensearch-haystack` |

The requests were checked against a local HTTP server that knows the documented query form, not against a cluster;
`examples/opensearch_check.py` names the command that does that.

The integrations are imported only when such a store is given; its presence means that the package is installed.
"""

from importlib import import_module
from typing import Any

from haystack_integrations.components.retrievers.ce_ranker.freshness import class_names

_RETRIEVERS = {
    "haystack_integrations.document_stores.elasticsearch.document_store.ElasticsearchDocumentStore": (
        "haystack_integrations.components.retrievers.elasticsearch.bm25_retriever",
        "ElasticsearchBM25Retriever",
    ),
    "haystack_integrations.document_stores.opensearch.document_store.OpenSearchDocumentStore": (
        "haystack_integrations.components.retrievers.opensearch.bm25_retriever",
        "OpenSearchBM25Retriever",
    ),
}


def has_engine(document_store: Any) -> bool:
    """Tell whether the store brings a BM25 engine that is known here."""
    return any(name in _RETRIEVERS for name in class_names(document_store))


def stores_with_engines() -> list[str]:
    """Return the class names of those stores."""
    return [name.rpartition(".")[2] for name in _RETRIEVERS]


def make_retriever(document_store: Any, parameters: dict[str, Any]) -> Any:
    """
    Return the integration's own BM25 retriever for this store.

    :param parameters: Its other init parameters, for example `{"fuzziness": 0}`.
    :raises ValueError: If the store has no engine that is known here.
    """
    for name in class_names(document_store):
        if name in _RETRIEVERS:
            module, class_name = _RETRIEVERS[name]
            return getattr(import_module(module), class_name)(document_store=document_store, **parameters)
    raise ValueError(
        f"engine='native' needs a store with a BM25 engine ({', '.join(stores_with_engines())}), "
        f"but got {type(document_store).__name__}: use engine='bm25s' or 'auto'"
    )
