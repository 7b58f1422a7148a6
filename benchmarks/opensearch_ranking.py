"""How far the rankings of OpenSearch and of `BM25Index` agree: the part `ranking` of `engines.py`, and its test."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.bm25.lucene import index_definition
from haystack_ce_ranker.data.collections import Collection

TOP_K = 10
ONE_SHARD = {"number_of_shards": 1, "number_of_replicas": 0}
STRINGS = {"strings": {"path_match": "*", "match_mapping_type": "string", "mapping": {"type": "keyword"}}}


def with_analyzer(name: str | None) -> dict[str, Any]:
    """Return the definition of an index whose content an analyzer of the server's reads; None for its default."""
    content = {"type": "text"} if name is None else {"type": "text", "analyzer": name}
    return {"settings": ONE_SHARD, "mappings": {"properties": {"content": content}, "dynamic_templates": [STRINGS]}}


def ours() -> dict[str, Any]:
    """Return the definition of an index with our analysis."""
    found = index_definition()
    return {**found, "settings": {**ONE_SHARD, **found["settings"]}}


DEFINITIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "our analysis": ours,
    "the server's `english` analyzer": lambda: with_analyzer("english"),
    "the server's default": lambda: with_analyzer(None),
}


def kept_length(length: int) -> int:
    """Return the length of a document that Lucene keeps in one byte: exact to 40, then 8 steps per doubling."""
    if length < 24:
        return length
    rest = length - 24
    shift = max(0, rest.bit_length() - 4)
    return 24 + (rest >> shift << shift)


def rounded(index: BM25Index) -> BM25Index:
    """Return an index that counts with the lengths that Lucene keeps, and with the exact average as Lucene does."""
    impacts = index._base.impacts
    lengths = np.array([kept_length(int(length)) for length in impacts.lengths], np.int32)
    return index._with(base=index._base._replace(impacts=impacts._replace(lengths=lengths)))


class Agreement(NamedTuple):
    """
    What a server found for the queries of a collection, beside our index.

    :ivar overlap: The share of our top 10 in the server's; see `overlap`.
    :ivar rounded: The same where our index counts with the lengths that Lucene keeps.
    :ivar run: The server's scores by query and document.
    """

    overlap: float
    rounded: float
    run: dict[str, dict[str, float]]


def agreement(url: str, collection: Collection, index: BM25Index, definition: Mapping[str, Any]) -> Agreement:
    """Write a collection into an index of the server, ask its queries through `BM25Retriever`, and compare."""
    from haystack import Document
    from haystack_integrations.document_stores.opensearch import OpenSearchDocumentStore

    from haystack_ce_ranker import BM25Retriever

    names = list(collection.documents)
    store = OpenSearchDocumentStore(hosts=url, index=f"ranking-{uuid4().hex}", **definition)
    documents = [Document(id=name, content=text.content) for name, text in collection.documents.items()]
    store.write_documents(documents, refresh=True)
    try:
        retriever = BM25Retriever(store, engine="native", top_k=TOP_K)
        run = {
            key: {found.id: float(found.score or 0.0) for found in retriever.run(query)["documents"]}
            for key, query in collection.queries.items()
        }
    finally:
        store._client.indices.delete(index=store._index)
        store.close()
    shares = [overlap(one, names, collection.queries, run) for one in (index, rounded(index))]
    return Agreement(*shares, run)


def overlap(
    index: BM25Index, names: Sequence[str], queries: Mapping[str, str], run: Mapping[str, Mapping[str, float]]
) -> float:
    """
    Return the share of an index's top 10 that a run has, too.

    Documents that score alike at the tenth place may stand for each other: their order means nothing.

    :param names: The documents' ids, in the order of the index.
    :param run: By query the scores of its top 10.
    """
    shared, asked = 0, 0
    for key, query in queries.items():
        hits = index.search(query, 10 * TOP_K)
        scores, found = hits.scores.tolist(), [names[i] in run[key] for i in hits.positions.tolist()]
        size = min(TOP_K, len(scores))
        above = sum(score > scores[size - 1] for score in scores)
        alike = sum(score == scores[size - 1] for score in scores)
        shared += sum(found[:above]) + min(sum(found[above : above + alike]), size - above)
        asked += size
    return shared / asked
