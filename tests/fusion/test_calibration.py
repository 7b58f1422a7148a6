"""Probabilities of relevance: the logistic fit, how far it holds, and score thresholds."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fakes import judged_queries
from haystack_ce_ranker.fusion.calibration import (
    Calibrated,
    fit_logistic,
    kept_above,
    labelled_scores,
    logistic_frame,
    reliability,
    score_thresholds,
)
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.judged import (
    Frame,
    JudgedQuery,
    Setting,
    joined_scores,
)
from haystack_ce_ranker.fusion.normalizers import Normalization, parse_normalizations, sigmoid
from haystack_ce_ranker.fusion.scales import Scale

RAW = Frame("none", {})
DEFAULT = Setting(RAW, {"bm25": 0.2, "ce": 0.8})


def test_logistic_fit_finds_what_made_the_labels() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(0, 5, 20_000)
    labels = (random.random(20_000) < sigmoid(0.7 * scores - 2.0)).astype(float)
    slope, intercept = fit_logistic(scores, labels)
    assert slope == pytest.approx(0.7, abs=0.03)
    assert intercept == pytest.approx(-2.0, abs=0.1)
    bins, error = reliability(sigmoid(slope * scores + intercept), labels)
    assert error < 0.01
    assert sum(entry.count for entry in bins) == 20_000


@pytest.mark.parametrize(
    ("scores", "labels", "share"),
    [
        ([], [], 0.5),
        ([1.0, 1.0, 1.0], [1, 0, 0], 0.4),
        ([1.0, 2.0], [0, 0], 0.25),
        ([1.0, 2.0], [1, 1], 0.75),
        ([2.0, 1.0, 0.0, -1.0], [0, 0, 1, 1], 0.5),
    ],
)
def test_logistic_fit_without_information_is_the_share_of_relevant_ones(
    scores: list[float], labels: list[int], share: float
) -> None:
    slope, intercept = fit_logistic(np.array(scores), np.array(labels, dtype=float))
    assert slope == 0.0
    assert float(sigmoid(np.array([intercept]))[0]) == pytest.approx(share)


def test_logistic_fit_stays_finite_where_scores_separate_the_labels() -> None:
    slope, intercept = fit_logistic(np.array([-20.0, -10.0, 10.0, 20.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert 0 < slope < 1
    assert math.isfinite(intercept)
    with pytest.raises(ValueError, match="but got 2 and 1"):
        fit_logistic(np.zeros(2), np.zeros(1))


def test_logistic_scores_mean_the_same_on_every_query() -> None:
    judged = judged_queries(200, bm25=2.0, ce=3.0)
    frame = logistic_frame(judged, ["bm25", "ce"])
    scores, labels = labelled_scores(judged, "ce")
    probabilities = frame.normalizations["ce"].apply(scores, scores)
    assert reliability(probabilities, labels)[1] < 0.05
    assert labels.sum() == 600
    assert frame.normalizations["ce"].params["slope"] > frame.normalizations["bm25"].params["slope"] > 0


def test_a_score_threshold_stands_for_a_probability_where_scores_mean_the_same_everywhere() -> None:
    judged = judged_queries(400, bm25=1.0, ce=3.0)
    found = score_thresholds(judged, DEFAULT, [0.2, 0.5, 0.8])
    assert found[0.2] < found[0.5] < found[0.8]
    scores, labels = joined_scores(judged, DEFAULT)
    assert scores.size == labels.size == 400 * 20
    near = np.abs(scores - found[0.5]) < 0.2
    assert near.sum() > 100
    assert labels[near].mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("frame", "steady"),
    [
        (RAW, True),
        (Frame("t", {"ce": Normalization("theoretical", {"low": -9.0, "high": 9.0})}), True),
        (Frame("t", {"ce": Normalization("theoretical", {"low": -9.0})}), False),
        (Frame("min_max", {"bm25": Normalization("min_max", {})}), False),
        (Frame("reciprocal_rank", {}, method="reciprocal_rank"), False),
    ],
)
def test_no_threshold_is_given_where_scores_depend_on_the_query(frame: Frame, steady: bool) -> None:
    judged = judged_queries(40, bm25=1.0, ce=3.0)
    assert bool(score_thresholds(judged, Setting(frame, DEFAULT.weights), [0.5])) == steady
    unused = Setting(Frame("min_max", {"bm25": Normalization("min_max", {})}), {"bm25": 0.0, "ce": 1.0})
    assert score_thresholds(judged, unused, [0.5])


def test_the_default_gives_thresholds_only_where_it_counts_every_query_in_the_same_way() -> None:
    default = Setting(Frame("default", parse_normalizations(None, ["bm25", "ce"])), DEFAULT.weights)
    judged = judged_queries(40, bm25=1.0, ce=3.0)

    def known(**scales: Scale) -> list[JudgedQuery]:
        return [
            replace(query, lists={name: replace(query.lists[name], scale=scale) for name, scale in scales.items()})
            for query in judged
        ]

    assert score_thresholds(known(bm25="bm25", ce="logits"), default, [0.5])
    assert not score_thresholds(known(bm25="bm25", ce="own"), default, [0.5])
    assert not score_thresholds(
        [*known(bm25="bm25", ce="logits")[:20], *known(bm25="own", ce="logits")], default, [0.5]
    )


def test_labelled_scores_leave_out_what_has_no_score() -> None:
    lists = {"ce": ScoredList(["a", "b", "c"], [1.0, None, math.nan])}
    scores, labels = labelled_scores([JudgedQuery("q", lists, {"a": 1}), JudgedQuery("r", {}, {"a": 1})], "ce")
    assert (scores.tolist(), labels.tolist()) == ([1.0], [1.0])


def test_reliability_says_how_sure_a_share_is() -> None:
    few, many = np.array([0.05, 0.75]), np.full(1000, 0.75)
    labels = (np.arange(1000) < 800).astype(float)
    bins, error = reliability(few, np.array([0.0, 1.0]))
    assert [(entry.count, entry.observed) for entry in bins] == [(1, 0.0), (1, 1.0)]
    assert bins[1].low == pytest.approx(0.2065, abs=1e-3)  # one of one: as good as unknown
    assert bins[1].high == 1.0
    assert error == pytest.approx(0.15)
    (wide,) = reliability(many, labels)[0]
    assert 0.77 < wide.low < wide.observed < wide.high < 0.83


def test_thresholds_say_what_they_keep_and_leave_out_those_that_decide_nothing() -> None:
    setting = Setting(Frame("logistic", {}), {"a": 1.0})
    probabilities, labels = np.array([0.06, 0.15, 0.25, 0.35]), np.array([0.0, 1.0, 0.0, 1.0])
    rows = kept_above(Calibrated(setting, np.zeros(1), probabilities, labels))
    assert [row.threshold for row in rows] == [0.1, 0.2, 0.3]  # 0.05 keeps all, 0.5 nothing
    assert [row.kept for row in rows] == [0.75, 0.5, 0.25]
    assert [row.precision for row in rows] == pytest.approx([2 / 3, 1 / 2, 1.0])
    assert [row.recall for row in rows] == [1.0, 0.5, 0.5]
