"""BM25Retriever: what comes back, freshness, filters, persistence, concurrency, and agreement with Haystack's BM25."""

import asyncio
import copy
import itertools
import logging
import math
import os
import shutil
import threading
import unicodedata
import weakref
from dataclasses import replace
from datetime import UTC, date, datetime

import haystack.version
import numpy as np
import pytest
from haystack import Document, Pipeline, SuperComponent
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.errors import FilterError
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_stores import PlainStore
from haystack_ce_ranker.bm25.analysis import DEFAULT_TOKENIZATION_REGEX
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.bm25.scoring import Scoring
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever, bm25_retriever, freshness

OVERWRITE = DuplicatePolicy.OVERWRITE
CONTENTS = {
    "brakes": "The brakes of the car need snow chains",
    "car": "A car in the snow",
    "hut": "The mountain hut is closed",
    "snow": "Snow, snow and more snow",
    "empty": "",
    "none": None,
}


def store_of(contents=CONTENTS, **metas):
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(id=name, content=text, meta=metas.get(name, {})) for name, text in contents.items()]
    )
    return store


def ids(result):
    return [document.id for document in result["documents"]]


# What comes back


def test_documents_come_back_with_score_and_record():
    store = store_of(snow={"ce_ranker": {"other": {"score": 1.0}}, "tags": ["x"]})
    found = BM25Retriever(store).run("snow")["documents"]
    assert [document.id for document in found] == ["snow", "car", "brakes"]
    assert [document.meta["ce_ranker"]["bm25"]["rank"] for document in found] == [1, 2, 3]
    for document in found:
        assert type(document.score) is float
        assert document.meta["ce_ranker"]["bm25"] == {
            "score": document.score,
            "rank": document.meta["ce_ranker"]["bm25"]["rank"],
        }
        assert document.content == CONTENTS[document.id]
    assert found[0].meta["ce_ranker"]["other"] == {"score": 1.0}
    assert found[0].meta["tags"] == ["x"]


def test_the_store_s_documents_are_not_changed():
    store = store_of(car={"a": 1})
    before = copy.deepcopy(store.filter_documents())
    BM25Retriever(store).run("car snow", filters={"field": "meta.a", "operator": "==", "value": 1})
    assert store.filter_documents() == before


def test_embeddings_are_returned_if_the_store_returns_them():
    for returned in (True, False):
        store = InMemoryDocumentStore(return_embedding=returned)
        store.write_documents([Document(content="car", embedding=[1.0, 2.0])])
        assert BM25Retriever(store).run("car")["documents"][0].embedding == ([1.0, 2.0] if returned else None)


def test_scaled_scores_are_haystacks_and_the_record_keeps_the_raw_one():
    retriever = BM25Retriever(store_of(), scale_score=True)
    scaled, raw = retriever.run("snow")["documents"], retriever.run("snow", scale_score=False)["documents"]
    for one, other in zip(scaled, raw, strict=True):
        assert one.score == pytest.approx(1 / (1 + math.exp(-other.score / 8)))
        assert one.meta["ce_ranker"]["bm25"]["score"] == other.score


def test_nothing_is_found_for_unknown_words_and_blanks():
    retriever = BM25Retriever(store_of())
    for query in ("zebra", "what is the zebra", "", " \n", "?!"):
        assert retriever.run(query) == {"documents": []}


def test_stop_words_are_found_where_there_is_no_language():
    assert ids(BM25Retriever(store_of(), language=None).run("the")) == ["brakes", "car", "hut"]


def test_documents_without_content_are_no_part_of_the_collection():
    assert "none" not in ids(BM25Retriever(store_of()).run("snow car hut brakes none"))
    assert BM25Retriever(store_of({"a": None, "b": ""})).run("none") == {"documents": []}
    with_none = BM25Retriever(store_of()).run("snow")["documents"]
    without = BM25Retriever(store_of({name: text for name, text in CONTENTS.items() if text is not None})).run("snow")
    assert [document.score for document in with_none] == [document.score for document in without["documents"]]


def test_a_megabyte_of_content_and_a_top_k_beyond_the_collection():
    store = store_of({"large": "snow car " * 120_000, "small": "car"})
    assert ids(BM25Retriever(store, top_k=1000).run("car")) == ["large", "small"]


def test_top_k_bounds_the_result():
    retriever = BM25Retriever(store_of(), top_k=2)
    assert len(ids(retriever.run("snow"))) == 2
    assert len(ids(retriever.run("snow", top_k=1))) == 1
    assert len(ids(retriever.run("snow", top_k=9))) == 3


def test_equal_scores_keep_the_order_of_the_store():
    store = store_of({str(i): "same words" for i in range(500)})
    retriever = BM25Retriever(store, top_k=500)
    assert ids(retriever.run("words")) == [str(i) for i in range(500)]
    store.write_documents([Document(id="3", content="same words")], OVERWRITE)  # goes to the end of the store
    assert ids(retriever.run("words")) == [document.id for document in store.filter_documents()]


def test_indexed_meta_fields_are_searched_like_content():
    store = store_of(hut={"title": "Refuge", "tags": ["alps", "summer"]}, none={"title": "Only a title"})
    retriever = BM25Retriever(store, meta_fields_to_index=["title", "tags", "missing"])
    assert ids(retriever.run("alps")) == ["hut"]
    assert ids(retriever.run("titles")) == ["none"]
    assert ids(BM25Retriever(store).run("alps")) == []


@pytest.mark.parametrize(("language", "query"), [("german", "Häusern"), ("french", "maisons"), ("russian", "домами")])
def test_other_languages_are_stemmed(language, query):
    store = store_of({"german": "das Haus und der Baum", "french": "la maison", "russian": "дома"})
    assert ids(BM25Retriever(store, language=language).run(query)) == [language]
    assert ids(BM25Retriever(store, language=None).run(query)) == []


def test_chinese_is_found_by_a_part_of_a_word():
    store = store_of({"north": "北京大学在中国", "tower": "東京タワー"})
    assert ids(BM25Retriever(store, language=None).run("大学")) == ["north"]
    assert ids(BM25Retriever(store, language=None).run("京")) == ["tower", "north"]


