"""
What BM25Retriever promises holds over every document store that can be had, and is the same as over the in-memory one.

Stores differ in what they take and in what a filter means to them. What each does is noted, and the manual's page
(docs/stores.md) must have it; `matrix.py` makes that page.
"""

import asyncio
import inspect
import logging
import sys
from dataclasses import replace

import pytest
from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy

from fakes import random_texts
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever
from stores import matrix
from stores.kinds import DIMENSIONS, KINDS, Place, Stores, write

COUNT, PASSING = 10_500, 10_400
QUERIES = ("w1 w7", "w2 w3 w50", "w12", "w1 w1 w9 w30 w31", "absent")
TEXTS = random_texts(120, words=60)


def document(i: int) -> Document:
    """A document with meta of each type that a JSON has; some of it only in some documents."""
    meta = {
        "kind": "even" if i % 2 == 0 else "odd",
        "number": i,
        "share": i / 8,
        "flag": i % 3 == 0,
        "when": f"20{i % 30 + 10}-01-02T00:00:00+00:00",
        "deep": {"part": i % 4},
    }
    if i % 5 == 0:
        meta["note"] = "short" if i % 2 == 0 else "long"
    return Document(id=f"d{i}", content=TEXTS[i], meta=meta, embedding=[1.0, i / 8, 0.5])


DOCUMENTS = [document(i) for i in range(len(TEXTS))]


def on(field: str, operator: str, value: object) -> dict:
    return {"field": field, "operator": operator, "value": value}


def both(operator: str, *conditions: dict) -> dict:
    return {"operator": operator, "conditions": list(conditions)}


EVEN, LOW, FEW = on("meta.kind", "==", "even"), on("meta.number", "<", 40), on("meta.share", "<=", 3.5)
FILTERS = {
    "`==`, text": EVEN,
    "`==`, whole number": on("meta.number", "==", 7),
    "`==`, fraction": on("meta.share", "==", 1.375),
    "`==`, truth value": on("meta.flag", "==", True),
    "`==`, None": on("meta.note", "==", None),
    "`!=`": on("meta.kind", "!=", "even"),
    "`!=`, a field that some lack": on("meta.note", "!=", "short"),
    "`>`": on("meta.number", ">", 40),
    "`>=`": on("meta.number", ">=", 40),
    "`<`": LOW,
    "`<=`, fraction": FEW,
    "`>`, time": on("meta.when", ">", "2024-06-01T00:00:00+00:00"),
    "`in`": on("meta.number", "in", [3, 4, 700]),
    "`not in`": on("meta.kind", "not in", ["even"]),
    "`not in`, a field that some lack": on("meta.note", "not in", ["short"]),
    "`AND`": both("AND", EVEN, LOW),
    "`OR`": both("OR", EVEN, LOW),
    "`NOT`, one condition": both("NOT", EVEN),
    "`NOT`, two conditions": both("NOT", EVEN, LOW),
    "`AND` of `OR`": both("AND", both("OR", EVEN, LOW), FEW),
    "a field in a field": on("meta.deep.part", "==", 1),
    "the id": on("id", "in", ["d3", "d4"]),
}
ALL = "w1 w2 w3 w4 w5 w6 w7 w8 w9"


@pytest.fixture(scope="module", params=KINDS)
def stores(request, tmp_path_factory):
    """Makes stores of one kind."""
    with pytest.MonkeyPatch.context() as patch:
        place = Place(request.getfixturevalue, tmp_path_factory.mktemp(request.param), patch.setenv)
        made = Stores(request.param, place)
        try:
            yield made
        finally:
            made.remove()


@pytest.fixture(scope="module")
def filled(stores):
    """A store with `DOCUMENTS`, which no test changes."""
    return stores.new(DOCUMENTS)


@pytest.fixture(scope="module")
def reference():
    """The in-memory store with the same."""
    store = InMemoryDocumentStore()
    store.write_documents(DOCUMENTS)
    return store


def retriever(store, **parameters):
    return BM25Retriever(store, **{"engine": "bm25s", "refresh": "manual", **parameters})


