"""Models, stores and disks that fail in the middle: what the caller sees, and that the next request works."""

import logging
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from haystack import Document

from fake_stores import PlainStore
from fakes import REPOSITORY
from haystack_ce_ranker import BM25Retriever, CrossEncoderRanker
from haystack_ce_ranker.bm25 import files
from haystack_integrations.components.retrievers.ce_ranker import freshness, refreshing, store_index
from haystack_integrations.components.retrievers.ce_ranker.listing import StoreAnswerError

GUARD = 60  # seconds after which a test that hangs fails
DOCUMENTS = [Document(id=str(number), content="the hut in the snow " * number) for number in range(1, 6)]


def ids(result):
    return [document.id for document in result["documents"]]


def scores(ranker, query="the hut"):
    return {document.id: document.score for document in ranker.run(query, DOCUMENTS)["documents"]}


# The model


@pytest.mark.parametrize(
    ("failure", "error", "told"),
    [
        (lambda batch: np.full(len(batch.pairs), math.nan, np.float32), ValueError, "not finite .* close the ranker"),
        (lambda batch: np.full(len(batch.pairs), math.inf, np.float32), ValueError, "not finite"),
        (lambda batch: (_ for _ in ()).throw(MemoryError("bad_alloc")), MemoryError, "does not fit into the memory"),
        (lambda batch: (_ for _ in ()).throw(RuntimeError("a kernel failed")), RuntimeError, "a kernel failed"),
    ],
    ids=["NaN", "infinite", "out of memory", "another error"],
)
@pytest.mark.parametrize("cache_size", [0, 100])
def test_what_a_model_does_not_score_is_an_error_of_that_run_alone(
    tiny_bert, tmp_path, monkeypatch, failure, error, told, cache_size
):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")  # what is learnt of its memory is of this model alone
    ranker = CrossEncoderRanker(model=folder, cache_size=cache_size)
    expected = scores(ranker)
    backend = ranker._scorer.backend
    with monkeypatch.context() as broken:
        broken.setattr(backend, "logits", failure)
        for _ in range(2):
            with pytest.raises(error, match=told):
                scores(ranker, "where is berlin")
    assert scores(ranker) == pytest.approx(expected, abs=1e-5)
    assert len(scores(ranker, "where is berlin")) == len(DOCUMENTS)


# The store


class Answering(PlainStore):
    """A store whose methods can be told to answer something else; an answer that is a function is called."""

    def __init__(self, documents=()):
        super().__init__(documents)
        self.answers = {}

    def _answer(self, name, right):
        if name not in self.answers:
            return right()
        answer = self.answers[name]
        return answer() if callable(answer) else answer

    def count_documents(self):
        return self._answer("count", super().count_documents)

    def filter_documents(self, filters=None):
        return self._answer("filter" if filters else "list", lambda: PlainStore.filter_documents(self, filters))

    def fetch(self, names):
        return self._answer("fetch", lambda: [self.documents[name] for name in names])


def fail():
    raise OSError("no route")


RUBBISH = {"count": ["many", None, math.nan, -1], "list": [None, 5, [None], [{"id": "1"}], ["1"]]}
RUBBISH |= {"filter": RUBBISH["list"], "fetch": RUBBISH["list"]}


@pytest.fixture
def fetching():
    """Let stores of the class be asked for documents by their ids."""
    name = f"{Answering.__module__}.{Answering.__qualname__}"
    freshness.register_probe(name, freshness.ANY_STORE._replace(fetch=Answering.fetch))
    yield
    del freshness.PROBES[name]


@pytest.mark.parametrize("method", RUBBISH)
def test_a_store_that_raises_or_answers_rubbish_fails_that_run_and_no_later_one(fetching, method):
    filters = {"field": "id", "operator": "!=", "value": "x"} if method == "filter" else None
    for answer in [fail, *RUBBISH[method]]:
        store = Answering(DOCUMENTS)
        store.answers = {method: answer}
        retriever = BM25Retriever(store)
        with pytest.raises((OSError, StoreAnswerError), match=r"no route|Answering(\.count_documents\(\))? returns"):
            retriever.run("hut", filters)
        store.answers = {}
        assert len(ids(retriever.run("hut", filters))) == len(DOCUMENTS)