def test_a_word_may_look_as_one_says():
    store = store_of({"part": "spare part AB-12", "other": "AB 12, spare"})
    retriever = BM25Retriever(store, language=None, tokenization_regex=r"[a-z]+-\d+|\w+")
    assert ids(retriever.run("ab-12")) == ["part"]
    assert sorted(ids(BM25Retriever(store, language=None).run("ab-12"))) == ["other", "part"]


def test_content_and_query_of_another_normal_form_and_case_are_found():
    store = store_of({"d": unicodedata.normalize("NFD", "Überblick über Zürich"), "c": "Zurich"})
    for form in ("NFC", "NFD", "NFKD"):
        assert ids(BM25Retriever(store, language=None).run(unicodedata.normalize(form, "ZÜRICH"))) == ["d"]


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire", "bm25l", "bm25plus"])
def test_every_variant_scores_as_its_index_does(method):
    delta = 0.7 if method.startswith("bm25") else None
    retriever = BM25Retriever(store_of(), method=method, k1=0.9, b=0.4, delta=delta)
    found = retriever.run("snow car")["documents"]
    texts = [text for text in CONTENTS.values() if text is not None]
    hits = BM25Index.build(texts, scoring=Scoring(method, 0.9, 0.4, delta)).search("snow car")
    assert [document.content for document in found] == [texts[position] for position in hits.positions]
    assert [document.score for document in found] == hits.scores.tolist()


def test_a_filter_never_takes_places_from_those_it_lets_through():
    documents = [Document(id=f"{i}", content="car " * (9 - i // 20), meta={"in": i % 20 == 19}) for i in range(180)]
    store = InMemoryDocumentStore()
    store.write_documents(documents)
    passing = comparison("meta.in", "==", True)
    for refresh in ("auto", "manual", "every_run"):
        retriever = BM25Retriever(store, top_k=9, refresh=refresh)
        for top_k in (1, 5, 9):
            found = retriever.run("car", filters=passing, top_k=top_k)["documents"]
            assert len(found) == top_k
            assert all(document.meta["in"] for document in found)


def test_a_batch_is_many_runs():
    retriever = BM25Retriever(store_of(), top_k=2, scale_score=True)
    queries = ["snow", "", "car hut", "zebra"]
    assert retriever.run_batch(queries)["documents"] == [retriever.run(query)["documents"] for query in queries]
    filters = {"field": "id", "operator": "!=", "value": "snow"}
    assert [[d.id for d in found] for found in retriever.run_batch(["snow"], filters)["documents"]] == [
        ["car", "brakes"]
    ]


# As a component


def test_it_serialises_to_plain_values_and_back():
    retriever = BM25Retriever(
        store_of(),
        filters={"field": "meta.a", "operator": "==", "value": 1},
        filter_policy="merge",
        top_k=7,
        scale_score=True,
        language="german",
        tokenization_regex="[a-z]+",
        method="bm25plus",
        k1=1.0,
        b=0.5,
        delta=0.7,
        meta_fields_to_index=["title"],
        index_path="somewhere",
        refresh="manual",
        refresh_seconds=5,
        engine="bm25s",
    )
    data = retriever.to_dict()
    before = copy.deepcopy(data)
    again = BM25Retriever.from_dict(data)
    assert data == before
    assert again.to_dict() == data
    assert again.filter_policy is FilterPolicy.MERGE
    assert data["init_parameters"]["filter_policy"] == "merge"


def test_it_survives_yaml_in_a_pipeline_and_in_a_super_component():
    store = store_of()
    pipeline = Pipeline()
    pipeline.add_component("retriever", BM25Retriever(store, top_k=1))
    loaded = Pipeline.loads(pipeline.dumps())
    assert loaded.dumps() == pipeline.dumps()
    assert ids(loaded.run({"retriever": {"query": "huts"}})["retriever"]) == ["hut"]  # the store is shared by its index
    assert ids(SuperComponent(pipeline).run(query="huts")) == ["hut"]


def test_a_copy_reads_the_same_store():
    store = store_of()
    retriever = BM25Retriever(store)
    retriever.warm_up()
    clone = copy.deepcopy(retriever)
    assert clone.document_store is store
    assert clone._index._lock is not retriever._index._lock
    store.delete_documents(["snow"])
    assert ids(clone.run("snow")) == ids(retriever.run("snow")) == ["car", "brakes"]


def test_making_one_reads_nothing_and_warm_up_builds_once(monkeypatch):
    store = PlainStore([Document(id="a", content="car")])
    retriever = BM25Retriever(store, refresh="manual")
    assert store.readings == 0
    for _ in range(3):
        retriever.warm_up()
    assert store.readings == 1
    assert ids(retriever.run("car")) == ["a"]
    assert store.readings == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 0}, "top_k must be a whole number >= 1, but got 0"),
        ({"top_k": -3}, "but got -3"),
        ({"top_k": 2.5}, "but got 2.5"),
        ({"top_k": True}, "but got True"),
        ({"language": "klingon"}, "language must be None or one of"),
        ({"method": "bm26"}, "method must be one of 'lucene'"),
        ({"b": 2}, "b must be a finite number >= 0 and <= 1, but got 2"),
        ({"refresh": "sometimes"}, "refresh must be one of 'auto', 'every_run', 'manual', but got 'sometimes'"),
        ({"refresh_seconds": -1}, "refresh_seconds must be a finite number >= 0, but got -1"),
        ({"engine": "lucene"}, "engine must be one of 'auto', 'bm25s', 'native', but got 'lucene'"),
        ({"engine": "native"}, "needs a store with a keyword engine .*OpenSearch.*InMemoryDocumentStore"),
        ({"native_parameters": {}}, "native_parameters needs a store with its own engine.*but got {}: omit it"),
        ({"meta_fields_to_index": "title"}, "must be a list of names or None, but got 'title'"),
        ({"filter_policy": "and"}, "and"),
    ],
)
def test_bad_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BM25Retriever(InMemoryDocumentStore(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "x", "top_k": 0}, "top_k must be a whole number >= 1, but got 0"),
        ({"query": None}, "query must be a text, but got None"),
        ({"query": ["x"]}, r"query must be a text, but got \['x'\]"),
    ],
)
def test_bad_arguments_of_run_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BM25Retriever(store_of()).run(**arguments)


