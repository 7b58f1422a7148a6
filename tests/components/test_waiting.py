"""Requests that wait: refused beyond a limit, answered at their deadline, dropped when cancelled."""

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from haystack import Document, Pipeline

from fakes import FakeBackend, with_time_enough
from haystack_ce_ranker import CrossEncoderRanker, OverloadError
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.scoring import line, visits, waiting

DOCUMENTS = [Document(id=str(place), content=text) for place, text in enumerate(["the hut", "a car", "snow", ""])]


class Held(FakeBackend):
    """Its passes last until `go_on` is set."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.device = device
        self.go_on = threading.Event()
        self.begun = threading.Semaphore(0)

    def logits(self, batch):
        self.begun.release()
        assert self.go_on.wait(30)
        return super().logits(batch)


@pytest.fixture
def backend(monkeypatch):
    """What each model is; the line and the visitors are those of this test alone."""
    made = Held()
    for cached in (line.line_of, visits.visitors_of, waiting._threads):
        cached.after_fork()
    monkeypatch.setattr(loading, "load", lambda *_: made)
    yield made
    made.go_on.set()


def ranker(**parameters):
    return CrossEncoderRanker(model="a/model", **parameters)


def answer(made, run):
    """What a ranker answers in one of the two ways."""
    found = getattr(made, run)("the hut", DOCUMENTS)
    return asyncio.run(found) if run == "run_async" else found


class Running:
    """A run in a thread of its own, whose pass has begun, or which waits in the line."""

    def __init__(self, made, backend):
        first = not line.line_of(backend.device).is_busy  # asked before the run can enter the line itself
        self.pool = ThreadPoolExecutor(1)
        self.result = self.pool.submit(made.run, "the hut", DOCUMENTS)
        if first:
            assert backend.begun.acquire(timeout=30)
        else:
            await_true(lambda: line.line_of(backend.device)._waiting)

    def over(self):
        return self.result.result(30)


def await_true(condition):
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends


def assert_unscored(found, why):
    assert [document.id for document in found["documents"]] == ["0", "1", "2", "3"]
    assert [document.score for document in found["documents"]] == [None] * 4
    record = found["documents"][0].meta["ce_ranker"]["cross_encoder"]
    assert (record["why_unscored"], record["logit"], record["rank"], record["scored"]) == (why, None, 1, 0)
    report = found["report"]
    assert (report["scored"], report["unscored"], report["pairs"]) == ({}, ["0", "1", "2", "3"], 0)
    assert report["why_unscored"] == {why: 4}
    assert report["depth_stopped"] == why
    assert report["depth_used"] == 0
    assert report["refused"] is (why == "overload")
    assert report["deadline_reached"] is (why == "deadline")


def test_a_request_too_many_is_refused_at_once(backend, caplog):
    made, other = ranker(max_waiting=1), ranker(max_waiting=0, name="other")
    begun, waits = Running(made, backend), Running(made, backend)
    with caplog.at_level(logging.WARNING):
        for found in (made.run("the hut", DOCUMENTS), asyncio.run(made.run_async("the hut", DOCUMENTS))):
            assert_unscored(found, "overload")
    assert caplog.text.count("a request was refused") == 1
    assert "1 requests already waited for a/model (max_waiting)" in caplog.text
    assert other.run("the hut", DOCUMENTS)["report"]["refused"]  # it is the same model
    assert not ranker(max_waiting=0, dtype="float16")._entered().__enter__().refused
    backend.go_on.set()
    for one in (begun, waits):
        report = one.over()["report"]
        assert (report["refused"], len(report["scored"]), report["shared_batches"]) == (False, 3, 0)
    assert made.run("the hut", DOCUMENTS)["report"]["refused"] is False
    assert waits.over()["report"]["waited_ms"] > 0.0


@pytest.mark.parametrize("run", ["run", "run_async"])
def test_by_choice_a_refusal_is_an_error(backend, run):
    made = ranker(max_waiting=0, on_overload="error")
    begun = Running(made, backend)
    with pytest.raises(OverloadError, match="max_waiting=0.*a/model.*raise max_waiting"):
        answer(made, run)
    late = ranker(deadline_ms=30, on_overload="error")
    with pytest.raises(OverloadError, match="deadline_ms=30 passed before a/model had scored any of 4 documents"):
        late.run("the hut", DOCUMENTS)
    backend.go_on.set()
    assert len(begun.over()["report"]["scored"]) == 3


def test_without_a_limit_nobody_is_refused(backend):
    made = ranker(max_waiting=None)
    with visits.visitors_of("torch", "a/model", "None", "", "None")._lock:
        visits.visitors_of("torch", "a/model", "None", "", "None").inside += 10**6
    backend.go_on.set()
    assert made.run("the hut", DOCUMENTS)["report"]["refused"] is False
    assert ranker().run("the hut", DOCUMENTS)["report"]["refused"] is True


def test_who_errs_does_not_stay(backend):
    made = ranker(max_waiting=0)
    for _ in range(2):
        with pytest.raises(ValueError, match="top_k"):
            made.run("the hut", DOCUMENTS, top_k=0)
        with pytest.raises(TypeError, match="documents"):
            asyncio.run(made.run_async("the hut", "documents"))
    backend.go_on.set()
    assert made.run("the hut", DOCUMENTS)["report"]["refused"] is False


@pytest.mark.parametrize("depth", [None, "auto", 2])
@pytest.mark.parametrize("run", ["run", "run_async"])
def test_a_deadline_that_passes_while_a_request_waits_is_kept(backend, run, depth):
    begun = Running(ranker(), backend)

    def within(seconds):  # while the first one still runs
        found = answer(ranker(deadline_ms=1000 * seconds, depth=depth), run)
        report = found["report"]
        assert [document.score for document in found["documents"]] == [None] * 4
        assert (report["scored"], report["deadline_reached"], report["refused"]) == ({}, True, False)
        return report

    with_time_enough(within, lambda report: report["waited_ms"] / 1000 > report["seconds"]["score"])
    backend.go_on.set()
    assert len(begun.over()["report"]["scored"]) == 3
    assert len(backend.fed) == 3


@pytest.fixture
def slow_load(backend, monkeypatch):
    """Loading lasts until this is set."""
    go_on, loads = threading.Event(), []

    def load(*_):
        loads.append(1)
        assert go_on.wait(30)
        if isinstance(go_on.error, Exception):
            raise go_on.error
        return backend

    go_on.loads, go_on.error = loads, None
    monkeypatch.setattr(loading, "load", load)
    backend.go_on.set()
    yield go_on
    go_on.set()


def test_loading_counts_in_the_deadline_and_goes_on_after_it(slow_load, backend):
    made = ranker(deadline_ms=30)
    for found in (made.run("the hut", DOCUMENTS), asyncio.run(made.run_async("the hut", DOCUMENTS))):
        assert_unscored(found, "deadline")
        assert found["report"]["backend"] == "torch"
        assert found["report"]["device"] is None
    slow_load.set()
    patient = ranker(deadline_ms=60_000)
    report = patient.run("the hut", DOCUMENTS)["report"]
    assert (report["backend"], report["device"], len(report["scored"])) == ("fake", "cpu", 3)
    assert len(slow_load.loads) == 1


def test_an_error_of_loading_is_raised_or_logged_if_nobody_waits(slow_load, caplog):
    slow_load.error = OSError("no such model")
    assert_unscored(ranker(deadline_ms=30).run("the hut", DOCUMENTS), "deadline")
    with caplog.at_level(logging.ERROR):
        slow_load.set()
        with pytest.raises(OSError, match="no such model"):
            ranker(deadline_ms=60_000).run("the hut", DOCUMENTS)
    assert "The model could not be loaded" in caplog.text


def test_a_cancelled_request_frees_its_place_and_its_pairs_are_not_run(backend):
    made = ranker(max_waiting=1)
    begun = Running(ranker(), backend)

    async def give_up():
        task = asyncio.create_task(made.run_async("a city", DOCUMENTS))
        while not line.line_of("cpu")._waiting:
            await asyncio.sleep(0)
        assert made.run("the hut", DOCUMENTS)["report"]["refused"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.create_task(made.run_async("the car", DOCUMENTS))

    async def live():
        other = await give_up()
        while len(line.line_of("cpu")._waiting) != 2:  # the cancelled one is skipped when its turn comes
            await asyncio.sleep(0)
        backend.go_on.set()
        return await other

    assert asyncio.run(live())["report"]["refused"] is False
    begun.over()
    assert len(backend.fed) == 6  # three pairs each of the others


def test_requests_leave_the_threads_of_the_event_loop_alone(backend):
    backend.go_on.set()

    async def live():
        blocked, free = threading.Event(), ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(free)
        blocking = asyncio.create_task(asyncio.to_thread(blocked.wait, 30))
        found = await asyncio.gather(*(ranker().run_async("the hut", DOCUMENTS) for _ in range(80)))
        blocked.set()
        await blocking
        return found

    assert [len(found["report"]["scored"]) for found in asyncio.run(live())] == [3] * 80


def test_a_request_that_gets_no_thread_is_answered_at_its_deadline_or_forgotten(backend, monkeypatch):
    few = ThreadPoolExecutor(1)
    monkeypatch.setattr(waiting, "_threads", lambda _: few)
    made = ranker()

    async def live():
        first = asyncio.create_task(made.run_async("the hut", DOCUMENTS))
        while not backend.begun.acquire(blocking=False):
            await asyncio.sleep(0)
        assert_unscored(await ranker(deadline_ms=30).run_async("the hut", DOCUMENTS), "deadline")
        cancelled = asyncio.create_task(made.run_async("a car", DOCUMENTS))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        backend.go_on.set()
        return await first

    assert len(asyncio.run(live())["report"]["scored"]) == 3
    few.shutdown()
    assert len(backend.fed) == 3


def test_requests_to_a_server_do_not_wait_for_each_other(backend):
    backend.device = "remote"
    made = ranker()
    results = [ThreadPoolExecutor(1).submit(made.run, "the hut", DOCUMENTS) for _ in range(3)]
    for _ in results:
        assert backend.begun.acquire(timeout=30)  # all are with the server at once
    backend.go_on.set()
    reports = [result.result(30)["report"] for result in results]
    assert [report["shared_batches"] for report in reports] == [0, 0, 0]


def test_the_limits_survive_a_yaml():
    pipeline = Pipeline()
    given = {"max_wait_ms": 2.5, "max_waiting": 7, "on_overload": "error"}
    pipeline.add_component("ranker", CrossEncoderRanker(**given))
    again = Pipeline.loads(pipeline.dumps()).get_component("ranker")
    assert {name: getattr(again, name) for name in given} == given
