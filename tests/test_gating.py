"""Predictors of whether re-ranking is worth it: their formulas, their edges, and the rule made of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.gating import PREDICTORS, count_words, decide, predict

SCORES = [8.0, 6.0, 5.0, 3.0, 2.0, 1.0, 1.0]
MEAN = 26.0 / 7.0


def test_each_predictor_is_the_formula_it_names():
    expected = {
        "margin": 2.0,
        "relative_margin": 0.25,
        "deviation": math.sqrt(((8 - 19 / 3) ** 2 + (6 - 19 / 3) ** 2 + (5 - 19 / 3) ** 2) / 3) / 2.0,
        "nqc": math.sqrt(sum((s - MEAN) ** 2 for s in SCORES) / 7) / MEAN,
        "wig": sum((s - MEAN) / math.sqrt(4) for s in SCORES[:5]) / 5,
        "smv": sum(s * abs(math.log(s / MEAN)) for s in SCORES) / 7 / MEAN,
    }
    assert set(expected) == set(PREDICTORS)
    for name, value in expected.items():
        assert predict(name, SCORES, words=4) == pytest.approx(value), name


@given(
    st.sampled_from(sorted(PREDICTORS)),
    st.lists(st.one_of(st.none(), st.floats(), st.floats(-50, 50)), max_size=12),
    st.integers(1, 20),
    st.randoms(),
)
def test_any_scores_in_any_order_give_a_finite_value_or_none(name, scores, words, random):
    value = predict(name, scores, words=words)
    assert value is None or math.isfinite(value)
    shuffled = list(scores)
    random.shuffle(shuffled)
    assert predict(name, shuffled, words=words) == value
    usable = [score for score in scores if score is not None and math.isfinite(score)]
    assert predict(name, usable, words=words) == value


@pytest.mark.parametrize("name", ["relative_margin", "nqc", "smv"])
def test_predictors_free_of_scale_are_so(name):
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
        ([-1.0, -2.0], True, "relative_margin is not defined"),
        ([10.0, 4.0], False, "relative_margin 0.6 is at least 0.5"),
        ([10.0, 5.0], False, "relative_margin 0.5 is at least 0.5"),
        ([10.0, 5.1], True, "relative_margin 0.49 is below 0.5"),
        ([10.0, math.nan, 4.0], False, "relative_margin 0.6 is at least 0.5"),
    ],
)
def test_the_rule_and_its_edges(scores, rerank, reason):
    found = decide("relative_margin", scores, threshold=0.5)
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
    assert predict("margin", np.asarray([1.0, 4.0, 2.0])) == 2.0


def test_names_and_thresholds_out_of_range_are_errors():
    with pytest.raises(ValueError, match=r"predictor must be one of 'margin', .* but got 'clarity'"):
        predict("clarity", SCORES)
    for threshold in (math.nan, "high", None, True):
        with pytest.raises(ValueError, match="threshold must be a number"):
            decide("nqc", SCORES, threshold=threshold)


def test_words_are_what_white_space_parts():
    assert [count_words(query) for query in ("", "  ", "one", "two  words\n", "a b c")] == [1, 1, 1, 2, 3]