def test_numpy_s_numbers_are_taken_and_become_plain():
    numbers = {"top_k": np.int64(2), "k1": np.float32(0.5), "b": np.float64(0.25), "delta": np.int32(1)}
    retriever = BM25Retriever(store_of(), method="bm25l", scale_score=np.bool_(True), **numbers)
    plain = BM25Retriever(store_of(), method="bm25l", scale_score=True, top_k=2, k1=0.5, b=0.25, delta=1)
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever)
    parameters = Pipeline.loads(pipeline.dumps()).get_component("retriever").to_dict()["init_parameters"]
    written = plain.to_dict()["init_parameters"]
    for name in (*numbers, "scale_score"):
        assert parameters[name] == written[name]
        assert type(getattr(retriever, name)) in (int, float, bool)
    assert retriever.run("snow", top_k=np.int64(1)) == plain.run("snow", top_k=1)
    assert len(ids(retriever.run("snow"))) == 2


def test_run_async_gives_what_run_gives_also_many_at_once():
    retriever = BM25Retriever(store_of())
    queries = ["snow", "car", "hut", "brakes"] * 10

    async def all_of_them():
        return await asyncio.gather(*(retriever.run_async(query, top_k=2) for query in queries))

    assert asyncio.run(all_of_them()) == [retriever.run(query, top_k=2) for query in queries]


def test_an_asynchronous_pipeline_runs_it():
    async_pipeline = getattr(haystack, "AsyncPipeline", Pipeline)  # from Haystack 3 on one class does both
    pipeline = async_pipeline()
    pipeline.add_component("retriever", BM25Retriever(store_of()))
    result = asyncio.run(pipeline.run_async({"retriever": {"query": "snow", "top_k": 2}}))
    assert ids(result["retriever"]) == ["snow", "car"]


# Lifecycle

both_ways = pytest.mark.parametrize("asynchronous", [False, True])
with_lifecycle = pytest.mark.skipif(not hasattr(Pipeline, "close"), reason="this Haystack's pipelines close nothing")


class ClosableStore(PlainStore):
    """A store with clients, which counts how often each was closed and notes the thread that reads it."""

    def __init__(self, documents=()):
        super().__init__(documents)
        self.closed, self.closed_async, self.readers = 0, 0, set()

    def filter_documents(self, filters=None):
        self.readers.add(threading.get_ident())
        return super().filter_documents(filters)

    def close(self):
        self.closed += 1

    async def close_async(self):
        self.closed_async += 1


def close(closable, asynchronous):
    if asynchronous:
        asyncio.run(closable.close_async())
    else:
        closable.close()


@both_ways
def test_close_releases_the_index_and_a_later_run_builds_it_again(asynchronous):
    retriever = BM25Retriever(store_of())
    before = retriever.run("snow")
    held = weakref.ref(retriever._index._indexed.bm25)
    assert held() is not None
    for _ in range(2):
        close(retriever, asynchronous)
    assert held() is None
    assert retriever.run("snow") == before
    assert retriever._index.is_built


@both_ways
def test_close_may_come_before_anything_else(asynchronous):
    store = ClosableStore([Document(id="a", content="car")])
    retriever = BM25Retriever(store, refresh="manual")
    close(retriever, asynchronous)
    assert store.readings == 0
    retriever.warm_up()
    assert ids(retriever.run("car")) == ["a"]


def test_close_closes_the_store_s_clients_of_the_same_kind():
    store = ClosableStore()
    BM25Retriever(store).close()
    assert (store.closed, store.closed_async) == (1, 0)
    asyncio.run(BM25Retriever(store).close_async())  # its searches run in threads, so both clients may be open
    assert (store.closed, store.closed_async) == (2, 1)


def test_a_copy_keeps_its_index_when_the_other_is_closed():
    retriever = BM25Retriever(store_of())
    retriever.warm_up()
    clone = copy.deepcopy(retriever)
    retriever.close()
    assert clone._index.is_built
    assert ids(clone.run("hut")) == ["hut"]


def test_after_close_a_kept_index_is_opened_and_not_built(tmp_path, monkeypatch):
    retriever = BM25Retriever(store_of(), index_path=str(tmp_path))
    before = retriever.run("snow")
    retriever.close()
    monkeypatch.setattr(BM25Index, "build", None)
    assert retriever.run("snow") == before


def test_searches_in_other_threads_do_not_notice_a_close():
    retriever = BM25Retriever(store_of())
    queries = ["snow", "car", "hut"]
    filters = comparison("meta.place", "==", None)
    expected = [retriever.run(query, filters=filters) for query in queries]
    wrong = []

    def search():
        for _ in range(60):
            try:
                found = [retriever.run(query, filters=filters) for query in queries]
            except Exception as error:
                found = error
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        retriever.close()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_warm_up_async_builds_once_and_not_on_the_event_loop():
    store = ClosableStore([Document(id="a", content="car")])
    retriever = BM25Retriever(store, refresh="manual")

    async def twice():
        await retriever.warm_up_async()
        await retriever.warm_up_async()

    asyncio.run(twice())
    assert store.readings == 1
    assert threading.get_ident() not in store.readers
    assert retriever._index.is_built


def test_a_pipeline_that_warms_up_at_every_run_does_not_ask_the_store_for_it_again():
    store = PlainStore([Document(id="a", content="car")])
    pipeline = Pipeline()
    pipeline.add_component("retriever", BM25Retriever(store, refresh="every_run"))
    for _ in range(3):
        assert ids(pipeline.run({"retriever": {"query": "car"}})["retriever"]) == ["a"]
    assert store.readings == 1 + 3  # to warm up, and in each run, as `refresh` says


@with_lifecycle
@both_ways
def test_a_pipeline_warms_it_up_closes_it_and_runs_it_again(asynchronous):
    store = ClosableStore([Document(id="a", content="car"), Document(id="b", content="hut")])
    retriever = BM25Retriever(store, refresh="manual")
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever)
    data = {"retriever": {"query": "car"}}

    async def run_twice():
        found = []
        for _ in range(2):
            await pipeline.warm_up_async()
            assert retriever._index.is_built
            found.append(await pipeline.run_async(data))
            await pipeline.close_async()
            assert not retriever._index.is_built
        return found

    def run_twice_in_turn():
        found = []
        for _ in range(2):
            pipeline.warm_up()
            assert retriever._index.is_built
            found.append(pipeline.run(data))
            pipeline.close()
            assert not retriever._index.is_built
        return found

    results = asyncio.run(run_twice()) if asynchronous else run_twice_in_turn()
    assert [ids(result["retriever"]) for result in results] == [["a"], ["a"]]
    assert (store.closed, store.closed_async) == ((2, 2) if asynchronous else (2, 0))
    assert store.readings == 2


