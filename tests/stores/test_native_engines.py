"""The real engines of the table: what they are asked, what they refuse, and what their scores are taken for."""

import asyncio
import logging
from uuid import uuid4

import pytest
from haystack import Document
from haystack.utils import Secret

from elasticsearch_proxy import elasticsearch_proxy
from haystack_ce_ranker.bm25.lucene import index_definition
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

DOCUMENTS = [
    *(
        Document(id=f"d{i}", content=f"word{i} common {'even' if i % 2 == 0 else 'odd'}", meta={"i": i})
        for i in range(60)
    ),
    Document(id="rare", content="Zebras. 𝔸 zebra is a zebra.", meta={"i": 100, "title": "common zebra"}),
]
FILLERS = " ".join(f"filler{i}" for i in range(1100))
DOCUMENTS += [Document(id=f"fillers{i}", content=FILLERS, meta={"i": 200}) for i in range(3)]
FIRST = {"field": "meta.i", "operator": "<", "value": 10}


@pytest.fixture(scope="module")
def opensearch(opensearch_url):
    """OpenSearch's store, in an index with our analysis."""
    package = pytest.importorskip("haystack_integrations.document_stores.opensearch", exc_type=ImportError)
    definition = index_definition()
    definition["settings"]["number_of_replicas"] = 0
    made = package.OpenSearchDocumentStore(hosts=opensearch_url, index=f"native-{uuid4().hex}", **definition)
    made.write_documents(DOCUMENTS, refresh=True)
    yield made
    made._client.indices.delete(index=made._index)


@pytest.fixture(scope="module")
def elasticsearch(opensearch_url, opensearch):
    """Elasticsearch's store and client over the same index."""
    package = pytest.importorskip("haystack_integrations.document_stores.elasticsearch", exc_type=ImportError)
    with elasticsearch_proxy(opensearch_url) as url:
        yield package.ElasticsearchDocumentStore(hosts=url, index=opensearch._index)


@pytest.fixture(scope="module")
def pgvector(postgres_uri):
    """pgvector's store, on a real PostgreSQL."""
    package = pytest.importorskip("haystack_integrations.document_stores.pgvector", exc_type=ImportError)
    made = package.PgvectorDocumentStore(
        connection_string=Secret.from_token(postgres_uri),
        table_name=f"native_{uuid4().hex[:8]}",
        keyword_index_name=f"keywords_{uuid4().hex[:8]}",
        embedding_dimension=3,
    )
    made.write_documents(DOCUMENTS)
    yield made
    made.delete_table()
    made.close()


@pytest.fixture
def store(request):
    return request.getfixturevalue(request.param) if hasattr(request, "param") else None


def found(retriever, query, **more):
    return retriever.run(query, **more)["documents"]


