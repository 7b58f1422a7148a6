"""Queries of a collection with the documents that BM25 finds for them, as the scorer takes them."""

from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.evaluation.data.collections import Collection


def bm25_requests(collection: Collection, *, depth: int) -> list[tuple[str, list[str]]]:
    """Return each query with the texts of its `depth` best documents by BM25; fewer where fewer match."""
    texts = [document.content for document in collection.documents.values()]
    index = BM25Index.build(texts)
    return [
        (query, [texts[row] for row in index.search(query, depth).positions.tolist()])
        for query in collection.queries.values()
    ]
