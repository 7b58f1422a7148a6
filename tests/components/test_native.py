"""
BM25Retriever over OpenSearch and Elasticsearch: the requests that go out, and what comes back.

A local HTTP server plays the engine: it refuses every search that is not of the documented query form, so what is
tested is the request. `tests/stores` has the tests with real engines.
"""

import asyncio
import copy
import json
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from haystack import Document, Pipeline

from fakes import REPOSITORY
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever, native

EXAMPLES = REPOSITORY / "examples"
CORPUS = {
    "car": {"content": "a car in the snow", "place": "city", "height": 100},
    "hut": {"content": "a hut in the snow, snow everywhere", "place": "alps", "height": 2000},
    "sea": {"content": "the sea", "place": "coast", "height": 0},
}

# The parts of the query language that these requests may use, as OpenSearch and Elasticsearch document them: the
# parameters of multi_match, the clauses of bool, and the term-level queries.
MULTI_MATCH = {"query", "fields", "fuzziness", "type", "operator", "minimum_should_match", "boost", "analyzer"}
TYPES = {"best_fields", "most_fields", "cross_fields", "phrase", "phrase_prefix", "bool_prefix"}
BOOL = {"must", "should", "filter", "must_not", "minimum_should_match"}
RANGE = {"gt", "gte", "lt", "lte"}


class BadQuery(Exception):
    """What a server answers with status 400."""


def check(condition, message):
    if not condition:
        raise BadQuery(message)


def as_list(value):
    return value if isinstance(value, list) else [value]


def score(query, source):
    """Check one query clause, and score a document by it; None where it does not match."""
    check(isinstance(query, dict) and len(query) == 1, f"a query must have one key: {query}")
    ((kind, body),) = query.items()
    if kind == "bool":
        check(body and set(body) <= BOOL, f"unknown clause of bool: {body}")
        required = [score(clause, source) for clause in as_list(body.get("must", []))]
        filtered = [score(clause, source) for clause in as_list(body.get("filter", []))]
        optional = [score(clause, source) for clause in as_list(body.get("should", []))]
        excluded = [score(clause, source) for clause in as_list(body.get("must_not", []))]
        fails = None in required or None in filtered or any(part is not None for part in excluded)
        if fails or (optional and not required and all(part is None for part in optional)):
            return None
        return sum(required) + sum(part for part in optional if part is not None)
    if kind == "multi_match":
        check(set(body) <= MULTI_MATCH and isinstance(body.get("query"), str), f"unknown parameter: {body}")
        check(body.get("type", "best_fields") in TYPES, f"unknown type: {body}")
        check(str(body.get("operator", "OR")).upper() in {"AND", "OR"}, f"unknown operator: {body}")
        check(str(body.get("fuzziness", 0)) in {"0", "1", "2", "AUTO"}, f"unknown fuzziness: {body}")
        found = sum(source["content"].replace(",", "").split().count(word) for word in body["query"].split())
        return float(found) if found else None
    check(len(body) == 1, f"{kind} takes one field: {body}")
    ((field, value),) = body.items()
    check(not field.startswith("meta."), f"documents are stored flat, so there is no field {field}")
    if kind == "exists":
        return 0.0 if source.get(value) is not None else None
    if kind in ("term", "match"):
        wanted = value.get("value", value.get("query")) if isinstance(value, dict) else value
        return 0.0 if source.get(field) == wanted else None
    if kind == "terms":
        check(isinstance(value, list), f"terms takes a list: {body}")
        return 0.0 if source.get(field) in value else None
    check(kind == "range", f"unknown query: {kind}")
    check(value and set(value) <= RANGE, f"unknown limit of range: {body}")
    compared = {"gt": "__gt__", "gte": "__ge__", "lt": "__lt__", "lte": "__le__"}
    return 0.0 if all(getattr(source[field], compared[name])(limit) for name, limit in value.items()) else None


