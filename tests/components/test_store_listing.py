"""BM25Retriever searches all that a store holds, keeps no embeddings, and returns documents as the store has them."""

import asyncio
import logging
import sys
import types

import pytest
from haystack import Document
from haystack.document_stores.types import DuplicatePolicy

from fake_stores import CutStore, PlainStore
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever, freshness, listing
from haystack_integrations.components.retrievers.ce_ranker.listing import IncompleteListingError

EVEN = {"field": "meta.even", "operator": "==", "value": True}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(listing, "_PAUSE", 0)


def ids(result):
    return [document.id for document in result["documents"]]


def documents(count, **others):
    return [
        Document(id=str(i), content=f"word{i} common", meta={"even": i % 2 == 0, "tag": f"t{i}"}, **others)
        for i in range(count)
    ]


# Any store


@pytest.mark.parametrize("refresh", ["auto", "every_run", "manual"])
@pytest.mark.parametrize("engine", ["auto", "bm25s"])
def test_a_cut_listing_is_an_error_that_names_the_numbers_and_the_way_out(refresh, engine):
    store = CutStore(documents(1050), limit=1000)
    with pytest.raises(IncompleteListingError, match="returns 1,000 of the 1,050 documents that count.*register_probe"):
        BM25Retriever(store, refresh=refresh, engine=engine).run("word1049")
    assert store.readings == 3
    store.limit = 1050
    assert ids(BM25Retriever(store, refresh=refresh, engine=engine).run("word1049")) == ["1049"]


def test_a_store_that_grows_beyond_its_listing_goes_on_with_the_old_index_and_says_so(caplog):
    store = CutStore(documents(10))
    retriever = BM25Retriever(store, refresh_seconds=0)
    retriever.warm_up()
    store.write_documents([Document(id="new", content="word")])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            retriever.run("common")
            retriever._index._background._thread.join()
    assert ids(retriever.run("word9")) == ["9"]
    assert sum("returns 10 of the 11" in record.getMessage() for record in caplog.records) == 1
    assert "returns 10 of the 11" in retriever.run("word9")["documents"][0].meta["ce_ranker"]["bm25"]["refresh_error"]
    with pytest.raises(IncompleteListingError):
        retriever.refresh_index()


@pytest.mark.parametrize("change", ["write", "delete"])
def test_documents_that_come_or_go_while_the_store_is_read_are_no_error(change):
    class Busy(PlainStore):
        def filter_documents(self, filters=None):
            found = super().filter_documents(filters)
            if change == "write":
                self.write_documents([Document(content=f"more {self.readings}")])
            else:
                self.delete_documents([next(iter(self.documents))])
            return found

    store = Busy(documents(5))
    assert len(ids(BM25Retriever(store).run("common"))) == 5
    assert store.readings == 1


def test_a_count_that_falls_behind_for_a_moment_is_no_error():
    class Late(PlainStore):
        def count_documents(self):
            return super().count_documents() + (self.readings < 2)

    store = Late(documents(5))
    assert len(ids(BM25Retriever(store).run("common"))) == 5


def test_a_store_without_a_count_is_believed():
    class Countless(CutStore):
        count_documents = None

    assert len(ids(BM25Retriever(Countless(documents(11))).run("common"))) == 10


def test_documents_listed_twice_are_no_error_and_are_said_once(caplog):
    class Twice(PlainStore):
        def filter_documents(self, filters=None):
            return super().filter_documents(filters) * 2

    retriever = BM25Retriever(Twice(documents(3)), refresh="every_run")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert len(ids(retriever.run("common"))) == 6
    (said,) = [record.getMessage() for record in caplog.records if "Twice" in record.getMessage()]
    assert "6 documents under 3 ids" in said


def test_of_a_store_that_is_not_asked_by_id_all_but_the_embeddings_is_kept_and_returned():
    store = PlainStore(documents(4, embedding=[1.0, 2.0]))
    retriever = BM25Retriever(store)
    found = retriever.run("common")["documents"]
    assert [(one.id, one.content, one.meta["tag"], one.embedding) for one in found] == [
        (str(i), f"word{i} common", f"t{i}", None) for i in range(4)
    ]
    assert [document.embedding for document in retriever._index._indexed.snapshot.documents] == [None] * 4
    assert store.documents["0"].embedding == [1.0, 2.0]


# Qdrant