# Freshness


def test_documents_that_come_to_an_empty_store_are_found():
    store = InMemoryDocumentStore()
    retriever = BM25Retriever(store)
    retriever.warm_up()
    assert retriever.run("car") == {"documents": []}
    store.write_documents([Document(id="a", content="a car")])
    assert ids(retriever.run("car")) == ["a"]
    store.delete_documents(["a"])
    assert retriever.run("car") == {"documents": []}


@pytest.mark.parametrize(("make", "refresh"), [(InMemoryDocumentStore, "auto"), (PlainStore, "every_run")])
def test_every_kind_of_change_is_found_at_the_next_run(make, refresh):
    store = make()
    store.write_documents([Document(id=str(i), content=f"word{i} common") for i in range(10)])
    retriever = BM25Retriever(store, refresh=refresh)
    assert len(ids(retriever.run("common"))) == 10
    store.delete_documents(["3"])
    store.write_documents([Document(id="new", content="fresh common")])  # as many as before
    assert ids(retriever.run("fresh")) == ["new"]
    assert ids(retriever.run("word3")) == []
    store.write_documents([Document(id="5", content="changed common")], OVERWRITE)
    assert ids(retriever.run("changed word5")) == ["5"]
    store.write_documents([Document(id="5", content="changed common", meta={"only": "meta"})], OVERWRITE)
    assert retriever.run("changed")["documents"][0].meta["only"] == "meta"
    store.delete_documents([document.id for document in store.filter_documents()])
    assert ids(retriever.run("common")) == []


@pytest.mark.parametrize(
    ("change", "arguments", "expected"),
    [
        (
            "update_by_filter",
            ({"field": "meta.place", "operator": "==", "value": "alps"}, {"place": "city"}),
            ["car", "hut"],
        ),
        ("delete_by_filter", ({"field": "meta.place", "operator": "==", "value": "city"},), []),
        ("delete_all_documents", (), []),
    ],
)
def test_changes_by_the_in_memory_store_s_other_methods_are_found(change, arguments, expected):
    store = store_of(hut={"place": "alps"}, car={"place": "city"})
    if not hasattr(store, change):
        pytest.skip(f"this Haystack's store has no {change}")
    retriever = BM25Retriever(store, meta_fields_to_index=["place"])
    in_city = comparison("meta.place", "==", "city")
    assert ids(retriever.run("city hut", filters=in_city)) == ["car"]
    getattr(store, change)(*arguments)
    assert sorted(ids(retriever.run("city", filters=in_city))) == expected
    assert sorted(ids(retriever.run("city"))) == expected


def test_only_what_changed_is_analysed(monkeypatch):
    store = store_of({str(i): f"word{i} common" for i in range(3000)})
    retriever = BM25Retriever(store)
    retriever.warm_up()
    analysed = []
    update = BM25Index.update
    monkeypatch.setattr(
        BM25Index, "update", lambda self, old, texts: update(self, old, analysed.extend(texts) or texts)
    )
    store.delete_documents(["0", "1500"])
    store.write_documents([Document(id="1700", content="changed"), Document(id="x", content="added")], OVERWRITE)
    assert ids(retriever.run("changed added")) == ["1700", "x"]
    assert analysed == ["changed", "added"]
    indexed = retriever._index._indexed
    store.write_documents(list(copy.deepcopy(store.filter_documents())), OVERWRITE)  # all again, equal: nothing to do
    assert len(ids(retriever.run("common"))) == 50
    assert retriever._index._indexed.bm25 is indexed.bm25


def test_a_run_without_a_change_keeps_the_index():
    retriever = BM25Retriever(store_of())
    retriever.run("car")
    indexed = retriever._index._indexed
    retriever.run("car")
    assert retriever._index._indexed is indexed


def test_manual_means_when_asked():
    store = store_of()
    retriever = BM25Retriever(store, refresh="manual")
    retriever.warm_up()
    store.write_documents([Document(id="new", content="zebra")])
    store.delete_documents(["hut"])
    assert (ids(retriever.run("zebra")), ids(retriever.run("hut"))) == ([], ["hut"])
    retriever.refresh_index()
    assert (ids(retriever.run("zebra")), ids(retriever.run("hut"))) == (["new"], [])


def test_content_changed_in_place_is_found_by_every_run():
    store = store_of()
    every, auto = BM25Retriever(store, refresh="every_run"), BM25Retriever(store)
    assert ids(every.run("zebra")) == ids(auto.run("zebra")) == []
    vars(store.storage["hut"])["content"] = "zebra"
    assert ids(every.run("zebra")) == ["hut"]
    auto.refresh_index()
    assert ids(auto.run("zebra")) == ["hut"]


def test_meta_changed_in_place_is_found_where_it_is_indexed_or_filtered():
    store = store_of(hut={"place": "alps"}, car={"place": "city"})
    retriever = BM25Retriever(store, meta_fields_to_index=["place"])
    in_city = {"field": "meta.place", "operator": "==", "value": "city"}
    assert ids(retriever.run("alps")) == ["hut"]
    assert ids(retriever.run("hut car", filters=in_city)) == ["car"]
    store.storage["hut"].meta["place"] = "city"
    assert ids(retriever.run("alps")) == []
    assert sorted(ids(retriever.run("hut car", filters=in_city))) == ["car", "hut"]