class Handler(BaseHTTPRequestHandler):
    """The few requests that a document store makes; all searches are noted in `server.searches`."""

    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", self.headers.get("Accept", "application/json").split(",")[0])
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self):
        self.answer(200, {})

    def do_GET(self):
        if self.path.endswith("/_mapping"):
            return self.answer(200, {"docs": {"mappings": {"properties": {"content": {"type": "text"}}}}})
        return self.answer(200, {"version": {"number": "8.19.0"}, "tagline": "You Know, for Search"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.searches.append((self.path.partition("?")[0], body))
        try:
            check(self.path.partition("?")[0] == "/docs/_search", f"unknown path {self.path}")
            check(set(body) <= {"query", "size", "from", "_source"}, f"unknown key: {body}")
            check(isinstance(body["size"], int) and body["size"] > 0, f"size must be positive: {body}")
            found = [(score(body["query"], source), name) for name, source in CORPUS.items()]
        except BadQuery as error:
            return self.answer(400, {"error": {"type": "parsing_exception", "reason": str(error)}, "status": 400})
        best = sorted(((value, name) for value, name in found if value is not None), reverse=True)
        first = body.get("from", 0)
        hits = [
            {"_id": name, "_score": value, "_source": {"id": name, **CORPUS[name]}}
            for value, name in best[first : first + body["size"]]
        ]
        return self.answer(200, {"hits": {"total": {"value": len(best)}, "hits": hits}})

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.searches = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def url_of(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(params=["opensearch", "elasticsearch"])
def store(request, server):
    module = pytest.importorskip(
        f"haystack_integrations.document_stores.{request.param}",
        reason=f"{request.param}-haystack is not installed, or is for another Haystack",
        exc_type=ImportError,
    )
    name = {"opensearch": "OpenSearchDocumentStore", "elasticsearch": "ElasticsearchDocumentStore"}[request.param]
    return getattr(module, name)(hosts=url_of(server), index="docs")


def test_the_query_goes_to_the_store_s_engine_and_the_scores_are_noted(store, server):
    found = BM25Retriever(store, top_k=7).run("snow hut")["documents"]
    assert [document.id for document in found] == ["hut", "car"]
    assert [document.score for document in found] == [3.0, 1.0]
    engine = {"engine": type(store).__name__.removesuffix("DocumentStore").lower(), "kind": "bm25"}
    assert [document.meta["ce_ranker"]["bm25"] for document in found] == [
        {"score": 3.0, "rank": 1, **engine},
        {"score": 1.0, "rank": 2, **engine},
    ]
    assert found[0].meta["place"] == "alps"
    path, body = server.searches[0]
    assert path == "/docs/_search"
    assert body["size"] == 7
    (clause,) = body["query"]["bool"]["must"]
    assert clause["multi_match"]["query"] == "snow hut"
    assert str(clause["multi_match"]["fuzziness"]) == "0"  # or other words would count as well
    assert "filter" not in body["query"]["bool"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"field": "meta.place", "operator": "==", "value": "city"}, ["car"]),
        ({"field": "meta.place", "operator": "in", "value": ["city", "alps"]}, ["hut", "car"]),
        ({"field": "meta.place", "operator": "!=", "value": "alps"}, ["car"]),
        ({"field": "meta.height", "operator": ">", "value": 100}, ["hut"]),
        (
            {
                "operator": "AND",
                "conditions": [
                    {"field": "meta.height", "operator": ">=", "value": 100},
                    {"field": "meta.height", "operator": "<", "value": 2000},
                ],
            },
            ["car"],
        ),
        (
            {
                "operator": "OR",
                "conditions": [
                    {"field": "meta.place", "operator": "==", "value": "coast"},
                    {"field": "meta.place", "operator": "==", "value": "city"},
                ],
            },
            ["car"],
        ),
        ({"field": "meta.place", "operator": "not in", "value": ["city", "coast"]}, ["hut"]),
        (
            {"operator": "NOT", "conditions": [{"field": "meta.place", "operator": "==", "value": "alps"}]},
            ["car"],
        ),
        (
            {
                "operator": "AND",
                "conditions": [
                    {"field": "meta.height", "operator": ">", "value": 0},
                    {
                        "operator": "OR",
                        "conditions": [
                            {"field": "meta.place", "operator": "==", "value": "coast"},
                            {"field": "meta.place", "operator": "==", "value": "alps"},
                        ],
                    },
                ],
            },
            ["hut"],
        ),
    ],
    ids=repr,
)
def test_filters_go_to_the_engine_beside_the_query(store, server, filters, expected):
    found = BM25Retriever(store, filters=filters).run("snow")["documents"]
    assert [document.id for document in found] == expected
    assert server.searches[0][1]["query"]["bool"]["filter"]


