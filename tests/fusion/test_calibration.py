"""Probabilities of relevance: the logistic fit, how far it holds, and score thresholds."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fakes import judged_queries
from haystack_ce_ranker.fusion.calibration import (
    Calibrated,
    Labelled,
    calibrate,
    calibration_error,
    fit_lists,
    fit_logistic,
    kept_above,
    labelled_lists,
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


def made_lists(queries: int, *, slope: float, best: float, seed: int = 0, apart: float = 4.0) -> list[Labelled]:
    """Queries whose logits lie high or low together, with relevance by a known `logistic`."""
    random = np.random.default_rng(seed)
    lists = []
    for _ in range(queries):
        scores = random.normal(random.normal(0, apart), 3, 20)
        p = sigmoid(slope * scores + best * scores.max() + 1.0)
        lists.append(Labelled(scores, (random.random(20) < p).astype(float)))
    return lists


def test_how_far_below_the_best_counts_where_it_tells() -> None:
    found = fit_lists(made_lists(600, slope=1.2, best=-0.7))
    assert found["slope"] == pytest.approx(1.2, abs=0.1)
    assert found["best"] == pytest.approx(-0.7, abs=0.1)
    assert found["intercept"] == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(("queries", "best"), [(200, 0.0), (9, -0.7)], ids=["it tells nothing", "few queries"])
def test_how_far_below_the_best_does_not_count_where_it_is_chance(queries: int, best: float) -> None:
    for seed in range(3):
        lists = made_lists(queries, slope=0.8, best=best, seed=seed)
        assert fit_lists(lists).keys() == {"slope", "intercept"}


def test_a_higher_list_is_never_the_less_likely_one() -> None:
    lists = made_lists(300, slope=0.6, best=-0.9, apart=1.5)  # as if a low list were the better one
    found = fit_lists(lists)
    assert found["slope"] > 0.0  # within a list, a higher score is likelier
    assert "best" not in found
    assert fit_lists([])["slope"] == 0.0


def test_what_counts_the_best_ranks_a_list_as_its_scores_do_and_is_a_normalizer() -> None:
    spec = parse_normalizations({"name": "logistic", "slope": 1.2, "best": -0.7, "intercept": 1.0}, ["ce"])["ce"]
    scores = np.array([3.0, -1.0, 2.0])
    assert spec.apply(scores, scores) == pytest.approx(sigmoid(1.2 * scores - 2.1 + 1.0))
    assert spec.spec() == {"name": "logistic", "slope": 1.2, "best": -0.7, "intercept": 1.0}
    assert spec.steady


def test_the_error_is_that_of_the_bins_and_its_interval_draws_whole_queries() -> None:
    random = np.random.default_rng(0)
    by_query = []
    for _ in range(100):
        p = random.random(10) * 0.5 + 0.25
        by_query.append(Labelled(p, np.full(10, float(random.random() < 0.3))))
    found = calibration_error(by_query)
    together = np.concatenate([one.scores for one in by_query]), np.concatenate([one.labels for one in by_query])
    assert found.mean == pytest.approx(reliability(*together)[1])
    assert found.low < found.high
    alone = calibration_error([Labelled(p, label) for p, label in zip(*(x[:, None] for x in together), strict=True)])
    assert alone.mean == pytest.approx(found.mean)
    assert found.high - found.low > 1.3 * (alone.high - alone.low)  # the documents of a query are wrong together
    assert math.isnan(calibration_error([]).mean)


def test_probabilities_hold_on_queries_that_the_fit_has_not_seen() -> None:
    found = calibrate(judged_queries(200, bm25=2.0, ce=3.0), DEFAULT)
    assert calibration_error(found.by_query).mean < 0.06  # a mean of two probabilities leans to the middle
    assert len(found.by_query) == 200
    assert found.abstention is not None
    assert found.abstention.queries == 200
    few = calibrate(judged_queries(6, bm25=2.0, ce=3.0), DEFAULT)
    assert few.abstention is None


def test_probabilities_of_one_precision_are_not_those_of_another_scale() -> None:
    exact = judged_queries(200, bm25=2.0, ce=3.0)
    frame = logistic_frame(exact, ["ce"])
    halved = [
        replace(query, lists={"ce": ScoredList(query.lists["ce"].ids, np.asarray(query.lists["ce"].scores) / 2)})
        for query in exact
    ]
    ours, theirs = (
        [
            Labelled(frame.normalizations["ce"].apply(one.scores, one.scores), one.labels)
            for one in labelled_lists(queries, "ce")
        ]
        for queries in (exact, halved)
    )
    assert calibration_error(ours).mean < 0.05 < calibration_error(theirs).low
    again = logistic_frame(halved, ["ce"]).normalizations["ce"]
    refitted = [Labelled(again.apply(one.scores, one.scores), one.labels) for one in labelled_lists(halved, "ce")]
    assert calibration_error(refitted).mean == pytest.approx(calibration_error(ours).mean, abs=1e-6)


def test_a_fit_says_what_it_was_fitted_on_where_one_thing_scored_all() -> None:
    judged = [
        replace(query, lists={**query.lists, "ce": replace(query.lists["ce"], scored_by="minilm, int8")})
        for query in judged_queries(30, bm25=2.0, ce=3.0)
    ]
    frame = logistic_frame(judged, ["bm25", "ce"])
    assert frame.normalizations["ce"].fitted_on == "minilm, int8"
    assert frame.normalizations["bm25"].fitted_on is None
    assert frame.normalizations["ce"].spec()["fitted_on"] == "minilm, int8"
    other = replace(judged[0], lists={"ce": replace(judged[0].lists["ce"], scored_by="minilm, float32")})
    assert logistic_frame([*judged[1:], other], ["ce"]).normalizations["ce"].fitted_on is None


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
    rows = kept_above(Calibrated(setting, np.zeros(1), (Labelled(probabilities, labels),)))
    assert [row.threshold for row in rows] == [0.1, 0.2, 0.3]  # 0.05 keeps all, 0.5 nothing
    assert [row.kept for row in rows] == [0.75, 0.5, 0.25]
    assert [row.precision for row in rows] == pytest.approx([2 / 3, 1 / 2, 1.0])
    assert [row.recall for row in rows] == [1.0, 0.5, 0.5]
