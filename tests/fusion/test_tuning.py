"""Tuning: choices that hold on other queries, the frames that are tried, and curves."""

from dataclasses import replace

import numpy as np
import pytest

from fakes import judged_queries
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.judged import (
    Frame,
    JudgedQuery,
    Setting,
    measure,
    split,
)
from haystack_ce_ranker.fusion.normalizers import AUTO
from haystack_ce_ranker.fusion.tuning import _Search, learning_curve, standard_frames, tune, weight_curve

RAW = Frame("none", {})
DEFAULT = Setting(RAW, {"bm25": 0.2, "ce": 0.8})


def test_a_better_first_stage_gets_the_weight_it_deserves() -> None:
    judged = judged_queries(60, bm25=2.0, ce=2.0)
    found = tune(judged, Setting(RAW, {"bm25": 0.0, "ce": 1.0}))
    assert 0.25 < found.setting.weights["ce"] < 0.75
    assert found.held_out.mean() > measure(judged, Setting(RAW, {"bm25": 0.0, "ce": 1.0})).mean() + 0.05


def test_noise_gets_no_weight() -> None:
    found = tune(judged_queries(60, bm25=0.0, ce=3.0), DEFAULT)
    assert found.setting.weights["ce"] >= 0.8
    alone = Setting(RAW, {"bm25": 0.0, "ce": 1.0})
    assert found.held_out.mean() > measure(judged_queries(60, bm25=0.0, ce=3.0), alone).mean() - 0.02


def test_held_out_values_do_not_use_their_own_query() -> None:
    """Turning one query's judgments round cannot change which setting its own fold chose."""
    judged = judged_queries(20, bm25=1.0, ce=1.5)
    first = tune(judged, DEFAULT, folds=20)
    fold = next(i for i, members in enumerate(split(20, 20)) if members.tolist() == [7])
    other = dict.fromkeys(("d0", "d1", "d2"), 1)
    changed = [*judged[:7], JudgedQuery("q7", judged[7].lists, other), *judged[8:]]
    assert tune(changed, DEFAULT, folds=20).chosen[fold] == first.chosen[fold]


def test_tuning_is_the_same_again_and_needs_two_queries() -> None:
    judged = judged_queries(12, bm25=1.0, ce=1.0)
    assert tune(judged, DEFAULT).setting == tune(judged, DEFAULT).setting
    with pytest.raises(ValueError, match="at least 2 judged queries, but got 1"):
        tune(judged[:1], DEFAULT)


def test_missing_rules_are_tried_only_where_something_is_missing() -> None:
    names = ["bm25", "ce"]
    whole = standard_frames(judged_queries(5, bm25=1, ce=1), names)
    cut = standard_frames(judged_queries(5, bm25=1, ce=1, cut=5), names)
    assert {frame.missing for frame in whole} == {"min"}
    assert {frame.missing for frame in cut} == {"min", "zero", "drop", "impute"}
    assert {frame.label for frame in whole} == {
        "none",
        "min_max",
        "z_score",
        "theoretical",
        "rank",
        "logistic",
        "reciprocal_rank",
    }


def test_theoretical_bounds_do_not_move_with_the_query() -> None:
    lists = {"bm25": ScoredList(["x", "y"], [3.0, 0.0]), "ce": ScoredList(["x", "y"], [2.0, -5.0])}
    frames = standard_frames([JudgedQuery("q", lists, {"x": 1})], ["bm25", "ce"])
    found = next(frame for frame in frames if frame.label == "theoretical").normalizations
    assert found["bm25"].params == {"low": 0.0}
    assert found["ce"].params == {"low": -5.0, "high": 2.0}


def test_a_few_queries_come_close_to_many() -> None:
    judged = judged_queries(80, bm25=1.5, ce=2.0)
    losses = learning_curve(judged, DEFAULT, [5, 30, 80, 200], frames=[], draws=10)
    assert set(losses) == {5, 30}
    assert losses[30] < 0.02
    assert losses[30] <= losses[5]


def test_the_curve_over_a_weight_says_where_it_leaves_the_input_alone() -> None:
    judged = judged_queries(60, bm25=3.0, ce=1.0)
    curve = weight_curve(judged, DEFAULT.frame, ["bm25", "ce"], "ce")
    assert [point.weight for point in curve] == pytest.approx([i / 20 for i in range(21)])
    alone = measure(judged, Setting(DEFAULT.frame, {"bm25": 0.0, "ce": 1.0}))
    first = measure(judged, Setting(DEFAULT.frame, {"bm25": 1.0, "ce": 0.0}))
    assert curve[-1].gain == (0.0, 0.0, 0.0)
    assert curve[-1].value.mean == pytest.approx(alone.mean())
    assert curve[0].gain.mean == pytest.approx((first - alone).mean())
    assert curve[0].gain.low > 0.0


def test_tuning_also_tries_what_a_joiner_does_untuned() -> None:
    """A joiner that adds cosines as they are is told to use the default, which brings them to a scale."""
    judged = [
        replace(query, lists={"bm25": query.lists["bm25"], "dense": _as_cosines(query.lists["ce"])})
        for query in judged_queries(60, bm25=1.5, ce=2.5)
    ]
    found = tune(judged, Setting(RAW, {"bm25": 0.5, "dense": 0.5}), frames=None)
    tried = _Search.over(judged, Setting(RAW, {"bm25": 0.5, "dense": 0.5}), None, 4)
    assert [frame.label for frame in tried.frames[:2]] == ["none", "auto"]
    assert found.held_out.mean() > measure(judged, Setting(RAW, {"bm25": 0.5, "dense": 0.5})).mean() + 0.05
    own = Setting(Frame("default", dict.fromkeys(("bm25", "dense"), AUTO)), {"bm25": 0.5, "dense": 0.5})
    assert "auto" not in [frame.label for frame in _Search.over(judged, own, None, 4).frames]  # not twice


def _as_cosines(listed: ScoredList) -> ScoredList:
    scores = np.asarray(listed.scores, dtype=np.float64)
    return ScoredList(listed.ids, 0.5 + 0.01 * scores)