def test_filters_are_merged_or_replaced_before_they_go_out(store, server):
    first = {"field": "meta.height", "operator": ">=", "value": 100}
    second = {"field": "meta.place", "operator": "==", "value": "alps"}
    merged = BM25Retriever(store, filters=first, filter_policy="merge")
    assert [d.id for d in merged.run("snow", filters=second)["documents"]] == ["hut"]
    sent = json.dumps(server.searches[-1][1])
    assert '"height"' in sent
    assert '"place"' in sent
    replaced = BM25Retriever(store, filters=first)
    replaced.run("snow", filters=second)
    assert '"height"' not in json.dumps(server.searches[-1][1])


def test_top_k_and_scale_score_of_the_run_count(store, server):
    retriever = BM25Retriever(store)
    (best,) = retriever.run("snow hut", top_k=1, scale_score=True)["documents"]
    assert server.searches[0][1]["size"] == 1
    assert best.score == pytest.approx(1 / (1 + 2.718281828459045 ** (-3 / 8)))
    assert best.meta["ce_ranker"]["bm25"]["score"] == 3.0


def test_a_blank_query_does_not_go_out(store, server):
    assert BM25Retriever(store).run(" ") == {"documents": []}
    assert server.searches == []


def test_run_async_asks_the_same(store, server):
    pytest.importorskip("aiohttp", reason="the stores' asynchronous clients need aiohttp")
    retriever = BM25Retriever(store)

    async def ask():
        found = (await retriever.run_async("snow hut", top_k=2))["documents"]
        await store.close_async()
        return found

    assert asyncio.run(ask()) == retriever.run("snow hut", top_k=2)["documents"]
    assert server.searches[0] == server.searches[1]


def test_a_batch_asks_once_per_query_and_nothing_is_built_or_read_before(store, server):
    retriever = BM25Retriever(store, top_k=1)
    retriever.warm_up()
    retriever.refresh_index()
    assert server.searches == []
    found = retriever.run_batch(["snow hut", "", "sea"])["documents"]
    assert [[document.id for document in documents] for documents in found] == [["hut"], [], ["sea"]]
    assert [body["query"]["bool"]["must"][0]["multi_match"]["query"] for _, body in server.searches] == [
        "snow hut",
        "sea",
    ]
    assert {body["size"] for _, body in server.searches} == {1}


def test_it_can_be_copied_and_saved(store, server):
    retriever = BM25Retriever(store, native_parameters={"fuzziness": "1"}, engine="native")
    assert [d.id for d in copy.deepcopy(retriever).run("hut")["documents"]] == ["hut"]
    data = retriever.to_dict()
    yaml.safe_dump(data)
    again = BM25Retriever.from_dict(data)
    assert again.to_dict() == data
    assert again._native is not None
    assert str(server.searches[-1][1]["query"]["bool"]["must"][0]["multi_match"]["fuzziness"]) == "1"


def test_the_engine_in_process_is_there_on_request(store):
    assert BM25Retriever(store)._native is not None
    assert BM25Retriever(store, engine="bm25s")._native is None
    with pytest.raises(ValueError, match="does not apply to a store's own engine"):
        BM25Retriever(store, meta_fields_to_index=["place"])


def test_close_closes_the_store_s_client_and_a_later_run_opens_it_again(store, server):
    retriever = BM25Retriever(store)
    retriever.close()
    before = retriever.run("snow hut")
    assert store._client is not None
    for _ in range(2):
        retriever.close()
    assert store._client is None
    assert retriever.run("snow hut") == before


