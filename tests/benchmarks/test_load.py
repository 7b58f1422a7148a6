"""The arithmetic of benchmarks/load.py, and its clients against a server that is a function. No time decides."""

import asyncio
from itertools import count

import pytest
from haystack import Document, Pipeline

import load
import load_clients
from load_clients import Figures, Reply
from load_servers import EXACT, INT8, STOCK, TORCH, Served
from speed_tasks import Task

TASKS = [Task(name, name, [Document(id=name, content=name)]) for name in "abc"]


def test_figures_count_whole_answers_and_name_all_others():
    replies = [
        Reply(10.0, 1.0, 200, 10),
        Reply(10.5, 1.5, 200, 10),
        Reply(11.0, 0.1, 200, 4),
        Reply(11.0, 0.1, 503, 0),
        Reply(11.0, 0.1, 500, 0),
        Reply(11.0, 3.0, 0, 0),
    ]
    found = Figures.of(replies, 10)
    assert (found.ranked, found.partly, found.refused, found.failed, found.sent) == (2, 1, 1, 2, 6)
    assert found.per_second == 2 / 4.0  # until the client that got no answer gave up
    assert found.milliseconds[0] == 1250
    assert found.milliseconds[3] == 1500


def test_clients_in_a_closed_loop_take_the_tasks_in_turn_and_one_at_a_time_each(monkeypatch):
    ticks = count()
    monkeypatch.setattr(load_clients.time, "perf_counter", lambda: float(next(ticks)))
    asked, at_once = [], []

    async def ask(task):
        asked.append(task.id)
        at_once.append(len(asked) - len(done))
        await asyncio.sleep(0)
        done.append(task.id)
        return 200, 1

    done = []
    replies = asyncio.run(load_clients.closed_loop(ask, TASKS, clients=2, seconds=20.0))
    assert len(replies) == len(asked) > 4
    assert max(at_once) == 2
    assert asked[:6] == ["a", "b", "c"] * 2
    assert {one.status for one in replies} == {200}


def test_requests_that_come_by_themselves_do_not_wait_for_each_other():
    release = asyncio.Event()
    asked = []

    async def ask(task):
        asked.append(task.id)
        if len(asked) == 4:
            release.set()
        await release.wait()  # a closed loop would wait for ever
        return 200, 1

    async def run():
        return await load_clients.open_loop(ask, TASKS, [0.0, 0.0, 0.001, 0.002], patience=30)

    assert [one.status for one in asyncio.run(run())] == [200] * 4
    assert sorted(asked) == ["a", "a", "b", "c"]  # who comes first where both are late is the machine's to say


def test_a_client_that_gets_no_answer_gives_up_and_says_so():
    async def never(task):
        await asyncio.Event().wait()

    async def broken(task):
        raise ConnectionError("gone")

    for ask in (never, broken):
        (reply,) = asyncio.run(load_clients.open_loop(ask, TASKS, [0.0], patience=0.01))
        assert (reply.status, reply.scored) == (0, 0)


def test_arrivals_are_the_same_for_a_seed_and_come_at_their_rate():
    times = load_clients.arrivals(50.0, 100.0, seed=3)
    assert times == load_clients.arrivals(50.0, 100.0, seed=3) == sorted(times)
    assert times != load_clients.arrivals(50.0, 100.0, seed=4)
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert 0 < times[0] < times[-1] < 100


def test_a_queue_that_nobody_waits_in_has_no_tail_and_a_limit_shortens_that_of_a_busy_one():
    even = [float(number) for number in range(1, 101)]
    assert load.one_queue([1.0], even, 0.5) == (pytest.approx(1.0), 0.0)
    times = load_clients.arrivals(1.0, 3000, seed=1)
    spread, refused = load.one_queue([1.0], times, 0.8)
    limited, lost = load.one_queue([1.0], times, 0.8, 4)
    assert (refused, spread > 3.5 > limited) == (0.0, True)
    assert 0.01 < lost < 0.1


def test_ratios_are_medians_of_rounds_and_compare_with_fewer_clients_only():
    def rounds(*rates):
        return [Figures(rate, (1.0, 1.0, 1.0, 1.0), 1, 0, 0, 0) for rate in rates]

    found = {(STOCK, 1): rounds(1, 1, 1), (STOCK, 16): rounds(1, 2, 1), (INT8, 1): rounds(8, 10, 10)}
    found |= {(INT8, 16): rounds(5, 5, 9), (INT8, 32): rounds(4, 12, 9)}
    assert load.ratio(found, INT8, 16) == 5
    assert load.kept(found, INT8, 16) == pytest.approx(0.625)  # of 5/8, 5/10 and 9/10
    assert load.kept(found, INT8, 32) == pytest.approx(0.9)  # of 4/8, 12/10 and 9/10
    assert load.ratio({(INT8, 1): rounds(1)}, INT8, 1) is None
    assert list(load.in_turns("abc", 2)) == [["a", "b", "c"], ["b", "c", "a"]]


@pytest.mark.parametrize(
    ("system", "kind"), [(TORCH, ("torch", "float32")), (EXACT, ("openvino", "float32")), (INT8, ("onnx", None))]
)
def test_each_system_is_served_as_yaml_with_the_threads_that_were_asked_for(system, kind, tmp_path):
    pipeline = Pipeline.loads(Served(system, tmp_path, 2, options={"max_waiting": 4}).pipeline())
    made = pipeline.get_component("ranker").to_dict()["init_parameters"]
    assert made["model"].startswith(str(tmp_path / "ce-minilm-l12"))
    assert (made["backend"], made["dtype"]) == kind
    assert (made["top_k"], made["threads"], made["max_waiting"]) == (10, 2, 4)
