"""BM25Retriever over stores that cannot tell of changes: they are read in the background, while runs go on."""

import asyncio
import copy
import gc
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from haystack import Document
from haystack.document_stores.types import DuplicatePolicy

from fake_stores import GatedStore, PlainStore
from haystack_ce_ranker import forking
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever, refreshing
from haystack_integrations.components.retrievers.ce_ranker.store_index import StoreIndex

OVERWRITE = DuplicatePolicy.OVERWRITE
CITY = {"field": "meta.place", "operator": "==", "value": "city"}


def ids(result):
    return [document.id for document in result["documents"]]


def document(name, content="car", **meta):
    return Document(id=name, content=content, meta=meta)


def settle(retriever):
    """Wait until nothing is done in the background."""
    thread = retriever._index._background._thread
    if thread is not None:
        thread.join()


def warnings_of(caplog, word):
    return [record.getMessage() for record in caplog.records if word in record.getMessage()]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(refreshing.time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_run_without_a_change_costs_one_count():
    store = GatedStore([document("a")])
    retriever = BM25Retriever(store)
    retriever.warm_up()
    before = store.counts
    for _ in range(5):
        assert ids(retriever.run("car")) == ["a"]
    assert (store.readings, store.counts - before) == (1, 5)


def test_runs_go_on_with_the_old_index_while_the_store_is_read():
    store = GatedStore([document("a")])
    retriever = BM25Retriever(store, refresh_seconds=0)
    retriever.warm_up()
    store.write_documents([document("b")])
    assert ids(retriever.run("car")) == ["a"]
    assert store.arrived.wait(60)
    for _ in range(3):
        assert ids(retriever.run("car")) == ["a"]
        assert ids(retriever.run("car", filters={"field": "id", "operator": "!=", "value": "x"})) == ["a"]
    store.gate.set()
    settle(retriever)
    assert ids(retriever.run("car")) == ["a", "b"]


@pytest.mark.parametrize("change", ["add", "delete", "replace", "meta"])
def test_any_change_is_found_after_the_stated_time_and_not_read_for_before(clock, change):
    store = PlainStore([document("a", place="city"), document("b", "hut", place="alps")])
    retriever = BM25Retriever(store)
    assert ids(retriever.run("car hut", filters=CITY)) == ["a"]
    if change == "delete":
        store.delete_documents(["a"])
    else:
        name = "c" if change == "add" else "b"
        store.write_documents([document(name, "hut" if change == "meta" else "car car", place="city")], OVERWRITE)
    readings = store.readings
    clock.now += 59.9
    assert ids(retriever.run("car hut", filters=CITY)) == ["a"]
    settle(retriever)
    assert store.readings == readings
    clock.now += 0.1
    assert ids(retriever.run("car hut", filters=CITY)) == ["a"]
    settle(retriever)
    assert store.readings == readings + 1
    expected = {"add": {"a", "c"}, "delete": set(), "replace": {"a", "b"}, "meta": {"a", "b"}}[change]
    assert set(ids(retriever.run("car hut", filters=CITY))) == expected
    settle(retriever)
    assert store.readings == readings + 2  # the filter was evaluated again, the store was not read again


def test_a_kept_filter_is_not_evaluated_again_where_reading_found_no_change(clock):
    store = PlainStore([document("a", place="city"), document("b", place="alps")])
    retriever = BM25Retriever(store)
    retriever.run("car", filters=CITY)
    clock.now += 60
    retriever.run("car", filters=CITY)
    settle(retriever)
    before = store.readings
    assert ids(retriever.run("car", filters=CITY)) == ["a"]
    assert store.readings == before == 3


def test_the_pause_begins_at_the_end_of_a_reading(clock):
    class Slow(PlainStore):
        def filter_documents(self, filters=None):
            clock.now += 500
            return super().filter_documents(filters)

    store = Slow([document("a")])
    retriever = BM25Retriever(store)
    for pause, readings in ((0, 1), (59, 1), (1, 2), (0, 2), (59, 2), (1, 3)):
        clock.now += pause
        retriever.run("car")
        settle(retriever)
        assert store.readings == readings


def test_every_run_reads_in_each_run_and_refresh_index_at_once(clock):
    store = PlainStore([document("a")])
    auto, every = BM25Retriever(store), BM25Retriever(store, refresh="every_run")
    for retriever in (auto, every):
        retriever.warm_up()
    store.write_documents([document("b")])
    assert (ids(auto.run("car")), ids(every.run("car"))) == (["a"], ["a", "b"])
    auto.refresh_index()
    assert ids(auto.run("car")) == ["a", "b"]


def test_documents_that_come_to_an_empty_store_are_found_at_once(clock):
    store = PlainStore()
    retriever = BM25Retriever(store)
    assert ids(retriever.run("car")) == []
    store.write_documents([document("a")])
    assert ids(retriever.run("car")) == ["a"]


def test_that_changes_are_seen_later_is_said_once_when_it_matters(clock, caplog):
    store = PlainStore([document("a")])
    retriever = BM25Retriever(store)
    with caplog.at_level(logging.WARNING):
        retriever.run("car")
        assert caplog.text == ""
        for name in "bcd":
            store.write_documents([document(name)])
            retriever.run("car")
    (said,) = warnings_of(caplog, "PlainStore")
    assert "at most every 60 s" in said
    assert "refresh_index()" in said


class Failing(PlainStore):
    """A store that can be told to fail."""

    error = counting_error = None
    tries = 0

    def filter_documents(self, filters=None):
        self.tries += 1
        if self.error:
            raise self.error
        return super().filter_documents(filters)

    def count_documents(self):
        if self.counting_error:
            raise self.counting_error
        return super().count_documents()


@pytest.mark.parametrize("attribute", ["error", "counting_error"])
def test_a_failure_in_the_background_is_said_once_noted_in_the_record_and_over_when_it_is_over(attribute, caplog):
    store = Failing([document("a")])
    retriever = BM25Retriever(store, refresh_seconds=0)

    def record():
        retriever.run("car")
        settle(retriever)
        return retriever.run("car")["documents"][0].meta["ce_ranker"]["bm25"].get("refresh_error")

    with caplog.at_level(logging.WARNING):
        assert record() is None
        setattr(store, attribute, OSError("no route"))
        assert [record() for _ in range(3)] == ["OSError: no route"] * 3
        settle(retriever)
        assert len(warnings_of(caplog, "no route")) == 1
        setattr(store, attribute, OSError("no disk"))
        assert [record() for _ in range(3)] == ["OSError: no disk"] * 3
        settle(retriever)
        assert len(warnings_of(caplog, "no disk")) == 1
        setattr(store, attribute, None)
        assert record() is None
        settle(retriever)
        setattr(store, attribute, OSError("no route"))
        assert record() == "OSError: no route"
    settle(retriever)
    assert len(warnings_of(caplog, "no route")) == 2


def test_a_reading_that_fails_is_not_tried_again_before_its_time(clock):
    store = Failing([document("a")])
    retriever = BM25Retriever(store)
    retriever.run("car")
    store.error = OSError("no route")
    for pause, tries in ((60, 2), (0, 2), (59, 2), (1, 3)):
        clock.now += pause
        retriever.run("car")
        settle(retriever)
        assert store.tries == tries


def test_a_store_without_a_count_is_read_again_all_the_same(clock):
    class Countless(PlainStore):
        count_documents = None

    class Unable(PlainStore):
        def count_documents(self):
            raise NotImplementedError

    for make in (Countless, Unable):
        store = make([document("a")])
        retriever = BM25Retriever(store)
        retriever.run("car")
        store.write_documents([document("b")])
        clock.now += 60
        assert ids(retriever.run("car")) == ["a"]
        settle(retriever)
        assert ids(retriever.run("car")) == ["a", "b"]


def of_refreshing():
    return [thread for thread in threading.enumerate() if thread.name == "BM25Retriever refresh"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_no_thread_survives_close(asynchronous):
    store = GatedStore([document("a")])
    retriever = BM25Retriever(store, refresh_seconds=0)
    for _ in range(2):
        retriever.run("car")
    assert store.arrived.wait(60)
    assert len(of_refreshing()) == 1
    threading.Timer(0.2, store.gate.set).start()
    if asynchronous:
        asyncio.run(retriever.close_async())
    else:
        retriever.close()
    assert of_refreshing() == []
    assert not retriever._index.is_built
    assert ids(retriever.run("car")) == ["a"]
    settle(retriever)


def test_close_ends_a_reading_between_two_documents():
    class Endless(PlainStore):
        def filter_documents(self, filters=None):
            documents = super().filter_documents(filters)
            return documents if self.readings == 1 else iter(lambda: documents[0], None)

    from haystack_integrations.components.retrievers.ce_ranker import freshness

    probe = freshness.Probe(Endless.filter_documents, Endless.count_documents, exact=False)
    freshness.register_probe(f"{Endless.__module__}.{Endless.__qualname__}", probe)
    try:
        retriever = BM25Retriever(Endless([document("a")]), refresh_seconds=0)
    finally:
        del freshness.PROBES[f"{Endless.__module__}.{Endless.__qualname__}"]
    retriever.run("car")
    retriever.run("car")
    retriever.close()
    assert of_refreshing() == []


def test_a_reading_that_never_ends_keeps_no_process_alive():
    script = """
        import threading
        from haystack import Document
        from fake_stores import GatedStore
        from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever
        store = GatedStore([Document(content="car")])
        retriever = BM25Retriever(store, refresh_seconds=0)
        retriever.run("car"), retriever.run("car")
        assert store.arrived.wait(60)
        print(len(threading.enumerate()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_reads_in_a_thread_of_its_own():
    """At the fork the parent's threads hold the locks. In the child those threads do not exist."""
    store = GatedStore([document("a")])
    retriever = BM25Retriever(store, refresh_seconds=0)
    for _ in range(2):
        retriever.run("car")
    assert store.arrived.wait(60)
    held = retriever._index._background._lock
    held.acquire()  # as by a thread that is about to begin a reading
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.gate = threading.Event()
            store.gate.set()
            store.write_documents([document("b")])
            retriever.run("car")
            settle(retriever)
            if ids(retriever.run("car")) == ["a", "b"]:
                retriever.refresh_index()
                retriever.close()
                status = 0
        finally:
            os._exit(status)
    held.release()
    until = time.monotonic() + 300
    ended, status = 0, 0
    while not ended and time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
    store.gate.set()
    retriever.close()
    assert (ended, status) == (child, 0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda retriever: pickle.loads(pickle.dumps(retriever))])
def test_a_copy_made_while_the_store_is_read_is_refreshed_on_its_own(copied, clock):
    store = PlainStore([document("a")])
    retriever = BM25Retriever(store)
    retriever.run("car")
    clone = copied(retriever)
    clone.document_store.write_documents([document("b")])
    clock.now += 60
    clone.run("car")
    settle(clone)
    assert ids(clone.run("car")) == ["a", "b"]
    assert retriever._index._background._thread is None
    assert clone._index._lock is not retriever._index._lock


def test_an_index_that_is_forgotten_leaves_nothing_behind():
    def indexes():
        return [owner for owner in forking._owners if isinstance(owner, StoreIndex)]

    gc.collect()
    before = len(indexes())
    retriever = BM25Retriever(PlainStore([document("a")]), refresh_seconds=0)
    retriever.run("car")
    retriever.run("car")
    settle(retriever)
    assert len(indexes()) == before + 1
    del retriever
    gc.collect()
    assert len(indexes()) == before


def test_writing_and_asking_at_once_ends_with_everything_found():
    store = PlainStore([document(f"first{i}") for i in range(20)])
    retriever = BM25Retriever(store, top_k=1000, refresh_seconds=0)
    wrong = []

    def write(writer):
        for i in range(40):
            store.documents = {**store.documents, f"{writer}-{i}": document(f"{writer}-{i}")}

    def ask():
        seen = 0
        for _ in range(60):
            found = len(asyncio.run(retriever.run_async("car"))["documents"])
            if found < seen:
                wrong.append((seen, found))
            seen = found

    threads = [threading.Thread(target=write, args=("w",)), *(threading.Thread(target=ask) for _ in range(3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle(retriever)
    retriever.run("car")
    settle(retriever)
    assert len(ids(retriever.run("car"))) == 60
    assert wrong == []
    settle(retriever)
