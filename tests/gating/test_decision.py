"""Predictors of whether re-ranking is worth it: their formulas, their edges, and the rule made of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.gating.decision import PREDICTORS, decide, predict

SCORES = [8.0, 6.0, 5.0, 3.0, 2.0, 1.0, 1.0]
MEAN = 26.0 / 7.0


def test_each_predictor_is_the_formula_it_names():
    expected = {
        "nqc": math.sqrt(sum((s - MEAN) ** 2 for s in SCORES) / 7) / MEAN,
        "smv": sum(s * abs(math.log(s / MEAN)) for s in SCORES) / 7 / MEAN,
    }
    assert set(expected) == set(PREDICTORS)
    for name, value in expected.items():
        assert predict(name, SCORES) == pytest.approx(value), name


@given(
    st.sampled_from(sorted(PREDICTORS)),
    st.lists(st.one_of(st.none(), st.floats(), st.floats(-50, 50)), max_size=12),
    st.randoms(),
)
def test_any_scores_in_any_order_give_a_finite_value_or_none(name, scores, random):
    value = predict(name, scores)
    assert value is None or math.isfinite(value)
    shuffled = list(scores)
    random.shuffle(shuffled)
    assert predict(name, shuffled) == value
    usable = [score for score in scores if score is not None and math.isfinite(score)]
    assert predict(name, usable) == value


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_predictors_are_free_of_the_scale_of_scores(name):
    assert predict(name, [7.5 * score for score in SCORES]) == pytest.approx(predict(name, SCORES))


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_a_first_document_that_stands_out_counts_as_surer(name):
    flat, sure = [5.0, 4.9, 4.8, 4.7, 4.6, 4.5], [15.0, 14.0, 4.8, 4.7, 4.6, 4.5]
    assert predict(name, sure) > predict(name, flat)


@pytest.mark.parametrize(
    ("scores", "rerank", "reason"),
    [
        ([], False, "0 documents have one order"),
        ([3.0], False, "1 documents have one order"),
        ([math.nan], False, "1 documents have one order"),
        ([3.0, None], True, "1 of 2 scores are numbers"),
        ([math.nan, math.inf, None], True, "0 of 3 scores are numbers"),
        ([2.0, 2.0, 2.0], True, "all scores are equal"),
        ([2.0, math.nan, 2.0], True, "all scores are equal"),
        ([1.0, -1.0], True, "nqc is not defined"),
        ([9.0, 1.0], False, "nqc 0.8 is at least 0.5"),
        ([3.0, 1.0], False, "nqc 0.5 is at least 0.5"),
        ([3.0, 1.1], True, "nqc 0.4634 is below 0.5"),
        ([9.0, math.nan, 1.0], False, "nqc 0.8 is at least 0.5"),
    ],
)
def test_the_rule_and_its_edges(scores, rerank, reason):
    found = decide("nqc", scores, threshold=0.5)
    assert found.rerank is rerank
    assert reason in found.reason
    assert (found.value is None) == ("is at least" not in reason and "is below" not in reason)
    assert found.usable == sum(score is not None and math.isfinite(score) for score in scores)


def test_an_infinite_threshold_spares_nothing_and_the_lowest_spares_what_it_can_measure():
    for name in PREDICTORS:
        assert decide(name, SCORES, threshold=math.inf).rerank
        assert not decide(name, SCORES, threshold=-math.inf).rerank
    assert decide("nqc", [1.0, 1.0], threshold=-math.inf).rerank


def test_scores_may_be_numpy_arrays():
    assert predict("nqc", np.asarray([1.0, 3.0])) == 0.5


def test_names_and_thresholds_out_of_range_are_errors():
    with pytest.raises(ValueError, match=r"predictor must be one of 'nqc', 'smv', but got 'clarity'"):
        predict("clarity", SCORES)
    for threshold in (math.nan, "high", None, True):
        with pytest.raises(ValueError, match="threshold must be a number"):
            decide("nqc", SCORES, threshold=threshold)


def test_smv_is_defined_for_positive_scores_only():
    assert predict("smv", [3.0, 0.0]) is None
    assert decide("smv", [-1.0, -2.0], threshold=0.1).reason == "smv is not defined for such scores"