def ids(found):
    return [one.id for one in (found["documents"] if isinstance(found, dict) else found)]


def scores(found):
    return {one.id: one.score for one in found["documents"]}


def hybrid(store, model):
    """A pipeline of the three components."""
    pipeline = Pipeline()
    pipeline.add_component("bm25", retriever(store))
    pipeline.add_component("ranker", CrossEncoderRanker(model=model))
    pipeline.add_component("joiner", HybridScoreJoiner(weights={"cross_encoder": 0.7, "bm25": 0.3}))
    pipeline.connect("bm25.documents", "ranker.documents")
    pipeline.connect("bm25.documents", "joiner.bm25")
    pipeline.connect("ranker.documents", "joiner.cross_encoder")
    return pipeline


def joined(pipeline, query):
    return pipeline.run({"bm25": {"query": query, "top_k": 20}, "ranker": {"query": query}})["joiner"]["documents"]


# Searching


def test_rankings_and_scores_are_those_over_the_in_memory_store(stores, filled, reference):
    mine, theirs = retriever(filled), retriever(reference)
    for query in QUERIES:
        found, expected = mine.run(query, top_k=10)["documents"], theirs.run(query, top_k=10)["documents"]
        assert [one.score for one in found] == [one.score for one in expected]  # equal ones in the store's order
        assert scores(mine.run(query, top_k=1000)) == scores(theirs.run(query, top_k=1000))
        assert [one.meta["ce_ranker"]["bm25"]["rank"] for one in found] == list(range(1, len(found) + 1))
        assert [one.content for one in found] == [TEXTS[int(one.id[1:])] for one in found]
    assert len(mine.run(ALL, top_k=1000)["documents"]) > 100
    embeddings = {one.embedding is None for one in mine.run(ALL)["documents"]}
    assert len(embeddings) == 1
    matrix.note(stores, "ranking", "as in memory")
    matrix.note(stores, "embedding", "no" if embeddings.pop() else "yes")


@pytest.mark.parametrize("top_k", [1, 119, 120, 121, 100_000])
def test_top_k_may_be_above_what_the_store_holds(stores, filled, reference, top_k):
    found = retriever(filled).run(ALL, top_k=top_k)["documents"]
    assert len(found) == min(top_k, len(retriever(reference).run(ALL, top_k=1000)["documents"]))
    matrix.note(stores, "top_k", "all that match")


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_passes_what_the_store_says_it_passes(stores, filled, reference, name):
    asked, mine = FILTERS[name], retriever(filled)
    try:
        theirs = set(ids(filled.filter_documents(asked)))
    except Exception as refused:
        with pytest.raises(type(refused)):
            mine.run(ALL, filters=asked)
        assert ids(mine.run("w12"))
        matrix.note(stores, name, "refused")
        return
    everything = scores(mine.run(ALL, top_k=1000))
    expected = {one: score for one, score in everything.items() if one in theirs}
    assert scores(mine.run(ALL, filters=asked, top_k=1000)) == expected
    in_memory = set(ids(reference.filter_documents(asked)))
    matrix.note(stores, name, "yes" if theirs == in_memory else difference(theirs, in_memory))


def difference(found, expected):
    """Say in which documents a filter differs from the in-memory store's."""
    without = {one.id for one in DOCUMENTS if "note" not in one.meta}
    if not found:
        return "finds nothing"
    return "not where it is absent" if found == expected - without else f"{len(found)} for {len(expected)}"


def test_many_asynchronous_requests_at_once_get_each_its_own(stores, filled, monkeypatch):
    mine = retriever(filled)
    words = sorted({word for text in TEXTS for word in text.split()})
    expected = {word: scores(mine.run(word)) for word in words}
    filtered = scores(mine.run("w1", filters=EVEN))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    async def requests():
        return await asyncio.gather(
            *(mine.run_async(word) for word in words), *(mine.run_async("w1", filters=EVEN) for _ in range(5))
        )

    try:
        found = asyncio.run(requests())
    finally:
        sys.setswitchinterval(before)
    assert [scores(one) for one in found] == [*(expected[word] for word in words), *[filtered] * 5]
    matrix.note(stores, "async", "each its own")