@pytest.mark.parametrize("method", ["count", "list"])
def test_rubbish_in_the_background_leaves_the_old_index_and_is_noted(method, caplog):
    for answer in RUBBISH[method]:
        store = Answering(DOCUMENTS)
        retriever = BM25Retriever(store, refresh_seconds=0)
        retriever.warm_up()
        store.answers = {method: answer}
        for _ in range(2):
            assert len(ids(retriever.run("hut"))) == len(DOCUMENTS)
            retriever._index._background._thread.join(GUARD)
        record = retriever.run("hut")["documents"][0].meta["ce_ranker"]["bm25"]
        assert record["refresh_error"].startswith("StoreAnswerError: Answering")
        retriever.close()


@pytest.fixture
def hanging(monkeypatch):
    """A store with a method that hangs until the test is over, and a `close` that does not wait long."""
    released, arrived = threading.Event(), threading.Event()

    def hang():
        arrived.set()
        released.wait(GUARD)
        raise OSError("too late")

    monkeypatch.setattr(store_index, "_PATIENCE", 0.05)
    store = Answering(DOCUMENTS)
    store.hang, store.arrived, store.released = hang, arrived, released
    yield store
    released.set()


@pytest.mark.parametrize("method", ["count", "filter"])
def test_a_store_that_hangs_in_one_run_holds_up_no_other(hanging, method):
    retriever = BM25Retriever(hanging)
    retriever.warm_up()
    filters = {"field": "id", "operator": "!=", "value": "x"}
    hanging.answers = {method: hanging.hang}
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(retriever.run, "hut", filters)
        assert hanging.arrived.wait(GUARD)
        hanging.answers = {}
        try:
            assert len(ids(pool.submit(retriever.run, "hut", filters).result(GUARD))) == len(DOCUMENTS)
            pool.submit(retriever.close).result(GUARD)
        finally:
            hanging.released.set()
        assert isinstance(stuck.exception(GUARD), OSError | None)


@pytest.mark.parametrize("when", ["at the first reading", "in the background"])
def test_close_does_not_wait_for_a_store_that_hangs_and_a_later_run_begins_anew(hanging, when, caplog):
    retriever = BM25Retriever(hanging, refresh_seconds=0)
    if when == "in the background":
        retriever.warm_up()
    hanging.answers = {"list": hanging.hang}
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(retriever.run, "hut")
        assert hanging.arrived.wait(GUARD)
        try:
            pool.submit(retriever.close).result(GUARD)
            assert "Set a timeout in the store's client" in caplog.text
            hanging.answers = {}
            hanging.write_documents([Document(id="new", content="hut")])
            retriever._index._refresh_seconds = 60
            assert "new" in ids(pool.submit(retriever.run, "hut").result(GUARD))
        finally:
            hanging.released.set()
        stuck.exception(GUARD)
    assert "new" in ids(retriever.run("hut"))
    assert "refresh_error" not in retriever.run("hut")["documents"][0].meta["ce_ranker"]["bm25"]