def test_close_async_closes_both_clients(store, server):
    pytest.importorskip("aiohttp", reason="the stores' asynchronous clients need aiohttp")
    retriever = BM25Retriever(store)
    retriever.run("hut")

    async def run_and_close():
        await retriever.run_async("hut")
        assert store._async_client is not None
        await retriever.close_async()

    asyncio.run(run_and_close())
    assert store._client is None
    assert store._async_client is None
    assert len(server.searches) == 2


@pytest.mark.parametrize("score", ["bm25", "other_rank"])
def test_another_engine_is_a_line_in_the_table(monkeypatch, score):
    class Engine:
        def __init__(self, document_store, boost=1.0):
            self.boost = boost

        def run(self, query, filters, top_k):
            return {"documents": [Document(content=query, score=self.boost) for _ in range(top_k)]}

    class Store:
        def to_dict(self):
            return {"type": "Store", "init_parameters": {}}

    integration = types.ModuleType("some_integration")
    integration.Engine = Engine
    monkeypatch.setitem(sys.modules, "some_integration", integration)
    name = f"{Store.__module__}.{Store.__qualname__}"
    assert not native.has_engine(Store())
    monkeypatch.setitem(native.ENGINES, name, native.Engine("some", "some_integration.Engine", score))
    assert (BM25Retriever(Store())._native is not None) == (score == "bm25")  # unasked only where it is BM25
    found = BM25Retriever(Store(), engine="native", top_k=2, native_parameters={"boost": 3.0}).run("hut")["documents"]
    stage = "bm25" if score == "bm25" else "keyword"
    assert [document.meta["ce_ranker"] for document in found] == [
        {stage: {"score": 3.0, "rank": rank, "engine": "some", "kind": score}} for rank in (1, 2)
    ]


def test_an_error_of_the_server_is_not_swallowed(store, server):
    with pytest.raises(Exception, match=r"(?i)unknown fuzziness|parsing_exception"):
        BM25Retriever(store, native_parameters={"fuzziness": "9"}).run("snow")


def test_the_opensearch_example_differs_from_the_pipeline_in_the_store_alone():
    example = yaml.safe_load((EXAMPLES / "opensearch.yaml").read_text(encoding="utf-8"))
    plain = yaml.safe_load((EXAMPLES / "pipeline.yaml").read_text(encoding="utf-8"))
    theirs = example["components"]["bm25_retriever"]["init_parameters"].pop("document_store")
    mine = plain["components"]["bm25_retriever"]["init_parameters"].pop("document_store")
    assert example == plain
    assert theirs["type"].endswith(".OpenSearchDocumentStore")
    assert mine["type"].endswith(".InMemoryDocumentStore")


def test_the_opensearch_example_loads_and_asks(server, monkeypatch):
    pytest.importorskip(
        "haystack_integrations.document_stores.opensearch",
        reason="opensearch-haystack is missing, or is for another Haystack",
        exc_type=ImportError,
    )
    text = (EXAMPLES / "opensearch.yaml").read_text(encoding="utf-8")
    text = text.replace("http://localhost:9200", url_of(server)).replace("index: ce-ranker-example", "index: docs")
    retriever = Pipeline.loads(text).get_component("bm25_retriever")
    assert [document.id for document in retriever.run("snow")["documents"]] == ["hut", "car"]
    assert server.searches[0][1]["size"] == 50


def test_the_compose_file_serves_what_the_example_asks_on_this_machine_alone():
    services = yaml.safe_load((EXAMPLES / "docker-compose.opensearch.yaml").read_text(encoding="utf-8"))["services"]
    example = yaml.safe_load((EXAMPLES / "opensearch.yaml").read_text(encoding="utf-8"))
    store = example["components"]["bm25_retriever"]["init_parameters"]["document_store"]["init_parameters"]
    (service,) = services.values()
    assert service["ports"] == ["127.0.0.1:9200:9200"]
    assert store["hosts"] == "http://localhost:9200"