def test_all_of_10500_documents_are_searched_and_filtered(stores):
    many = [
        Document(id=f"m{i}", content=f"word{i} common", meta={"early": i < PASSING}, embedding=[1.0, float(i), 1.0])
        for i in range(COUNT)
    ]
    store = stores.new()
    stores.kind.fill(store, many)
    assert store.count_documents() == COUNT
    mine, last = retriever(store), f"word{COUNT - 1}"
    early = on("meta.early", "==", True)
    assert ids(mine.run(last)) == [f"m{COUNT - 1}"]
    assert len(mine.run("common", top_k=2 * COUNT)["documents"]) == COUNT
    assert len(mine.run("common", top_k=2 * COUNT, filters=early)["documents"]) == PASSING
    assert ids(mine.run(last, filters=early)) == []
    assert ids(mine.run(f"word{PASSING - 1}", filters=early)) == [f"m{PASSING - 1}"]
    matrix.note(stores, "many", "all")
    matrix.note(stores, "listing", f"{len(store.filter_documents()):,}")


# Writing


def test_the_same_id_is_written_again_as_the_store_does_it_and_over_the_first_where_asked(stores):
    store, new = stores.new(DOCUMENTS[:5]), replace(DOCUMENTS[0], content="zebra")
    mine = retriever(store)
    assert ids(mine.run("zebra")) == []
    try:
        store.write_documents([new])
        matrix.note(stores, "duplicate", {5: "written over", 6: "kept twice"}[store.count_documents()])
    except Exception:
        matrix.note(stores, "duplicate", "refused")
        assert store.count_documents() == 5
    mine.refresh_index()
    assert ids(mine.run("zebra")) == ([] if matrix.found(stores, "duplicate") == "refused" else ["d0"])
    store = stores.new(DOCUMENTS[:5])
    assert store.write_documents([new], DuplicatePolicy.OVERWRITE) == 1
    assert store.count_documents() == 5
    assert ids(retriever(store).run("zebra")) == ["d0"]


@pytest.mark.parametrize("refresh", ["auto", "every_run", "manual"])
def test_what_is_written_changed_or_deleted_is_seen_when_refresh_says(stores, refresh):
    store = stores.new(DOCUMENTS[:20])
    mine = retriever(store, refresh=refresh, refresh_seconds=0)
    mine.warm_up()
    at_once = refresh == "every_run" or (refresh == "auto" and stores.name == "in_memory")

    def then(query, expected, before):
        """See the change at once, or only after the store was read again."""
        assert ids(mine.run(query)) == (expected if at_once else before)
        read_again()
        assert ids(mine.run(query)) == expected
        read_again()

    def read_again():
        if refresh == "manual":
            mine.refresh_index()
        elif refresh == "auto" and not at_once:
            mine._index._background._thread.join()

    write(store, [Document(id="new", content="zebra", embedding=[1.0] * DIMENSIONS)])
    then("zebra", ["new"], [])
    write(store, [Document(id="new", content="giraffe", embedding=[1.0] * DIMENSIONS)])
    then("giraffe", ["new"], [])
    then("zebra", [], [])
    store.delete_documents(["new"])
    # Of a store that is asked by id, a document that it lost is left out at once.
    then("giraffe", [], ["new"] if mine._index._probe.fetch is None else [])
    if refresh == "auto":
        matrix.note(stores, "refresh", "by the next run" if at_once else "after the next reading")
    mine.close()


def test_a_document_without_content_is_never_found_and_in_nobodys_way(stores):
    store = stores.new(DOCUMENTS[:20])
    before = scores(retriever(store).run(ALL))
    bare = Document(id="bare", content=None, embedding=[1.0] * DIMENSIONS)
    try:
        store.write_documents([bare])
        listed = {one.id: one.content for one in store.filter_documents()}
        matrix.note(stores, "no_content", {None: "kept", "": "kept as an empty text"}[listed.get("bare", "")])
        if "bare" not in listed:
            matrix.note(stores, "no_content", "left out, with a warning")
    except Exception:
        matrix.note(stores, "no_content", "refused")
    after = scores(retriever(store).run(ALL))
    assert after.keys() == before.keys()
    if matrix.found(stores, "no_content") != "kept as an empty text":  # which counts in the mean length
        assert after == before