def test_a_reading_that_may_never_end_is_noted_while_runs_go_on(hanging, monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(refreshing.time, "monotonic", lambda: now[0])
    retriever = BM25Retriever(hanging, refresh_seconds=0)
    retriever.warm_up()
    hanging.answers = {"list": hanging.hang}
    retriever.run("hut")
    assert hanging.arrived.wait(GUARD)

    def noted():
        return retriever.run("hut")["documents"][0].meta["ce_ranker"]["bm25"].get("refresh_error")

    assert noted() is None
    now[0] += 601
    assert [noted() for _ in range(2)] == ["the store has been read for more than 600 s"] * 2
    assert caplog.text.count("Runs go on with the old index") == 1
    retriever.close()


# The disk


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("this user mounts no disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def many(first, count):
    return [Document(id=str(number), content=f"hut word{number} other{number}") for number in range(first, count)]


def test_a_full_disk_keeps_the_last_index_and_is_not_filled_by_what_does_not_fit(small_disk, caplog):
    index = small_disk / "index"
    store = PlainStore(many(0, 50))
    retriever = BM25Retriever(store, index_path=str(index), refresh="every_run", top_k=100_000)
    retriever.run("hut")
    kept = {path.name: path.read_bytes() for path in index.iterdir()}
    for _ in range(2):
        store.write_documents(many(len(store.documents), len(store.documents) + 5000))
        assert len(ids(retriever.run("hut"))) == len(store.documents)
    assert "could not be saved" in caplog.text
    assert {path.name: path.read_bytes() for path in index.iterdir()} == kept
    restarted = BM25Retriever(PlainStore(many(0, 50)), index_path=str(index))
    caplog.clear()
    assert len(ids(restarted.run("hut"))) == 50
    assert caplog.text == ""


def test_files_that_another_process_takes_for_old_ones_are_missed_before_they_count(tmp_path, monkeypatch, caplog):
    """As where the clock of that process jumped ahead by hours while this one was saving."""
    store = PlainStore(many(0, 5))
    retriever = BM25Retriever(store, index_path=str(tmp_path / "index"), refresh="every_run")
    retriever.run("hut")
    write = files._write_synced

    def and_then_removed(path, data):
        write(path, data)
        if path.name.startswith("manifest"):
            next(one for one in path.parent.iterdir() if one.name not in before).unlink()

    before = {path.name for path in (tmp_path / "index").iterdir()}
    monkeypatch.setattr(files, "_write_synced", and_then_removed)
    store.write_documents(many(5, 9))
    assert len(ids(retriever.run("hut"))) == 9
    assert "was removed before the index was saved" in caplog.text
    assert {path.name for path in (tmp_path / "index").iterdir()} == before
    monkeypatch.undo()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        BM25Retriever(PlainStore(many(0, 5)), index_path=str(tmp_path / "index")).run("hut")
    assert caplog.text == ""


# Processes and clocks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_that_is_killed_in_the_middle_leaves_its_parent_and_siblings_alone(tiny_bert, tmp_path):
    ranker = CrossEncoderRanker(model=tiny_bert)
    retriever = BM25Retriever(PlainStore(DOCUMENTS), index_path=str(tmp_path / "index"))
    expected = scores(ranker), ids(retriever.run("hut"))

    def worker(busy):
        child = os.fork()
        if child:
            return child
        try:
            signal.alarm(GUARD)
            while busy:
                scores(ranker, os.urandom(4).hex())
                (tmp_path / f"at-work-{os.getpid()}").touch()
            os._exit(0 if (scores(ranker), ids(retriever.run("hut"))) == expected else 1)
        finally:
            os._exit(2)

    for _ in range(2):
        child = worker(True)
        while not (tmp_path / f"at-work-{child}").exists():
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert (scores(ranker), ids(retriever.run("hut"))) == expected
        assert os.waitstatus_to_exitcode(os.waitpid(worker(False), 0)[1]) == 0


def test_a_clock_that_jumps_changes_nothing(tiny_bert, monkeypatch):
    jumps = iter(range(10**9))
    ranker = CrossEncoderRanker(model=tiny_bert, deadline_ms=600_000)
    retriever = BM25Retriever(PlainStore(DOCUMENTS))
    expected = scores(ranker), ids(retriever.run("hut"))
    monkeypatch.setattr(time, "time", lambda: (-1) ** next(jumps) * 1e9)
    assert ids(retriever.run("hut")) == expected[1]
    assert scores(ranker) == pytest.approx(expected[0], abs=1e-5)
    assert len(ranker.run("the hut", DOCUMENTS)["report"]["scored"]) == len(DOCUMENTS)


READS_THE_CLOCK_OF_THE_DAY = {
    "bm25/files.py": "compares it with the times of files",
    "backends/server_client.py": "reads a date of HTTP where the server does not say its own time",
    "evaluation/running/journal.py": "notes when a run began",
}
"""Where the clock of the day, which jumps, may be read: nowhere to measure how long something takes."""


def test_nothing_is_measured_by_a_clock_that_jumps():
    package = REPOSITORY / "src"
    found = {
        str(path.relative_to(package)).removeprefix("haystack_ce_ranker/")
        for path in package.rglob("*.py")
        if any(sign in path.read_text(encoding="utf-8") for sign in ("time.time(", "datetime.now(", "utcnow("))
    }
    assert found == set(READS_THE_CLOCK_OF_THE_DAY)