def test_a_change_in_place_that_one_query_need_not_see_is_seen_by_the_next():
    store = store_of(hut={"place": "alps"}, car={"place": "city"})
    retriever = BM25Retriever(store)
    in_city = {"field": "meta.place", "operator": "==", "value": "city"}
    assert ids(retriever.run("car", filters=in_city)) == ["car"]
    store.storage["hut"].meta["place"] = "city"
    assert ids(retriever.run("car", filters=in_city)) == ["car"]
    assert ids(retriever.run("hut", filters=in_city)) == ["hut"]
    store.storage["car"].meta["place"] = "alps"
    assert ids(retriever.run("hut", filters=in_city)) == ["hut"]
    assert retriever.run_batch(["car", "hut"], filters=in_city)["documents"][0] == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["car", "car hut", "hut snow car"]), st.booleans()), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.sampled_from(["car", "snow", "hut car"]), st.integers(1, 4)), max_size=6),
)
def test_any_changes_in_place_between_filtered_runs_are_seen(contents, steps):
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(id=str(i), content=text, meta={"in": passes}) for i, (text, passes) in enumerate(contents)]
    )
    retriever = BM25Retriever(store)
    passing = {"field": "meta.in", "operator": "==", "value": True}
    for which, query, top_k in steps:
        meta = store.storage[str(which % len(contents))].meta
        meta["in"] = not meta["in"]
        expected = ids(BM25Retriever(store).run(query, filters=passing, top_k=top_k))
        assert ids(retriever.run(query, filters=passing, top_k=top_k)) == expected


def test_a_list_in_meta_changed_in_place_is_found_by_a_filter():
    store = store_of(hut={"tags": ["a"]}, car={"tags": ["b"]})
    retriever = BM25Retriever(store)
    tagged = {"field": "meta.tags", "operator": "==", "value": ["a", "b"]}
    assert ids(retriever.run("hut car", filters=tagged)) == []
    store.storage["hut"].meta["tags"].append("b")
    assert ids(retriever.run("hut car", filters=tagged)) == ["hut"]


def test_a_probe_can_be_registered(monkeypatch):
    monkeypatch.setattr(freshness, "PROBES", dict(freshness.PROBES))
    probe = freshness.Probe(PlainStore.filter_documents, PlainStore.count_documents)
    freshness.register_probe(f"{PlainStore.__module__}.PlainStore", probe)
    store = PlainStore([Document(id="a", content="car")])
    retriever = BM25Retriever(store)
    for _ in range(3):
        retriever.run("car")
    assert store.readings == 1
    store.write_documents([Document(id="b", content="car")])
    assert ids(retriever.run("car")) == ["a", "b"]


def test_a_probe_counts_for_derived_classes_and_the_nearest_one_wins(monkeypatch):
    class Derived(InMemoryDocumentStore):
        pass

    class Own(Derived):
        pass

    probe = freshness.Probe(list, id)
    monkeypatch.setattr(freshness, "PROBES", dict(freshness.PROBES))
    freshness.register_probe(f"{Own.__module__}.{Own.__qualname__}", probe)
    in_memory = freshness.probe_of(InMemoryDocumentStore())
    assert in_memory is not freshness.ANY_STORE
    assert freshness.probe_of(Derived()) is in_memory
    assert freshness.probe_of(Own()) is probe
    assert freshness.probe_of(PlainStore()) is freshness.ANY_STORE


def test_runs_during_refreshes_see_one_generation_or_the_other():
    store = store_of({str(i): "generation0" for i in range(200)})
    retriever = BM25Retriever(store, top_k=300)
    retriever.warm_up()
    wrong, stop = [], threading.Event()

    def search():
        while not stop.is_set():
            for generation in range(8):
                for document in retriever.run(f"generation{generation}")["documents"]:
                    if document.content != f"generation{generation}":
                        wrong.append((generation, document.content))

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for generation in range(1, 8):
        documents = [Document(id=str(i), content=f"generation{generation}") for i in range(200)]
        store.write_documents(documents, OVERWRITE)
        assert len(ids(retriever.run(f"generation{generation}"))) == 200
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


# Filters


def filter_store():
    random = np.random.default_rng(0)
    documents = []
    for i in range(120):
        meta = {
            "number": int(random.integers(0, 10)),
            "share": float(random.random()),
            "name": str(random.choice(["x", "y", "z"])),
            "day": f"2024-0{random.integers(1, 10)}-1{random.integers(0, 10)}",
            "flag": bool(random.integers(0, 2)),
            "when": datetime(2024, int(random.integers(1, 13)), 5, 12, tzinfo=UTC),
            "tags": [str(tag) for tag in random.choice(["a", "b", "c"], 2)],
            "deep": {"er": {"level": int(random.integers(0, 3))}},
            "none": None,
        }
        dropped = [key for key in meta if random.random() < 0.15]
        words = " ".join(random.choice(["car", "hut", "snow", "brake", "wind"], random.integers(1, 8)))
        documents.append(Document(id=f"d{i}", content=words, meta={k: v for k, v in meta.items() if k not in dropped}))
    store = InMemoryDocumentStore()
    store.write_documents(documents)
    return store


def comparison(field, operator, value):
    return {"field": field, "operator": operator, "value": value}


COMPARISONS = [
    *(comparison("meta.number", operator, 5) for operator in ("==", "!=", ">", ">=", "<", "<=")),
    *(comparison("meta.share", operator, 0.5) for operator in (">", "<=")),
    comparison("meta.name", "in", ["x", "z", "unknown"]),
    comparison("meta.name", "not in", ["x"]),
    comparison("meta.number", "in", []),
    comparison("meta.flag", "==", True),
    comparison("meta.flag", "==", 1),
    comparison("meta.none", "==", None),
    comparison("meta.number", "!=", None),
    comparison("meta.number", ">", None),
    comparison("meta.tags", "==", ["a", "b"]),
    comparison("meta.day", ">=", "2024-05-01"),
    comparison("meta.day", "==", "2024-05-11T00:00:00"),
    comparison("meta.deep.er.level", "==", 1),
    comparison("meta.deep.no.level", "==", None),
    comparison("number", "<", 3),
    comparison("id", "in", ["d3", "d4", "d5"]),
    comparison("content", "!=", "car"),
    comparison("meta.day", "<", date(2024, 4, 1).isoformat()),
    comparison("meta.when", ">", datetime(2024, 6, 1, tzinfo=UTC)),
    comparison("meta.when", "==", datetime(2024, 6, 5, 12, tzinfo=UTC)),
]
LOGICAL = [
    {"operator": operator, "conditions": [COMPARISONS[i], COMPARISONS[j]]}
    for operator in ("AND", "OR", "NOT")
    for i, j in ((0, 8), (2, 11), (17, 9))
]
NESTED = [
    {"operator": "AND", "conditions": [LOGICAL[3], {"operator": "NOT", "conditions": [LOGICAL[0]]}, COMPARISONS[6]]},
    {"operator": "OR", "conditions": [{"operator": "AND", "conditions": LOGICAL[:2]}, LOGICAL[-1]]},
]


