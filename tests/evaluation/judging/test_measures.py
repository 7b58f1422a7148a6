"""Measures: equal to ir_measures, complete over the judged queries, and true to the order a pipeline returned."""

import math

import pytest

from haystack_ce_ranker.evaluation.judging.measures import (
    UNJUDGED,
    Measure,
    averages,
    mean,
    measures,
    ndcg_at_10,
    per_query,
    ranked_scores,
)

ir_measures = pytest.importorskip("ir_measures", reason="needs the extra 'evaluate'")

JUDGMENTS = {"q1": {"a": 2, "b": 0, "c": 1}, "q2": {"x": 1}, "q3": {"y": 1}}
RUN = {"q1": {"a": 1.0, "z": 2.0, "c": 0.5}, "q2": {"x": 3.0}}


def test_values_equal_those_of_ir_measures():
    for level in (1, 2):
        wanted = measures(level)
        ours = averages(per_query(RUN, JUDGMENTS, wanted))
        theirs = ir_measures.calc_aggregate([ir_measures.parse_measure(m.definition) for m in wanted], JUDGMENTS, RUN)
        for measure in wanted:
            assert ours[measure.label] == pytest.approx(theirs[ir_measures.parse_measure(measure.definition)])


def test_every_judged_query_has_a_value_and_one_without_a_ranking_counts_as_zero():
    values = per_query(RUN, JUDGMENTS)
    assert all(list(by_query) == ["q1", "q2", "q3"] for by_query in values.values())
    assert values["nDCG@10"]["q3"] == 0.0
    assert values["MRR@10"]["q2"] == 1.0
    assert averages(per_query({}, JUDGMENTS))["nDCG@10"] == 0.0


def test_the_relevance_level_changes_binary_measures_only():
    strict, lax = per_query(RUN, JUDGMENTS, measures(2)), per_query(RUN, JUDGMENTS, measures(1))
    assert strict["nDCG@10"] == lax["nDCG@10"]
    assert strict["MRR@10"]["q2"] == 0.0
    assert lax["MRR@10"]["q2"] == 1.0
    with pytest.raises(ValueError, match="relevance_level must be a whole number >= 1, but got 0"):
        measures(0)


def test_the_unjudged_share_is_of_what_was_returned():
    assert per_query(RUN, JUDGMENTS)[UNJUDGED] == {"q1": pytest.approx(1 / 3), "q2": 0.0, "q3": 0.0}


def test_ranked_scores_keep_the_order_where_trec_eval_would_break_it():
    order = ["a", "b", "c", "d"]
    ties = ranked_scores(order, [1.0, 1.0, 1.0 - 1e-12, 0.5])
    values = list(ties.values())
    assert values == sorted(set(values), reverse=True)
    assert values[0] == 1.0
    assert values[3] == 0.5
    judged = {"q": {"a": 1}}
    assert ndcg_at_10({"q": ties}, judged)["q"] == 1.0
    # without it ir_measures puts the later id first among equal scores
    assert ndcg_at_10({"q": dict.fromkeys(order, 1.0)}, judged)["q"] < 1.0


def test_ranked_scores_of_a_ranking_without_usable_scores_are_its_order():
    assert list(ranked_scores(["b", "a"], [None, 3.0]).items()) == [("b", 2.0), ("a", 1.0)]
    assert list(ranked_scores(["b", "a"], [float("nan"), 3.0])) == ["b", "a"]
    assert list(ranked_scores(["b", "a", "b"])) == ["b", "a"]
    rising = ranked_scores(["b", "a"], [1.0, 2.0])
    assert rising["b"] > rising["a"]


def test_a_mean_over_nothing_is_nan():
    assert math.isnan(mean({}))


def test_an_unknown_measure_is_an_error():
    with pytest.raises(NameError):
        per_query(RUN, JUDGMENTS, (Measure("x", "NoSuchMeasure@3"),))
