"""The arithmetic of benchmarks/speed.py: what is compared with what, on which queries."""

import importlib.util

import numpy as np
import pytest
from haystack import Document

from fakes import REPOSITORY

FILE = REPOSITORY / "benchmarks" / "speed.py"


@pytest.fixture(scope="module")
def speed():
    spec = importlib.util.spec_from_file_location("speed_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results_of(speed, **seconds):
    return {name: speed.Results(seconds=times, pairs=dict.fromkeys(times, 10)) for name, times in seconds.items()}


def test_a_ratio_is_the_median_over_the_queries_that_both_ran(speed):
    results = results_of(speed, ours={"a": 1.0, "b": 1.0, "c": 1.0, "d": 50.0}, theirs={"a": 2.0, "b": 4.0, "c": 9.0})
    assert speed.ratio(results, "ours", "theirs") == 4.0
    assert results["theirs"].pairs_per_second == 2.5


def test_growth_tells_linear_from_quadratic(speed):
    sizes = np.array([10, 30, 100, 300, 1000])
    assert speed.growth(sizes, sizes * 0.02) == pytest.approx((1.0, 1.0))
    exponent, straight = speed.growth(sizes, sizes**2 * 0.02)
    assert exponent == pytest.approx(2.0)
    assert straight < 0.99


def test_systems_take_turns_and_the_slow_ones_run_the_first_queries_only(speed):
    ran = []

    def system(name, ours):
        def rank(query, documents):
            ran.append((query, name))
            return speed.Answer({document.id: 1.0 for document in documents})

        return speed.System(name, lambda setup: rank, ours=ours)

    systems = [system(speed.HAYSTACK, ours=False), system("slow", ours=False), system("mine", ours=True)]
    running = {one: one.start(None) for one in systems}
    tasks = [speed.Task(query, query, [Document(id="d", content="text")]) for query in "abc"]
    results = speed.in_turn(running, tasks, peer_tasks=1)
    haystack = speed.HAYSTACK
    assert ran == [
        *[("a", haystack), ("a", "slow"), ("a", "mine")],
        *[("b", "mine"), ("b", haystack)],
        *[("c", "mine"), ("c", haystack)],
    ]
    assert [len(results[one.name].answers) for one in systems] == [3, 1, 3]


def test_a_peer_that_is_not_installed_is_left_out_with_a_word(speed, capsys):
    def absent(setup):
        raise ImportError("No module named 'peer'")

    assert speed.started([speed.System("peer", absent)], None) == {}
    assert "left out: peer: No module named 'peer'" in capsys.readouterr().out


def test_padding_is_counted_over_all_queries(speed):
    answers = {"a": speed.Answer({}, tokens=90, slots=100), "b": speed.Answer({}, tokens=10, slots=100)}
    assert speed.Results(answers=answers).padding == pytest.approx(0.5)
    assert speed.Results(answers={"a": speed.Answer({})}).padding is None


def test_rankings_are_compared_rank_by_rank_so_that_ties_may_swap(speed):
    one = speed.Results(answers={"a": speed.Answer({"x": 0.9, "y": 0.9, "z": 0.2})})
    other = speed.Results(answers={"a": speed.Answer({"y": 0.9, "x": 0.9, "z": 0.5})})
    assert speed.largest_rank_difference(one, other) == pytest.approx(0.3)