@pytest.mark.parametrize("filters", [*COMPARISONS, *LOGICAL, *NESTED], ids=repr)
def test_filters_mean_what_they_mean_in_the_store(filters):
    store = filter_store()
    retriever = BM25Retriever(store, top_k=15)
    ranking = ids(retriever.run("car hut", top_k=1000))
    passing = {document.id for document in store.filter_documents(filters)}
    expected = [name for name in ranking if name in passing][:15]
    for _ in range(2):
        assert ids(retriever.run("car hut", filters=filters)) == expected
    manual = BM25Retriever(store, top_k=15, refresh="manual", filters=filters)
    assert ids(manual.run("car hut")) == expected


FILTER_STORE = filter_store()
FILTERED = BM25Retriever(FILTER_STORE, top_k=15)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.sampled_from(COMPARISONS),
        lambda inner: st.fixed_dictionaries(
            {"operator": st.sampled_from(["AND", "OR", "NOT"]), "conditions": st.lists(inner, min_size=1, max_size=3)}
        ),
        max_leaves=8,
    )
)
def test_any_nesting_of_filters_gives_the_best_of_those_that_the_store_lets_through(filters):
    passing = {document.id for document in FILTER_STORE.filter_documents(filters)}
    ranking = ids(FILTERED.run("car hut", top_k=1000))
    assert ids(FILTERED.run("car hut", filters=filters)) == [name for name in ranking if name in passing][:15]


@pytest.mark.parametrize(
    "filters",
    [
        {"field": "meta.number", "operator": "like", "value": 1},
        {"operator": "XOR", "conditions": []},
        {"field": "meta.number", "operator": ">"},
        {"field": "meta.name", "operator": "in", "value": "x"},
        {"field": "meta.name", "operator": ">", "value": "x"},
        {"number": 5},
    ],
    ids=repr,
)
def test_filters_that_the_store_refuses_are_refused_alike(filters):
    store = filter_store()
    with pytest.raises((FilterError, ValueError, KeyError)) as theirs:
        store.filter_documents(filters)
    for _ in range(2):
        with pytest.raises(type(theirs.value)) as mine:
            BM25Retriever(store).run("car", filters=filters)
        assert str(mine.value) == str(theirs.value)


@pytest.mark.parametrize("refresh", ["auto", "manual"])
def test_a_repeated_filter_is_evaluated_once(refresh, monkeypatch):
    store = filter_store()
    retriever = BM25Retriever(store, refresh=refresh)
    evaluated = []
    evaluate = store.filter_documents
    monkeypatch.setattr(store, "filter_documents", lambda filters=None: evaluated.append(filters) or evaluate(filters))
    for _ in range(3):
        retriever.run("car", filters=copy.deepcopy(NESTED[0]))
    assert len(evaluated) == 1
    retriever.run("car", filters=NESTED[1])
    assert len(evaluated) == 2


def test_a_filter_sees_the_same_documents_as_the_index():
    """Old documents with the filter of their successors would be a mixture of two states of the store."""
    store = store_of(hut={"place": "alps"}, car={"place": "city"})
    retriever = BM25Retriever(store, refresh="manual")
    retriever.warm_up()
    store.write_documents([Document(id="hut", content=CONTENTS["hut"], meta={"place": "city"})], OVERWRITE)
    store.delete_documents(["car"])
    assert ids(retriever.run("hut car", filters=comparison("meta.place", "==", "city"))) == ["car"]
    assert ids(retriever.run("hut car", filters=comparison("meta.place", "==", "alps"))) == ["hut"]
    retriever.refresh_index()
    assert ids(retriever.run("hut car", filters=comparison("meta.place", "==", "city"))) == ["hut"]


def test_a_write_between_the_look_at_the_store_and_the_filter_makes_no_mixture(monkeypatch):
    store = store_of(hut={"place": "alps"}, car={"place": "city"})
    retriever = BM25Retriever(store)
    current = retriever._index.current

    def current_before_a_write():
        indexed = current()
        store.write_documents([Document(id="hut", content=CONTENTS["hut"], meta={"place": "city"})], OVERWRITE)
        return indexed

    monkeypatch.setattr(retriever._index, "current", current_before_a_write)
    in_city = comparison("meta.place", "==", "city")
    assert ids(retriever.run("hut car", filters=in_city)) == ["car"]
    assert sorted(ids(retriever.run("hut car", filters=in_city))) == ["car", "hut"]


def test_a_write_while_a_filter_is_evaluated_does_not_disturb_it():
    store = store_of(hut={"place": "alps"}, car={"place": "city"})

    class Meddling:
        __hash__ = None

        def __eq__(self, other):
            store.write_documents([Document(content=f"new {store.count_documents()}")])
            return other == "city"

    retriever = BM25Retriever(store)
    assert ids(retriever.run("hut car", filters=comparison("meta.place", "==", Meddling()))) == ["car"]
    assert len(ids(retriever.run("new"))) == len(CONTENTS) - 1  # one has no text, and is not asked about


def test_a_store_class_with_filters_of_its_own_is_asked_for_them():
    class Shouting(InMemoryDocumentStore):
        def filter_documents(self, filters=None):
            found = super().filter_documents(filters)
            return [document for document in found if document.content.isupper()] if filters else found

    store = Shouting()
    store.write_documents([Document(id="a", content="CAR"), Document(id="b", content="car")])
    assert ids(BM25Retriever(store).run("car", filters=comparison("content", "!=", ""))) == ["a"]


def test_a_filter_of_one_request_is_in_no_later_one():
    own = {"operator": "AND", "conditions": [comparison("meta.place", "==", "city")]}
    store = store_of(car={"place": "city", "who": 1}, brakes={"place": "city", "who": 2})
    merged = BM25Retriever(store, filters=own, filter_policy=FilterPolicy.MERGE)
    before = copy.deepcopy(merged.to_dict())
    expected = ids(merged.run("car"))
    who = comparison("meta.who", "==", 1)
    assert ids(merged.run("car", filters=who)) == ["car"]
    assert [[one.id for one in found] for found in merged.run_batch(["car"], who)["documents"]] == [["car"]]
    assert ids(merged.run("car")) == expected == ["car", "brakes"]
    assert merged.to_dict() == before


