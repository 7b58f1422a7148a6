"""Judged queries: the grid of weights, nDCG as ir_measures has it, and folds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import judged_queries
from haystack_ce_ranker.fusion.fuse import ScoredList, fuse
from haystack_ce_ranker.fusion.judged import (
    Frame,
    JudgedQuery,
    Setting,
    WeightGrid,
    default_steps,
    measure,
    ndcg,
    simplex,
    split,
)
from haystack_ce_ranker.fusion.normalizers import NONE, Normalization

RAW = Frame("none", {})
DEFAULT = Setting(RAW, {"bm25": 0.2, "ce": 0.8})


@pytest.mark.parametrize(("inputs", "steps", "rows"), [(1, 5, 1), (2, 20, 21), (3, 10, 66), (4, 10, 286)])
def test_the_grid_holds_every_mix_once_and_the_corners(inputs: int, steps: int, rows: int) -> None:
    grid = simplex(inputs, steps)
    assert grid.shape == (rows, inputs)
    assert np.allclose(grid.sum(axis=1), 1.0)
    assert len({tuple(row) for row in grid.tolist()}) == rows
    for corner in np.eye(inputs).tolist():
        assert corner in grid.tolist()


def test_wrong_grid_is_named() -> None:
    with pytest.raises(ValueError, match="inputs must be a whole number >= 1, but got 0"):
        simplex(0, 5)
    assert [default_steps(count) for count in (2, 3, 5)] == [20, 10, 5]


some_list = st.dictionaries(st.sampled_from("abcdefghijklmno"), st.floats(-9, 9) | st.none(), max_size=15)
grades = st.dictionaries(st.sampled_from("abcdefghijklmnoz"), st.integers(0, 3), max_size=8)


@settings(max_examples=50)
@given(
    some_list,
    some_list,
    grades,
    st.sampled_from(["auto", "none", "min_max", "rank"]),
    st.sampled_from(["min", "zero", "drop", "impute"]),
    st.sampled_from(["weighted_sum", "reciprocal_rank"]),
)
def test_the_grid_measures_what_fuse_ranks(
    first: dict[str, float], second: dict[str, float], judged: dict[str, int], norm: str, missing: str, method: str
) -> None:
    ir_measures = pytest.importorskip("ir_measures", reason="ir_measures is not installed (extra `evaluate`)")
    params = {"k": 60.0} if norm == "rank" else {}
    frame = Frame("f", dict.fromkeys("xy", Normalization(norm, params)), missing, method)
    lists = {"x": ScoredList(list(first), list(first.values())), "y": ScoredList(list(second), list(second.values()))}
    query = JudgedQuery("q", lists, judged)
    weights = np.array([[0.3, 0.7], [1.0, 0.0], [0.0, 1.0]])
    ours = ndcg([query], ["x", "y"], frame, weights)[:, 0]
    for row, found in zip(weights.tolist(), ours.tolist(), strict=True):
        fused = fuse(
            lists,
            dict(zip("xy", row, strict=True)),
            method=method,
            normalizations=frame.normalizations,
            missing=missing,
        )
        run = {"q": {identifier: float(len(fused.ids) - i) for i, identifier in enumerate(fused.ids)}}
        expected = 0.0
        if any(judged.values()) and fused.ids:
            expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], {"q": judged}, run)[ir_measures.nDCG @ 10]
        assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdefghijkl"), st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.1]), max_size=12),
        min_size=2,
        max_size=4,
    ),
    st.sampled_from(["none", "min_max", "z_score"]),
    st.sampled_from(["a", "f", "l"]),
)
def test_ties_of_sums_are_the_same_as_where_fuse_sums(found: list[dict[str, float]], norm: str, wanted: str) -> None:
    names = [f"list {number}" for number in range(len(found))]
    lists = {name: ScoredList(list(one), list(one.values())) for name, one in zip(names, found, strict=True)}
    frame = Frame(norm, dict.fromkeys(names, Normalization(norm, {})))
    weights = np.vstack([simplex(len(names), 10), np.full(len(names), 0.7), 0.1 + np.arange(len(names)) / 7])
    ours = ndcg([JudgedQuery("q", lists, {wanted: 1})], names, frame, weights)[:, 0]
    for row, value in zip(weights.tolist(), ours.tolist(), strict=True):
        ids = fuse(lists, dict(zip(names, row, strict=True)), normalizations=frame.normalizations).ids[:10]
        assert value == pytest.approx(1.0 / math.log2(ids.index(wanted) + 2) if wanted in ids else 0.0)


def test_queries_without_relevant_documents_or_lists_count_as_zero() -> None:
    empty = JudgedQuery("a", {}, {"d": 1})
    barren = JudgedQuery("b", {"ce": ScoredList(["d"], [1.0])}, {"d": 0})
    found = JudgedQuery("c", {"ce": ScoredList(["d"], [1.0])}, {"d": 2})
    assert measure([empty, barren, found], DEFAULT).tolist() == [0.0, 0.0, 1.0]


def test_the_documents_of_a_list_without_scores_are_ranked_as_fuse_ranks_them() -> None:
    lists = {"ce": ScoredList(["a"], [None]), "bm25": ScoredList(["c", "d"], [1.0, 0.5])}
    judged = [JudgedQuery("q", lists, {wanted: 1}) for wanted in "acd"]
    places = [math.log2(fuse(lists, DEFAULT.weights).ids.index(wanted) + 2) for wanted in "acd"]
    assert measure(judged, DEFAULT) == pytest.approx([1.0 / place for place in places])
    ignored = Setting(RAW, {"bm25": 1.0, "ce": 0.0})
    assert measure(judged, ignored)[0] == 0.0


def test_candidates_are_what_is_ranked() -> None:
    lists = {"ce": ScoredList(["x", "y", "z"], [3.0, 2.0, 1.0]), "bm25": ScoredList(["z"], [1.0])}
    query = JudgedQuery("q", lists, {"z": 1}, candidates=["z"])
    assert measure([query], DEFAULT).tolist() == [1.0]


def test_folds_deal_every_query_once_and_the_same_way_again() -> None:
    folds = split(23, 5, seed=3)
    assert sorted(np.concatenate(folds).tolist()) == list(range(23))
    assert {fold.size for fold in folds} == {4, 5}
    assert all((a == b).all() for a, b in zip(folds, split(23, 5, seed=3), strict=True))
    assert len(split(3, 5)) == 3
    with pytest.raises(ValueError, match="folds must be a whole number >= 2, but got 1"):
        split(5, 1)


def test_none_is_the_normalizer_of_inputs_that_a_frame_does_not_name() -> None:
    judged = judged_queries(5, bm25=1, ce=1)
    named = Setting(Frame("none", {"bm25": NONE, "ce": NONE}), DEFAULT.weights)
    assert measure(judged, named).tolist() == measure(judged, DEFAULT).tolist()


def test_the_grid_around_a_setting_holds_its_own_weights_and_prefers_them() -> None:
    grid = WeightGrid.around({"b": 0.66, "a": 0.34}, 2)
    assert grid.names == ["a", "b"]
    assert grid.rows.tolist() == [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.34, 0.66]]
    assert grid.weights(grid.best(np.ones((4, 3)))) == {"a": 0.34, "b": 0.66}
    assert grid.best(np.array([[0.2], [0.9], [0.1], [0.5]])) == 1
    assert len(WeightGrid.around({"a": 1.0, "b": 1.0}, 2).rows) == 3
