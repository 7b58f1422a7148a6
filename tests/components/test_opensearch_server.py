"""
BM25Retriever over a real OpenSearch of this machine, of more documents than its listing returns.

No Elasticsearch is to be had. Its client talks to the same server through a proxy that translates the content type, so
what its probe asks is answered by a real engine, too.
"""

from uuid import uuid4

import pytest
from haystack import Document

from elasticsearch_proxy import elasticsearch_proxy
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

COUNT, PASSING = 10_500, 10_400
MAPPINGS = {
    "properties": {"content": {"type": "text", "analyzer": "english"}, "embedding": {"type": "float", "index": False}},
    "dynamic_templates": [
        {"strings": {"path_match": "*", "match_mapping_type": "string", "mapping": {"type": "keyword"}}}
    ],
}
EARLY = {"field": "meta.early", "operator": "==", "value": True}


@pytest.fixture(scope="module")
def store(opensearch_url):
    """A store of documents with an embedding, in an index of two shards."""
    opensearch = pytest.importorskip("haystack_integrations.document_stores.opensearch", exc_type=ImportError)
    settings = {"number_of_shards": 2, "number_of_replicas": 0}
    made = opensearch.OpenSearchDocumentStore(
        hosts=opensearch_url, index=f"many-{uuid4().hex}", settings=settings, mappings=MAPPINGS
    )
    made.write_documents(
        [
            Document(id=f"d{i}", content=f"word{i} common", meta={"early": i < PASSING}, embedding=[float(i)])
            for i in range(COUNT)
        ],
        refresh=False,
    )
    made._client.indices.refresh(index=made._index)
    yield made
    made._client.indices.delete(index=made._index)


@pytest.fixture(scope="module")
def as_elasticsearch(opensearch_url, store):
    """Elasticsearch's store over the same index."""
    elasticsearch = pytest.importorskip("haystack_integrations.document_stores.elasticsearch", exc_type=ImportError)
    with elasticsearch_proxy(opensearch_url) as url:
        yield elasticsearch.ElasticsearchDocumentStore(hosts=url, index=store._index)


@pytest.mark.parametrize("kind", ["store", "as_elasticsearch"])
def test_the_last_of_more_documents_than_the_listing_returns_is_found(kind, request):
    document_store = request.getfixturevalue(kind)
    assert document_store.count_documents() == COUNT
    if kind == "store":  # Elasticsearch's store lists as many, in a thousand requests
        assert len(document_store.filter_documents()) == 10_000
    retriever = BM25Retriever(document_store, engine="bm25s", refresh="manual")
    (found,) = retriever.run(f"word{COUNT - 1}")["documents"]
    assert (found.id, found.content, found.meta["early"]) == ("d10499", "word10499 common", False)
    assert found.embedding == ([10499.0] if kind == "as_elasticsearch" else None)
    assert retriever._index._indexed.snapshot.documents is None
    assert len(retriever._index._indexed.bm25) == COUNT


@pytest.mark.parametrize("kind", ["store", "as_elasticsearch"])
def test_a_filter_that_passes_more_than_the_listing_returns_passes_them_all(kind, request):
    retriever = BM25Retriever(request.getfixturevalue(kind), engine="bm25s", refresh="manual")
    assert len(retriever.run("common", filters=EARLY, top_k=COUNT)["documents"]) == PASSING
    assert retriever.run(f"word{PASSING}", filters=EARLY)["documents"] == []


def test_both_engines_find_the_last_document(store):
    native = BM25Retriever(store)
    assert native._native is not None
    assert [one.id for one in native.run(f"word{COUNT - 1}")["documents"]] == ["d10499"]


def test_the_store_is_read_again_in_the_background_and_lost_documents_are_left_out(store):
    retriever = BM25Retriever(store, engine="bm25s", refresh_seconds=0, top_k=3)
    retriever.warm_up()
    store.write_documents([Document(id="new", content="zebra", meta={"early": False})], refresh=True)
    assert retriever.run("zebra")["documents"] == []
    retriever._index._background._thread.join()
    assert [one.id for one in retriever.run("zebra")["documents"]] == ["new"]
    store.delete_documents(["new"], refresh=True)
    assert retriever.run("zebra")["documents"] == []
    retriever._index.close()