@pytest.fixture
def qdrant():
    module = pytest.importorskip("haystack_integrations.document_stores.qdrant", exc_type=ImportError)

    def make(written, **arguments):
        store = module.QdrantDocumentStore(
            ":memory:", embedding_dim=2, progress_bar=False, recreate_index=True, scroll_size=7, **arguments
        )
        store.write_documents(written, DuplicatePolicy.OVERWRITE)
        return store

    return make


def test_qdrant_is_read_by_pages_without_vectors_and_only_ids_are_kept(qdrant):
    store = qdrant(documents(40, embedding=[1.0, 2.0]))
    retriever = BM25Retriever(store, top_k=100)
    asked = []
    scroll = store._client.scroll
    store._client.scroll = lambda **arguments: asked.append(arguments["with_vectors"]) or scroll(**arguments)
    assert sorted(ids(retriever.run("common")), key=int) == [str(i) for i in range(40)]
    assert asked == [False] * 6
    assert ids(retriever.run("word39")) == ["39"]
    assert sorted(ids(retriever.run("common", filters=EVEN)), key=int) == [str(i) for i in range(0, 40, 2)]
    snapshot = retriever._index._indexed.snapshot
    assert snapshot.documents is None
    assert sorted(snapshot.ids, key=int) == [str(i) for i in range(40)]
    assert asyncio.run(retriever.run_async("word3"))["documents"] == retriever.run("word3")["documents"]