def test_filters_before_haystack_3_write_into_what_they_are_given(monkeypatch):
    """Haystack 2 merges into the component's own filters."""

    def merging(policy, init, given):
        if init and given:
            init["conditions"].append(given)
        return init or given

    monkeypatch.setattr(bm25_retriever, "apply_filter_policy", merging)
    test_a_filter_of_one_request_is_in_no_later_one()


def test_what_is_not_searched_is_not_filtered():
    store = store_of(car={"year": 2024}, none={"year": "unknown"})
    assert ids(BM25Retriever(store).run("car", filters=comparison("meta.year", ">", 2000))) == ["car"]


def test_results_share_nothing_that_can_change_with_the_store():
    store = InMemoryDocumentStore()
    store.write_documents(
        [
            Document(
                id="a",
                content="car",
                meta={"tags": ["x"], "n": {"p": 1}},
                embedding=[1.0],
                sparse_embedding=SparseEmbedding([1], [1.0]),
                blob=ByteStream(b"x", meta={"y": [1]}),
            )
        ]
    )
    before = copy.deepcopy(store.filter_documents())
    (found,) = BM25Retriever(store).run("car")["documents"]
    found.meta["tags"].append("y")
    found.meta["n"]["p"] = 2
    found.embedding[0] = 2.0
    found.sparse_embedding.values[0] = 2.0
    found.blob.meta["y"].append(2)
    assert store.filter_documents() == before


def test_many_queries_are_no_text():
    with pytest.raises(ValueError, match="queries must be a list of texts, but got 'car'"):
        BM25Retriever(store_of()).run_batch("car")


@pytest.mark.parametrize("top_k", [2**31, 2**63, 2**80])
def test_top_k_may_be_any_number(top_k):
    assert sorted(ids(BM25Retriever(store_of(), top_k=top_k).run("car"))) == ["brakes", "car"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may search every folder")
def test_a_folder_that_is_closed_to_us_is_told_and_the_index_is_built_anew(tmp_path, caplog):
    (tmp_path / "closed").mkdir(mode=0)
    assert "car" in ids(BM25Retriever(store_of(), index_path=str(tmp_path / "closed" / "index")).run("car"))
    assert "cannot be used and is built again" in caplog.text


def test_half_of_a_surrogate_pair_is_a_word_as_it_stands():
    store = store_of({"a": "caf\ud800 brake", "b": "hut"})
    retriever = BM25Retriever(store, tokenization_regex=r"\S+")
    assert ids(retriever.run("brakes")) == ids(retriever.run("caf\ud800")) == ["a"]


def test_filters_of_init_are_replaced_or_merged():
    store = filter_store()
    first, second = COMPARISONS[2], comparison("meta.name", "==", "x")
    both = {"operator": "AND", "conditions": [first, second]}
    replaced = BM25Retriever(store, filters=first)
    merged = BM25Retriever(store, filters=first, filter_policy=FilterPolicy.MERGE)
    plain = BM25Retriever(store)
    assert ids(replaced.run("car")) == ids(merged.run("car")) == ids(plain.run("car", filters=first))
    assert ids(replaced.run("car", filters=second)) == ids(plain.run("car", filters=second))
    assert ids(merged.run("car", filters=second)) == ids(plain.run("car", filters=both))


def test_a_value_whose_text_does_not_tell_it_is_not_kept():
    class Name(str):
        def __repr__(self):
            return "a name"

    retriever = BM25Retriever(store_of(hut={"place": "alps"}, car={"place": "city"}))
    for place, expected in (("alps", ["hut"]), ("city", ["car"])):
        assert ids(retriever.run("hut car", filters=comparison("meta.place", "==", Name(place)))) == expected


def test_the_number_of_kept_filters_is_bounded():
    retriever = BM25Retriever(filter_store())
    for i in range(100):
        retriever.run("car", filters=comparison("meta.number", ">", i / 10))
    assert len(retriever._index._indexed.masks) == 64


# Persistence


def test_a_restart_opens_the_index_and_builds_nothing(tmp_path, monkeypatch):
    store = filter_store()
    first = ids(BM25Retriever(store, index_path=str(tmp_path / "index")).run("car snow"))
    monkeypatch.setattr(BM25Index, "build", None)
    restarted = BM25Retriever(store, index_path=str(tmp_path / "index"))
    assert ids(restarted.run("car snow")) == first


def test_formulas_may_change_without_building_again(tmp_path, monkeypatch):
    store = filter_store()
    BM25Retriever(store, index_path=str(tmp_path)).warm_up()
    expected = ids(BM25Retriever(store, method="bm25l", k1=0.4).run("car snow"))
    monkeypatch.setattr(BM25Index, "build", None)
    assert ids(BM25Retriever(store, index_path=str(tmp_path), method="bm25l", k1=0.4).run("car snow")) == expected


def test_a_stale_index_is_brought_up_to_date_with_a_warning(tmp_path, monkeypatch, caplog):
    store = filter_store()
    BM25Retriever(store, index_path=str(tmp_path)).warm_up()
    store.delete_documents(["d3", "d7"])
    store.write_documents([Document(id="d9", content="other car"), Document(id="new", content="new car")], OVERWRITE)
    expected = BM25Retriever(store).run("car new other", top_k=200)
    monkeypatch.setattr(BM25Index, "build", None)
    with caplog.at_level(logging.WARNING):
        found = BM25Retriever(store, index_path=str(tmp_path)).run("car new other", top_k=200)
    assert found == expected
    assert "is stale: 2 texts are new, 3 of its 120 are gone" in caplog.text
    caplog.clear()
    assert BM25Retriever(store, index_path=str(tmp_path)).run("car new other", top_k=200) == expected
    assert caplog.text == ""


def test_changes_while_running_are_saved(tmp_path, monkeypatch):
    store = filter_store()
    retriever = BM25Retriever(store, index_path=str(tmp_path))
    retriever.warm_up()
    store.write_documents([Document(id="new", content="zebra")])
    assert ids(retriever.run("zebra")) == ["new"]
    monkeypatch.setattr(BM25Index, "build", None)
    monkeypatch.setattr(BM25Index, "update", None)
    assert ids(BM25Retriever(store, index_path=str(tmp_path)).run("zebra")) == ["new"]


def damage(folder):
    path = next(folder.glob("base-documents-*"))
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "arguments", "reason"),
    [
        (damage, {}, "the checksum differs"),
        (lambda folder: next(folder.glob("lengths-*")).unlink(), {}, "is missing"),
        (lambda folder: next(folder.glob("base-codes-*")).write_bytes(b"x"), {}, "bytes, but"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), {}, "cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), {}, "there is no manifest"),
        (lambda folder: None, {"language": "german"}, "analysis"),
        (lambda folder: None, {"meta_fields_to_index": ["name"]}, "meta_fields_to_index"),
        (lambda folder: BM25Index.build(["foreign"]).save(folder), {}, "is needed"),
    ],
    ids=["flipped", "missing", "truncated", "foreign manifest", "no manifest", "language", "fields", "engine's own"],
)
def test_an_index_that_cannot_be_used_is_built_again_with_a_warning(tmp_path, caplog, spoil, arguments, reason):
    store = filter_store()
    BM25Retriever(store, index_path=str(tmp_path)).warm_up()
    spoil(tmp_path)
    expected = BM25Retriever(store, **arguments).run("car snow x")
    with caplog.at_level(logging.WARNING):
        assert BM25Retriever(store, index_path=str(tmp_path), **arguments).run("car snow x") == expected
    assert "cannot be used and is built again" in caplog.text
    assert reason in caplog.text
    caplog.clear()
    assert BM25Retriever(store, index_path=str(tmp_path), **arguments).run("car snow x") == expected
    assert caplog.text == ""