@pytest.mark.parametrize("store", ["opensearch", "elasticsearch"], indirect=True)
class TestLucene:
    """OpenSearch and Elasticsearch's client."""

    def test_the_record_names_the_engine_and_its_score(self, store):
        name = type(store).__name__.removesuffix("DocumentStore").lower()
        (best,) = found(BM25Retriever(store), "zebras")
        assert best.id == "rare"
        assert best.meta["ce_ranker"]["bm25"] == {"score": best.score, "rank": 1, "engine": name, "kind": "bm25"}

    def test_a_query_of_too_many_words_is_asked_with_the_rarest(self, store, caplog):
        """The rarest stand at the end of the query. What no document has finds nothing, and goes first."""
        retriever = BM25Retriever(store, top_k=100)
        rarest = " ".join(f"WORD{i}," for i in range(60))
        query = f"𝔸 odd unknown {FILLERS} {rarest} Zebra"  # Java counts the first character twice
        with caplog.at_level(logging.WARNING):
            documents = found(retriever, query)
        assert {one.id for one in documents} == {one.id for one in DOCUMENTS}
        record = documents[0].meta["ce_ranker"]["bm25"]
        assert record["query_words_left_out"] == 2 + 1100 + 61 - 1024
        said = [record.getMessage() for record in caplog.records if "more words than" in record.getMessage()]
        assert len(said) == 1
        assert "takes (1024): 139 were left out" in said[0]
        caplog.clear()
        assert found(retriever, query) == documents
        assert not [record for record in caplog.records if "more words than" in record.getMessage()]

    def test_words_that_a_long_query_repeats_count_as_often_as_there_is_room(self, store):
        retriever = BM25Retriever(store, top_k=3)
        once, often = (found(retriever, text)[0].score for text in ("zebra", "zebra " * 3))
        assert often == pytest.approx(3 * once)
        (best, *_) = found(retriever, "common " * 500 + "zebra " * 600)
        assert best.meta["ce_ranker"]["bm25"]["query_words_left_out"] == 1100 - 1024
        assert best.score == pytest.approx((1024 - 500) * once, rel=1e-4)

    def test_run_async_does_the_same(self, store):
        pytest.importorskip("aiohttp", reason="the stores' asynchronous clients need aiohttp")
        retriever = BM25Retriever(store, top_k=3)
        query = "common " * 1100 + "zebra"

        async def ask():
            documents = (await retriever.run_async(query))["documents"]
            with pytest.raises(ValueError, match="top_k must be at most 10000"):
                await retriever.run_async("common", top_k=10_001)
            await retriever.document_store._async_client.close()
            retriever.document_store._async_client = None
            return documents

        assert asyncio.run(ask()) == found(retriever, query)

    def test_top_k_above_the_window_is_an_error_that_names_the_setting(self, store):
        retriever = BM25Retriever(store)
        assert len(found(retriever, "common", top_k=10_000)) == 60
        with pytest.raises(ValueError, match=r"top_k must be at most 10000 .*got 10001: .*index\.max_result_window"):
            found(retriever, "common", top_k=10_001)

    def test_other_errors_of_the_server_stay_as_they_are(self, store):
        with pytest.raises(Exception, match="parse") as raised:
            found(BM25Retriever(store, native_parameters={"fuzziness": "nonsense"}), "zebra")
        assert not isinstance(raised.value, ValueError)

    def test_filters_top_k_and_a_query_of_stop_words(self, store):
        retriever = BM25Retriever(store, filters=FIRST)
        assert {one.id for one in found(retriever, "even")} == {"d0", "d2", "d4", "d6", "d8"}
        assert len(found(retriever, "even", top_k=2)) == 2
        assert found(BM25Retriever(store), "the who") == []

    def test_meta_is_not_searched(self, store):
        assert "rare" not in {one.id for one in found(BM25Retriever(store), "common", top_k=100)}
        assert found(BM25Retriever(store), "d7") == []  # nor the id


def test_a_search_in_many_fields_takes_fewer_words(opensearch_url):
    """The store's own mapping is searched in every field, each of which needs a clause for each word."""
    package = pytest.importorskip("haystack_integrations.document_stores.opensearch", exc_type=ImportError)
    plain = {"properties": {name: {"type": "text"} for name in ("content", "title", "note")}}
    store = package.OpenSearchDocumentStore(
        hosts=opensearch_url, index=f"native-{uuid4().hex}", settings={"number_of_replicas": 0}, mappings=plain
    )
    try:
        words = [f"w{i}" for i in range(700)]
        text = " ".join(words)
        store.write_documents([Document(id="all", content=text, meta={"title": text, "note": text})], refresh=True)
        (best,) = found(BM25Retriever(store), text)
        assert best.id == "all"
        assert best.meta["ce_ranker"]["bm25"]["query_words_left_out"] == 700 - 175
    finally:
        store._client.indices.delete(index=store._index)


def test_a_custom_query_and_another_analyzer_are_the_engines_matter(opensearch):
    custom = {
        "query": {
            "bool": {
                "must": [{"match": {"content": {"query": "$query", "analyzer": "whitespace"}}}],
                "filter": "$filters",
            }
        }
    }
    retriever = BM25Retriever(opensearch, native_parameters={"custom_query": custom})
    assert found(retriever, "Zebras") == []  # looked for as it stands, without a stem
    assert [one.id for one in found(retriever, "zebra")] == ["rare"]
    assert len(found(retriever, "even", filters=FIRST)) == 5