def test_a_document_without_an_embedding_is_found(stores):
    store = stores.new()
    write(store, [DOCUMENTS[0], Document(id="plain", content="zebra")])
    (found,) = retriever(store).run("zebra")["documents"]
    (listed,) = [one for one in store.filter_documents() if one.id == "plain"]
    assert found.id == "plain"
    matrix.note(stores, "no_embedding", "kept, with one that the store makes" if listed.embedding else "kept")


# In a pipeline


def test_join_and_ranker_behind_it_are_as_in_memory_and_results_can_be_written_back(
    stores, reference, tiny_bert, caplog
):
    store, query = stores.new(DOCUMENTS), "w1 w7 w12"
    pipeline = hybrid(store, tiny_bert)
    found, expected = joined(pipeline, query), joined(hybrid(reference, tiny_bert), query)
    assert {one.id: one.score for one in found} == pytest.approx({one.id: one.score for one in expected}, abs=1e-4)
    assert len(found) == 20
    assert set(found[0].meta["ce_ranker"]) == {"bm25", "cross_encoder", "hybrid"}
    matrix.note(stores, "hybrid", "as in memory")

    with caplog.at_level(logging.WARNING):
        write(store, found)
    kept = {one.id: one.meta for one in store.filter_documents()}
    lost = {name for one in found for name in one.meta if kept[one.id].get(name) != one.meta[name]}
    said = " ".join(record.getMessage() for record in caplog.records)
    assert all(name in said for name in lost), (lost, said)
    matrix.note(stores, "written_back", "dropped, with a warning" if "ce_ranker" in lost else "kept")
    pipeline.get_component("bm25").refresh_index()
    again = joined(pipeline, query)
    assert {one.id: one.score for one in again} == pytest.approx({one.id: one.score for one in found}, abs=1e-6)
    (other,) = joined(hybrid(store, tiny_bert), "w59 w58")[:1]
    assert {*other.meta["ce_ranker"]} == {"bm25", "cross_encoder", "hybrid"}
    assert other.meta["ce_ranker"]["hybrid"]["rank"] == 1


def test_a_pipeline_comes_back_from_yaml(stores, tiny_bert):
    store = stores.new(DOCUMENTS[:30])
    pipeline = hybrid(store, tiny_bert)
    expected = joined(pipeline, "w1 w7")
    text = pipeline.dumps()
    knows_trust = "allowed_modules" in inspect.signature(Pipeline.loads).parameters
    loaded = Pipeline.loads(text, **({"allowed_modules": [*stores.kind.modules]} if knows_trust else {}))
    loaded_store = loaded.get_component("bm25").document_store
    assert type(loaded_store) is type(store)
    assert loaded.dumps() == text
    held = loaded_store.count_documents()
    assert held in (0, 30)
    trusted = f" (`allowed_modules`: {', '.join(stores.kind.modules)})" if stores.kind.modules else ""
    matrix.note(stores, "yaml", f"{'the same documents' if held else 'an empty store'}{trusted}")
    if not held:
        write(loaded_store, DOCUMENTS[:30])
    found = joined(loaded, "w1 w7")
    assert {one.id: one.score for one in found} == pytest.approx({one.id: one.score for one in expected}, abs=1e-6)


def test_after_close_the_next_run_reads_the_store_anew(stores):
    store = stores.new(DOCUMENTS[:30])
    mine = retriever(store)
    expected = scores(mine.run("w1 w7"))
    mine.close()
    found = scores(mine.run("w1 w7"))
    assert found in (expected, {})
    matrix.note(stores, "close", "the same documents" if found else "an empty store")


def test_the_manuals_page_is_what_this_run_found():
    matrix.compare([*FILTERS])
