"""The arithmetic of benchmarks/speed.py: what is compared with what, on which queries. Nothing is timed."""

import numpy as np
import pytest
from haystack import Document

import speed_results
import speed_systems
from common import Report
from speed_tasks import Task


def results_of(**seconds):
    return {
        name: speed_results.Results(seconds=times, pairs=dict.fromkeys(times, 10)) for name, times in seconds.items()
    }


def test_a_ratio_is_the_median_over_the_queries_that_both_ran():
    results = results_of(ours={"a": 1.0, "b": 1.0, "c": 1.0, "d": 50.0}, theirs={"a": 2.0, "b": 4.0, "c": 9.0})
    assert speed_results.ratio(results, "ours", "theirs") == 4.0
    assert results["theirs"].pairs_per_second == 2.5


def test_growth_tells_linear_from_quadratic():
    sizes = np.array([10, 30, 100, 300, 1000])
    assert speed_results.growth(sizes, sizes * 0.02) == pytest.approx((1.0, 1.0))
    exponent, straight = speed_results.growth(sizes, sizes**2 * 0.02)
    assert exponent == pytest.approx(2.0)
    assert straight < 0.99


def test_systems_take_turns_and_the_slow_ones_run_the_first_queries_only():
    ran = []

    def system(name, ours):
        def rank(query, documents):
            ran.append((query, name))
            return speed_systems.Answer({document.id: 1.0 for document in documents})

        return speed_systems.System(name, lambda setup: rank, ours=ours)

    systems = [system(speed_systems.HAYSTACK, ours=False), system("slow", ours=False), system("mine", ours=True)]
    running = {one: one.start(None) for one in systems}
    tasks = [Task(query, query, [Document(id="d", content="text")]) for query in "abc"]
    results = speed_results.in_turn(running, tasks, peer_tasks=1)
    haystack = speed_systems.HAYSTACK
    assert ran == [
        *[("a", haystack), ("a", "slow"), ("a", "mine")],
        *[("b", "mine"), ("b", haystack)],
        *[("c", "mine"), ("c", haystack)],
    ]
    assert [len(results[one.name].answers) for one in systems] == [3, 1, 3]


def test_a_peer_that_is_not_installed_is_left_out_with_a_word(tmp_path, capsys):
    def absent(setup):
        raise ImportError("No module named 'peer'")

    assert speed_systems.started([speed_systems.System("peer", absent)], None, Report(tmp_path / "speed.py")) == {}
    assert "left out: peer: No module named 'peer'" in capsys.readouterr().out


def test_padding_is_counted_over_all_queries():
    answers = {"a": speed_systems.Answer({}, tokens=90, slots=100), "b": speed_systems.Answer({}, tokens=10, slots=100)}
    assert speed_results.Results(answers=answers).padding == pytest.approx(0.5)
    assert speed_results.Results(answers={"a": speed_systems.Answer({})}).padding is None


def test_rankings_are_compared_rank_by_rank_so_that_ties_may_swap():
    one = speed_results.Results(answers={"a": speed_systems.Answer({"x": 0.9, "y": 0.9, "z": 0.2})})
    other = speed_results.Results(answers={"a": speed_systems.Answer({"y": 0.9, "x": 0.9, "z": 0.5})})
    assert speed_results.largest_rank_difference(one, other) == pytest.approx(0.3)