def test_letters_are_found_in_a_field_of_their_own(opensearch):
    opensearch.write_documents([Document(id="letter", content="vitamin C of oranges")], refresh=True)
    try:
        plain = BM25Retriever(opensearch)
        assert [one.id for one in found(plain, "c")] == ["letter"]
        both, one = found(plain, "vitamin c")[0].score, found(plain, "vitamin")[0].score
        assert both > one
        strict = BM25Retriever(opensearch, native_parameters={"all_terms_must_match": True})
        assert [one.id for one in found(strict, "vitamin c")] == ["letter"]
        assert found(strict, "vitamin zebra") == []
    finally:
        opensearch.delete_documents(["letter"], refresh=True)


class TestPostgres:
    """PostgreSQL's full-text search, whose `ts_rank_cd` is no BM25."""

    def test_auto_keeps_to_the_index_of_this_package(self, pgvector):
        assert BM25Retriever(pgvector)._native is None
        assert BM25Retriever(pgvector, engine="native")._native is not None

    def test_the_records_stand_under_another_name_and_say_what_the_score_is(self, pgvector):
        (best,) = found(BM25Retriever(pgvector, engine="native"), "zebras")
        assert best.id == "rare"
        assert best.meta["ce_ranker"] == {
            "keyword": {"score": best.score, "rank": 1, "engine": "postgresql", "kind": "ts_rank_cd"}
        }
        assert best.score > 0.0

    def test_filters_top_k_async_and_all_words_at_once(self, pgvector):
        retriever = BM25Retriever(pgvector, engine="native", filters=FIRST)
        assert {one.id for one in found(retriever, "even common")} == {"d0", "d2", "d4", "d6", "d8"}
        assert len(found(retriever, "even", top_k=2)) == 2
        assert found(retriever, "even zebra") == []  # the engine asks for every word
        assert len(found(BM25Retriever(pgvector, engine="native", top_k=100), "common " * 1500)) == 60

        assert asyncio.run(retriever.run_async("even"))["documents"] == found(retriever, "even")

    def test_requests_at_once_get_each_its_own_though_the_store_has_one_cursor(self, pgvector):
        retriever = BM25Retriever(pgvector, engine="native")
        pgvector.count_documents()
        answers = pgvector._cursor.execute("SELECT 7"), pgvector._dict_cursor.execute("SELECT 8 AS eight")
        expected = {query: found(retriever, query) for query in ("even", "zebra", "common")}

        async def ask(times):
            asked = [*expected] * times
            return asked, await asyncio.gather(*(retriever.run_async(query) for query in asked))

        for _ in range(2):  # each with an event loop of its own
            asked, given = asyncio.run(ask(20))
            assert [one["documents"] for one in given] == [expected[query] for query in asked]
        assert [one.fetchall() for one in answers] == [[(7,)], [{"eight": 8}]]

    def test_the_joiner_takes_the_scores_for_what_they_are(self, pgvector):
        """Beyond 1, scores at an input of this name would be taken for BM25."""
        pgvector.write_documents([Document(id=f"many{i}", content="giraffe " * 20 * i) for i in (1, 2, 3)])
        listed = found(BM25Retriever(pgvector, engine="native"), "giraffe")
        pgvector.delete_documents([one.id for one in listed])
        assert max(one.score for one in listed) > 1.0
        joiner = HybridScoreJoiner(weights={"cross_encoder": 0.8, "bm25": 0.2})
        logits = [Document(id=one.id, score=4.0 - 3.0 * place) for place, one in enumerate(listed)]
        report = joiner.run(cross_encoder=logits, bm25=listed)["report"]["inputs"]["bm25"]
        assert (report["assumed"], report["normalize"]) == ("own", "z_score")


def test_the_joiner_takes_opensearch_for_bm25(opensearch):
    listed = found(BM25Retriever(opensearch, top_k=5), "common zebra")
    joiner = HybridScoreJoiner(weights={"cross_encoder": 0.8, "first_stage": 0.2})
    logits = [Document(id=one.id, score=4.0 - 3.0 * place) for place, one in enumerate(listed)]
    report = joiner.run(cross_encoder=logits, first_stage=listed)["report"]["inputs"]["first_stage"]
    assert report["assumed"] == "bm25"
