"""Fitting the risk of a depth: what it chooses, what it says, and that it counts as the ranker and ir_measures do."""

import numpy as np
import pytest

from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10, ranked_scores
from haystack_ce_ranker.scoring.depth_fitting import RISKS, DepthQuery, depth_queries, fit_depth


def query(seed, *, relevant=range(3), count=60, noise=1.0):
    """A query whose relevant candidates have the highest logits."""
    random = np.random.default_rng(seed)
    grades = [int(place in relevant) for place in range(count)]
    logits = [8.0 * grade - 0.1 * place + noise * random.normal() for place, grade in enumerate(grades)]
    texts = [f"{'snow hut' if grade else 'car city'} number {place} of {seed}" for place, grade in enumerate(grades)]
    return DepthQuery("the hut", texts, logits, grades, grades)


def test_where_the_first_stage_is_good_few_candidates_do():
    advice = fit_depth([query(seed) for seed in range(20)], tolerance=0.005)
    assert advice.risk == max(RISKS)
    assert advice.share < 0.5
    assert advice.lost <= 0.0
    assert advice.parameters == {"depth": {"risk": max(RISKS)}, "screen": True}
    assert f"A risk of {max(RISKS):g}" in advice.reason
    assert f"{advice.share:.0%}" in advice.reason


def test_where_stopping_loses_a_smaller_risk_is_chosen():
    queries = [
        query(seed, relevant=[int(place) for place in np.random.default_rng(seed).choice(60, 12)], noise=4.0)
        for seed in range(20)
    ]
    strict, loose = fit_depth(queries, tolerance=0.002), fit_depth(queries, tolerance=0.2)
    assert loose.risk == max(RISKS)
    assert strict.risk is None or strict.risk < loose.risk
    assert strict.share > loose.share
    assert strict.lost < loose.lost


def test_where_no_risk_is_sure_all_are_to_be_scored():
    queries = [query(seed, relevant=[59 - seed % 10], noise=0.0) for seed in range(20)]
    blind = [
        DepthQuery("?", [str(place) for place in range(60)], one.logits, one.grades, one.judged) for one in queries
    ]
    advice = fit_depth(blind, tolerance=0.0)
    assert advice.parameters == {}
    assert advice.reason.startswith("Score all candidates")


def test_a_query_is_measured_as_ir_measures_does():
    one = query(3, relevant=[0, 4, 30, 31, 50])
    ids = [f"d{place}" for place in range(60)]
    judged = {"q": {**dict(zip(ids, one.grades, strict=True)), "never found": 1}}
    more = DepthQuery(one.text, one.texts, one.logits, one.grades, [*one.grades, 1])
    scored = [0, 2, 4, 5, 31]
    order = sorted(scored, key=lambda place: -one.logits[place]) + [place for place in range(60) if place not in scored]
    run = {"q": ranked_scores([ids[place] for place in order])}
    assert more.ndcg(scored) == pytest.approx(ndcg_at_10(run, judged)["q"])
    assert DepthQuery("q", ["a"], [1.0], [0], [0]).ndcg([0]) == 0.0


def test_two_runs_become_queries_in_the_order_of_the_first_stage():
    [one] = depth_queries(
        {"q": "snow"},
        {"a": "the snow", "b": "a car"},
        {"q": {"a": 2, "c": 1}},
        first={"q": {"b": 9.0, "a": 8.0}},
        reranked={"q": {"a": 0.9}},
    )
    assert one == DepthQuery("snow", ["a car", "the snow"], [None, 0.9], [0, 2], [2, 1])


def test_a_query_without_candidates_counts_as_nothing_lost():
    queries = [*[query(seed) for seed in range(20)], DepthQuery("q", [], [], [], [1])]
    assert fit_depth(queries, tolerance=0.005).risk == max(RISKS)


def test_too_few_queries_and_a_wrong_tolerance_are_errors():
    with pytest.raises(ValueError, match="at least 10 judged queries, but got 9"):
        fit_depth([query(seed) for seed in range(9)], tolerance=0.005)
    with pytest.raises(ValueError, match="tolerance must be a finite number >= 0"):
        fit_depth([query(seed) for seed in range(10)], tolerance=-1.0)
