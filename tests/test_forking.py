"""Forks: state that a child makes anew, blocks that a fork waits for, and the thread that came over from the parent."""

import os
import threading

import pytest

from fakes import in_a_child, in_a_new_process
from haystack_ce_ranker import forking
from haystack_ce_ranker.backends.devices import pass_lock, require_process_of
from haystack_ce_ranker.backends.side_by_side import _threads

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


RETRIEVING = """
import multiprocessing, signal, sys, threading
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack_ce_ranker import BM25Retriever

store = InMemoryDocumentStore()
store.write_documents([Document(id=str(number), content=f"fox number{number}") for number in range(100)])
retriever = BM25Retriever(store)
if sys.argv[1] == "used":
    retriever.run("fox")
if sys.argv[1] == "held":  # by a thread that does not exist in the child
    thread = threading.Thread(target=retriever._index._lock.acquire)
    thread.start()
    thread.join()


def work():
    signal.alarm(100)  # ends a child that waits for ever
    for one in (retriever, BM25Retriever(store)):
        assert [document.id for document in one.run("number7")["documents"]] == ["7"]
    store.write_documents([Document(id="new", content="goose")])
    assert [document.id for document in retriever.run("goose")["documents"]] == ["new"]


child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
print(child.exitcode)
"""


@pytest.mark.parametrize("state", ["used", "fresh", "held"])
def test_a_child_retrieves_with_the_parents_index_and_with_its_own(state):
    assert in_a_new_process(RETRIEVING, state) == ["0"]


def test_a_child_has_locks_and_pools_of_its_own():
    lock, pool = pass_lock("a device"), _threads(2)
    assert pass_lock("a device") is lock is not pass_lock("another device")
    assert _threads(2) is pool

    def has_its_own():
        free = not pass_lock("a device").locked()
        return free and _threads(2)._executor.submit(os.getpid).result(timeout=100) == os.getpid()

    with lock:
        assert in_a_child(has_its_own) == 0
    assert pass_lock("a device") is lock
    assert _threads(2) is pool


def test_threads_that_ask_at_once_get_the_same_object():
    started, made = threading.Barrier(4), []

    @forking.cached
    def slow():
        made.append(object())
        return made[-1]

    def ask():
        started.wait()
        found.append(slow())

    found = []
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == made * 4
    assert len(made) == 1


def test_an_error_is_not_kept():
    answers = iter([ZeroDivisionError("first"), 7])

    @forking.cached
    def made():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ZeroDivisionError):
        made()
    assert (made(), made()) == (7, 7)


class Owner:
    renewals = 0

    def after_fork(self):
        self.renewals += 1


def test_owners_are_renewed_in_each_child_and_forgotten_when_they_are_gone():
    owner, gone = Owner(), Owner()
    forking.renewed(owner)
    forking.renewed(gone)
    known = len(forking._owners)
    del gone
    assert len(forking._owners) == known - 1
    assert in_a_child(lambda: owner.renewals == 1 and in_a_child(lambda: owner.renewals == 2) == 0) == 0
    assert owner.renewals == 0


def test_a_fork_waits_for_the_block_of_another_thread_and_lets_it_begin_inner_ones():
    inside, go_on, done = threading.Event(), threading.Event(), []

    def work():
        with forking.uninterrupted():
            inside.set()
            go_on.wait()
            with forking.uninterrupted():  # while the fork waits
                done.append("work")

    def fork():
        done.append(("child", in_a_child(lambda: done == ["work"])))

    worker, forker = threading.Thread(target=work), threading.Thread(target=fork)
    worker.start()
    inside.wait()
    forker.start()
    while not forking._gate._forking:
        pass
    go_on.set()
    worker.join()
    forker.join()
    assert done == ["work", ("child", 0)]
    assert not forking._gate._forking
    assert not forking._gate._inside


def test_no_other_thread_begins_a_block_while_a_fork_waits():
    gate, order = forking._Gate(), []
    gate.enter()

    def enter():
        gate.enter()
        order.append("entered")
        gate.leave()

    def fork():
        gate.before_fork()
        order.append("forked")
        gate.after_in_parent()

    forker = threading.Thread(target=fork)
    forker.start()
    while not gate._forking:
        pass
    late = threading.Thread(target=enter)
    late.start()
    while not gate._changed._waiters or len(gate._changed._waiters) < 2:  # both wait
        pass
    gate.leave()
    forker.join()
    late.join()
    assert order == ["forked", "entered"]


def test_forks_without_a_pause_between_them_let_a_block_begin():
    gate, begun, over = forking._Gate(), threading.Event(), threading.Event()

    def block() -> None:
        gate.enter()
        begun.set()
        gate.leave()

    def forks(before: threading.Event, after: threading.Event) -> None:
        while not over.is_set():
            gate.before_fork()
            before.set()  # it ends when the other thread's next one has begun, so that there is always one
            after.wait(0.2)
            after.clear()
            gate.after_in_parent()

    one, other = threading.Event(), threading.Event()
    threads = [threading.Thread(target=forks, args=pair) for pair in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    waiting = threading.Thread(target=block)
    try:
        assert one.wait(10)
        waiting.start()
        assert begun.wait(10)
    finally:
        over.set()
        for thread in (*threads, waiting):
            thread.join(10)


def test_a_thread_may_fork_inside_a_block_and_two_threads_may_at_once(monkeypatch):
    monkeypatch.setattr(forking, "PATIENCE", 2.0)  # another library's hooks may keep the two apart, as loguru's do
    both = threading.Barrier(2)
    codes = []

    def fork():
        with forking.uninterrupted():
            both.wait()

            def work():
                with forking.uninterrupted():
                    return forking._gate._inside == {threading.get_ident(): 2}

            codes.append(in_a_child(work))

    threads = [threading.Thread(target=fork) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]


def test_a_fork_does_not_wait_for_ever_for_a_block_that_needs_what_the_forking_thread_holds(monkeypatch):
    monkeypatch.setattr(forking, "PATIENCE", 0.1)
    held, inside, went_on = threading.Lock(), threading.Event(), threading.Event()

    def block():
        with forking.uninterrupted():
            inside.set()
            with held:
                went_on.set()

    with held:  # as a hook of another library that comes before ours
        thread = threading.Thread(target=block)
        thread.start()
        inside.wait()
        assert in_a_child(lambda: forking._gate._inside == {}) == 0
        assert not went_on.is_set()
    thread.join()
    with forking.uninterrupted():
        assert forking._gate._inside.keys() == {threading.get_ident()}


def test_only_the_thread_that_came_over_hands_its_work_to_another_one():
    here = threading.get_ident()
    assert forking.in_own_thread(threading.get_ident) == here

    def in_child():
        others = forking.in_own_thread(threading.get_ident), forking.in_own_thread(threading.get_ident)
        from_there = forking.in_own_thread(lambda: forking.in_own_thread(threading.get_ident))
        with pytest.raises(ZeroDivisionError):
            forking.in_own_thread(lambda: 1 / 0)
        return others[0] == others[1] == from_there != here

    assert in_a_child(in_child) == 0


def test_a_model_on_a_gpu_is_refused_in_a_child_with_the_way_out():
    require_process_of("cuda:0", os.getpid())
    require_process_of("cpu", os.getpid() + 1)
    with pytest.raises(RuntimeError, match="loaded on cuda:0 before .* forked.*after the fork.*'spawn'"):
        require_process_of("cuda:0", os.getpid() + 1)
