"""The soak: answers are judged by those made alone, each number is asked once, and a client that hangs is counted."""

import threading

import pytest
from haystack import Document

import soak_faults
from soak_requests import Question, Size, Tally, is_right, run_clients

QUESTION = Question("hut", [], {"a": 0.9, "b": 0.5, "c": 0.1})


@pytest.mark.parametrize(
    ("found", "whole", "partly"),
    [
        ([("a", 0.9), ("b", 0.5), ("c", 0.1)], True, True),
        ([("a", 0.9), ("b", 0.5001), ("c", 0.1)], False, False),
        ([("a", 0.9), ("b", 0.5)], False, False),
        ([("a", 0.9), ("b", None), ("c", None)], False, True),
        ([("b", None), ("a", 0.9), ("c", None)], False, False),
        ([("a", None), ("b", None), ("c", None)], False, True),
    ],
)
def test_an_answer_is_right_if_it_is_the_one_made_alone(found, whole, partly):
    output = {"documents": [Document(id=name, content=name, score=score) for name, score in found]}
    assert is_right(QUESTION, output) is whole
    assert is_right(QUESTION, output, partly=partly) is partly


def test_clients_ask_each_number_once_and_half_of_them_in_an_event_loop():
    asked, in_loop, lock = [], [], threading.Lock()

    def ask(number):
        with lock:
            asked.append(number)

    async def ask_async(number):
        in_loop.append(number)

    assert run_clients(4, ask, ask_async, lambda number: number < 200) == 0
    assert sorted(asked + in_loop) == list(range(200))


def test_a_client_that_hangs_is_counted():
    released = threading.Event()

    async def ask_async(number):
        pass

    try:
        assert run_clients(2, lambda _: released.wait(60), ask_async, lambda number: number < 20, patience=3) == 1
    finally:
        released.set()


def test_a_tally_tells_documented_errors_from_others_and_notes_sizes():
    tally = Tally(every=2, documented=lambda error: "store" if isinstance(error, OSError) else None)
    tally.note("run", True, 0.1)
    tally.note("run", False, 0.2)
    tally.failed("run", OSError("no route"), 0.1)
    tally.failed("run", ValueError("other"), 70.0)
    assert (tally.done, tally.right, tally.errors) == (4, 1, {"store": 1})
    assert [line.partition(":")[2] for line in tally.wrong] == [" another answer than alone", " ValueError: other"]
    assert tally.late == ["run: 70.0 s, more than 60 s"]
    assert len(tally.sizes) == 2
    tally.sizes = [Size(float(n), n, n) for n in range(100)]
    assert tally.level(0.1, 0.2).memory == pytest.approx(14.5)


def test_each_error_that_is_expected_belongs_to_a_fault():
    assert set(soak_faults.EXPECTED) <= set(soak_faults.FAULTS)
    assert len(soak_faults.FAULTS) >= 20