def test_a_change_of_meta_makes_no_index_stale(tmp_path, caplog):
    store = filter_store()
    folder = tmp_path / "index"
    BM25Retriever(store, index_path=str(folder)).warm_up()
    store.write_documents([replace(store.storage["d9"], meta={"name": "other"})], OVERWRITE)  # and it goes to the end
    expected = BM25Retriever(store).run("car snow x", top_k=200)
    with caplog.at_level(logging.WARNING):
        assert BM25Retriever(store, index_path=str(folder)).run("car snow x", top_k=200) == expected
    assert caplog.text == ""


def test_a_warning_is_not_said_again_where_the_build_fails_after_it(tmp_path, caplog):
    class Failing(PlainStore):
        def filter_documents(self, filters=None):
            raise OSError("no store today")

    folder = tmp_path / "index"
    BM25Retriever(PlainStore([Document(content="car")]), index_path=str(folder)).warm_up()
    damage(folder)
    retriever = BM25Retriever(Failing(), index_path=str(folder))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(OSError, match="no store today"):
                retriever.run("car")
    assert ["cannot be used" in record.getMessage() for record in caplog.records] == [True]


def test_an_index_that_cannot_be_saved_is_said_once_and_again_when_that_changes(tmp_path, caplog):
    store, file = store_of(), tmp_path / "file"
    file.write_text("in the way")
    retriever = BM25Retriever(store, index_path=str(file / "index"))

    def warnings_after(content):
        store.write_documents([Document(content=content)])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            retriever.run("car")
        return len(caplog.records)

    assert [warnings_after("one"), warnings_after("two"), warnings_after("three")] == [1, 0, 0]
    file.unlink()
    assert warnings_after("four") == 0
    shutil.rmtree(file)
    file.write_text("in the way again")
    assert warnings_after("five") == 1


def test_a_folder_that_cannot_be_written_is_a_warning_and_no_failure(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert ids(BM25Retriever(store_of(), index_path=str(tmp_path / "file" / "index")).run("hut")) == ["hut"]
    assert "could not be saved" in caplog.text


# Agreement with Haystack's own

as_published = pytest.mark.skipif(
    int(haystack.version.__version__.split(".")[0]) < 3,
    reason="before Haystack 3 its store averages lengths, and bounds absent words in BM25L, otherwise than published",
)


@as_published
@pytest.mark.parametrize("query", ["car", "snow brake", "wind hut car"])
def test_bm25l_scores_are_haystacks(query):
    documents = [replace(document, meta={}) for document in filter_store().filter_documents()]
    store = InMemoryDocumentStore(bm25_tokenization_regex=DEFAULT_TOKENIZATION_REGEX, bm25_algorithm="BM25L")
    store.write_documents([*documents, Document(id="none", content=None), Document(id="empty", content="")])
    theirs = InMemoryBM25Retriever(store, top_k=200).run(query)["documents"]
    mine = BM25Retriever(store, language=None, method="bm25l", k1=1.5, b=0.75, delta=0.5, top_k=200).run(query)[
        "documents"
    ]
    scores = {document.id: document.score for document in theirs}
    assert len(mine) > 30
    reference = [scores[document.id] for document in mine]
    assert [document.score for document in mine] == pytest.approx(reference, rel=1e-5)


@as_published
@pytest.mark.parametrize("query", ["w7 w30", "w11", "w60 w61 w12"])
def test_the_order_is_that_of_haystacks_okapi(query):
    random = np.random.default_rng(1)
    contents = {
        str(i): " ".join(f"w{word}" for word in random.integers(0, 80, random.integers(1, 30))) for i in range(300)
    }
    store = InMemoryDocumentStore(bm25_tokenization_regex=DEFAULT_TOKENIZATION_REGEX, bm25_algorithm="BM25Okapi")
    store.write_documents([Document(id=name, content=text) for name, text in contents.items()])
    mine = BM25Retriever(store, language=None, method="robertson", k1=1.5, top_k=300).run(query)["documents"]
    theirs = {d.id: d.score for d in InMemoryBM25Retriever(store, top_k=300).run(query)["documents"]}
    reference = [theirs[document.id] for document in mine]
    assert len(mine) > 10
    assert all(one >= other - 1e-6 for one, other in itertools.pairwise(reference))
    assert [document.score * 2.5 for document in mine] == pytest.approx(reference, rel=1e-5)
