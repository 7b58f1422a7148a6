"""The teacher without labels: what the evidence adds to a logit, and where it adds nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.training.blending import BM25, DENSE, Blend, standardised

NUMBERS = st.floats(-50, 50)


def evidence(*scores, dense=None):
    found = {BM25: np.array(scores, np.float64)}
    return found if dense is None else {**found, DENSE: np.array(dense, np.float64)}


def test_an_unsure_model_is_moved_by_weighted_standard_scores():
    logits = np.array([-5.0, -6.0, -7.0])
    found = Blend(bm25=0.5, dense=2.0)(logits, evidence(3, 2, 1, dense=[0.1, 0.1, 0.4]))
    z = standardised(np.array([3.0, 2.0, 1.0]))
    w = standardised(np.array([0.1, 0.1, 0.4]))
    assert z == pytest.approx([1.5**0.5, 0, -(1.5**0.5)])
    assert found == pytest.approx(logits + 0.5 * z + 2 * w)
    assert found.argmax() == 2


def test_a_sure_model_is_left_alone():
    logits = np.array([3.0, 2.0, -7.0])
    assert Blend()(logits, evidence(1, 2, 9)) == pytest.approx(logits)


def test_doubt_falls_in_a_straight_line():
    blend = Blend(unsure=0.2, sure=0.6)
    shares = {positive: blend.doubt(np.array([1.0] * positive + [-1.0] * (10 - positive))) for positive in range(11)}
    assert [shares[n] for n in (0, 2, 3, 4, 5, 6, 10)] == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0, 0])
    assert blend.doubt(np.array([])) == 0


def test_bm25_alone_has_a_weight_of_its_own():
    logits = np.array([-1.0, -1.0])
    assert Blend(bm25=0.5, bm25_alone=3.0)(logits, evidence(2, 1)) == pytest.approx([2.0, -4.0])


def test_standard_scores_are_of_the_whole_list_and_taken_where_the_documents_stand():
    whole = np.array([9.0, 5.0, 4.0, 1.0])
    found = Blend(bm25_alone=1.0)(np.array([-1.0, -1.0]), evidence(*whole), [0, 3])
    assert found == pytest.approx(standardised(whole)[[0, 3]] - 1)


def test_alike_scores_say_nothing():
    assert standardised(np.full(4, 0.1 + 0.2)).tolist() == [0, 0, 0, 0]
    assert standardised(np.array([])).size == 0


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=30))
def test_nothing_that_came_in_is_changed_and_every_target_is_finite(rows):
    logits, bm25, dense = map(np.array, zip(*rows, strict=True))
    before = [one.copy() for one in (logits, bm25, dense)]
    found = Blend()(logits, {BM25: bm25, DENSE: dense})
    assert np.isfinite(found).all()
    assert all((one == other).all() for one, other in zip((logits, bm25, dense), before, strict=True))


@given(st.lists(NUMBERS, min_size=2, max_size=30), st.floats(0.1, 10), NUMBERS)
def test_neither_scale_nor_shift_of_the_evidence_matters(scores, scale, shift):
    logits = np.full(len(scores), -1.0)
    values = np.array(scores).round(3)
    found, moved = (Blend()(logits, {BM25: one}) for one in (values, values * scale + shift))
    assert found == pytest.approx(moved, abs=1e-3)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"bm25": -1}, "bm25 must be"),
        ({"dense": "2"}, "dense must be"),
        ({"unsure": 0.5, "sure": 0.5}, "sure must be"),
        ({"sure": 2}, "sure must be"),
    ],
)
def test_wrong_values_are_told(values, told):
    with pytest.raises(ValueError, match=told):
        Blend(**values)