@pytest.mark.parametrize("returned", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_qdrants_documents_come_back_as_its_own_retriever_returns_them(qdrant, returned, sparse):
    from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever

    store = qdrant(documents(3, embedding=[3.0, 4.0]), return_embedding=returned, use_sparse_embeddings=sparse)
    theirs = {
        one.id: one for one in QdrantEmbeddingRetriever(store, return_embedding=returned).run([3.0, 4.0])["documents"]
    }
    found = BM25Retriever(store).run("common")["documents"]
    assert len(found) == 3
    for one in found:
        assert (one.content, one.blob) == (theirs[one.id].content, theirs[one.id].blob)
        assert {key: one.meta[key] for key in ("even", "tag")} == theirs[one.id].meta
        assert one.embedding == (pytest.approx(theirs[one.id].embedding) if returned else None)
        assert set(one.meta["ce_ranker"]["bm25"]) == {"score", "rank"}


def test_documents_that_a_store_lost_meanwhile_make_room_for_the_next_best(qdrant):
    store = qdrant([Document(id=str(i), content="car " * (9 - i), embedding=[1.0, 0.0]) for i in range(9)])
    retriever = BM25Retriever(store, top_k=3, refresh="manual")
    assert ids(retriever.run("car")) == ["0", "1", "2"]
    store.delete_documents(["1", "2", "3"])
    found = retriever.run("car")["documents"]
    assert [(one.id, one.meta["ce_ranker"]["bm25"]["rank"]) for one in found] == [("0", 1), ("4", 2), ("5", 3)]
    store.delete_documents([str(i) for i in range(8)])
    assert ids(retriever.run("car")) == ["8"]
    store.write_documents(
        [Document(id="8", content="car", meta={"now": True}, embedding=[1.0, 0.0])], DuplicatePolicy.OVERWRITE
    )
    assert retriever.run("car")["documents"][0].meta["now"] is True


def test_points_that_another_program_wrote_are_kept_because_their_ids_do_not_find_them(qdrant):
    from qdrant_client.http import models

    store = qdrant([])
    store._client.upsert(
        store.index,
        [models.PointStruct(id=i, vector=[1.0, 0.0], payload={"content": f"word{i} common"}) for i in range(1, 9)],
    )
    retriever = BM25Retriever(store)
    assert [one.content for one in retriever.run("word8")["documents"]] == ["word8 common"]
    assert len(retriever._index._indexed.snapshot.documents) == 8
    not_first = {"field": "content", "operator": "!=", "value": "word1 common"}
    assert len(ids(retriever.run("common", filters=not_first))) == 7


def test_a_store_class_of_another_release_is_read_as_any_store(monkeypatch):
    name = f"{PlainStore.__module__}.PlainStore"
    lacking = freshness.Probe(list, id, needs=("filter_documents", "_scroll_all"))
    monkeypatch.setattr(freshness, "PROBES", {name: lacking})
    assert freshness.probe_of(PlainStore()) is freshness.ANY_STORE
    monkeypatch.setattr(freshness, "PROBES", {name: lacking._replace(needs=("filter_documents",))})
    assert freshness.probe_of(PlainStore()).read is list


# Chroma


def test_chroma_is_read_without_vectors_and_asked_by_id(tmp_path):
    chroma = pytest.importorskip("haystack_integrations.document_stores.chroma", exc_type=ImportError)
    store = chroma.ChromaDocumentStore(collection_name="bm25-test", persist_path=str(tmp_path))
    store.write_documents(documents(30, embedding=[1.0, 2.0]))
    retriever = BM25Retriever(store, top_k=100)
    assert ids(retriever.run("common")) == [str(i) for i in range(30)]
    (found,) = retriever.run("word29")["documents"]
    assert (found.content, found.meta["tag"], found.embedding) == ("word29 common", "t29", [1.0, 2.0])
    assert ids(retriever.run("common", filters=EVEN)) == [str(i) for i in range(0, 30, 2)]
    assert retriever._index._indexed.snapshot.documents is None
    store.delete_documents(["0"])
    assert ids(retriever.run("common", top_k=2)) == ["1", "2"]
    retriever.close()


# pgvector


def test_pgvectors_cursors_are_left_alone_because_its_store_has_one_for_all_threads(postgres_uri, monkeypatch):
    pgvector = pytest.importorskip("haystack_integrations.document_stores.pgvector", exc_type=ImportError)
    monkeypatch.setenv("PG_CONN_STR", postgres_uri)
    store = pgvector.PgvectorDocumentStore(table_name="listing", embedding_dimension=2, recreate_table=True)
    store.write_documents(documents(20, embedding=[1.0, 2.0]))
    retriever = BM25Retriever(store, refresh="every_run", engine="bm25s")
    answers = store._cursor.execute("SELECT 7"), store._dict_cursor.execute("SELECT 8 AS eight")
    assert ids(retriever.run("word19")) == ["19"]
    assert ids(retriever.run("common", filters=EVEN, top_k=2)) == ["0", "2"]
    assert [one.fetchall() for one in answers] == [[(7,)], [{"eight": 8}]]
    retriever.close()


# Milvus: the calls that its store and its client have, as seen with milvus-haystack 0.1 and milvus-lite 3.2


class MilvusDocumentStore(PlainStore):
    """What the probe uses of Milvus's store: its own listing ends at 10 rows."""

    collection_name, partition_names, _collection_exists, _primary_field = "c", None, True, "pk"

    def __init__(self, documents):
        super().__init__(documents)
        self.asked = []

    @property
    def client(self):
        return types.SimpleNamespace(query_iterator=self._iterate)

    def _iterate(self, collection_name, *, batch_size, filter, output_fields, partition_names):
        assert (collection_name, partition_names) == ("c", None)
        self.asked.append(output_fields)
        rows = [document for document in self.documents.values() if filter != "even" or document.meta["even"]]
        self.closed = False
        made = [
            row if output_fields == ["*"] else {name: row[name] for name in output_fields}
            for row in map(self._row, rows)
        ]
        pages = [made[at : at + 8] for at in range(0, len(made), 8)]

        def close():
            self.closed = True

        return types.SimpleNamespace(next=lambda: pages.pop(0) if pages else [], close=close)

    def _get_output_fields(self):
        return ["*"]

    def _row(self, document):
        return {"pk": document.id, "text": document.content, "vector": document.embedding, **document.meta}

    def _parse_document(self, row):
        return Document(id=row.pop("pk"), content=row.pop("text"), embedding=row.pop("vector"), meta=row)

    def filter_documents(self, filters=None):
        self.readings += 1
        assert filters["field"] == "pk"
        return [self.documents[name] for name in filters["value"] if name in self.documents][:10]


def test_milvus_is_read_by_pages(monkeypatch):
    monkeypatch.setattr(MilvusDocumentStore, "__module__", "milvus_haystack.document_store")
    filters = types.ModuleType("milvus_haystack.filters")
    filters.parse_filters = lambda given: "even" if given == EVEN else None
    monkeypatch.setitem(sys.modules, "milvus_haystack", types.ModuleType("milvus_haystack"))
    monkeypatch.setitem(sys.modules, "milvus_haystack.filters", filters)
    store = MilvusDocumentStore(documents(25, embedding=[1.0]))
    retriever = BM25Retriever(store, top_k=10)
    (found,) = retriever.run("word24")["documents"]
    assert (found.id, found.meta["tag"], found.embedding) == ("24", "t24", [1.0])
    assert store.closed
    assert ids(retriever.run("common", filters=EVEN, top_k=5)) == ["0", "2", "4", "6", "8"]
    assert store.asked == [["*"], ["pk"]], "a filter needs neither texts nor vectors"
    assert retriever._index._indexed.snapshot.documents is None
    store._collection_exists = False
    assert ids(BM25Retriever(store).run("common")) == []
