"""Fitting a gate: thresholds, what holds on unseen queries, and the verdict."""

import math

import numpy as np
import pytest
from haystack import Document
from hypothesis import given
from hypothesis import strategies as st

from fakes import telling_gate_queries, untelling_gate_queries
from haystack_ce_ranker import RerankGate
from haystack_ce_ranker.gating.decision import PREDICTORS, predict
from haystack_ce_ranker.gating.fitting import TOLERANCE, GateQuery, find_threshold, fit_gate


@pytest.mark.parametrize(
    ("values", "losses", "tolerance", "expected"),
    [
        ([4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.4, 0.4], 0.05, 2.5),  # two are free, the third would cost 0.1 on average
        ([4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.4, 0.4], 0.1, 1.5),
        ([1.0, 2.0, 3.0, 4.0], [0.4, 0.4, 0.0, 0.0], 0.05, 2.5),  # in any order
        ([4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0], 0.0, 1.0),  # all
        ([4.0, 3.0, 2.0, 1.0], [0.9, 0.0, 0.0, 0.0], 0.1, math.inf),  # none
        ([4.0, 3.0, 2.0, 1.0], [0.9, -0.9, 0.0, 0.4], 0.05, 1.5),  # what one loses another may win back
        ([3.0, 3.0, 2.0, 1.0], [0.0, 0.9, 0.0, 0.0], 0.05, math.inf),  # equal values cannot be told apart
        ([3.0, -math.inf, -math.inf, -math.inf], [0.0, 0.0, 0.0, 0.0], 0.0, 3.0),  # what has no value is never spared
        ([math.inf, 3.0, 2.0, 1.0], [0.0, 0.0, 0.9, 0.9], 0.0, 2.5),
        ([-math.inf, -math.inf], [0.0, 0.0], 0.5, math.inf),
    ],
)
def test_the_threshold_spares_as_much_as_the_tolerance_allows(values, losses, tolerance, expected):
    assert find_threshold(np.asarray(values), np.asarray(losses), tolerance, 0.0) == expected


@given(
    st.lists(st.tuples(st.floats(-5, 5) | st.just(-math.inf), st.floats(-1, 1)), min_size=1, max_size=30),
    st.floats(0, 0.2),
    st.floats(0, 2),
)
def test_no_threshold_gives_up_more_than_the_tolerance_on_what_it_saw(pairs, tolerance, caution):
    values, losses = (np.asarray(column) for column in zip(*pairs, strict=True))
    bold = find_threshold(values, losses, tolerance, 0.0)
    careful = find_threshold(values, losses, tolerance, caution)
    assert bold <= careful
    for threshold in (bold, careful):
        assert np.where(values >= threshold, losses, 0.0).mean() <= tolerance + 1e-9


def test_a_predictor_that_tells_is_found_and_keeps_its_promise_on_unseen_queries():
    advice = fit_gate(telling_gate_queries())
    assert advice.recommended
    assert advice.saved == pytest.approx(0.5, abs=0.1)
    assert advice.lost < TOLERANCE < advice.lost_by_chance
    assert advice.gain == pytest.approx(0.15, abs=0.04)
    assert f"gate by {advice.predictor} at" in advice.reason
    for name in PREDICTORS:
        alone = fit_gate(telling_gate_queries(), predictors=[name])
        assert alone.predictor == name
        assert alone.saved == pytest.approx(0.5, abs=0.1)
        assert predict(name, [14.5, 10.0, 1.0]) < alone.threshold < predict(name, [15.5, 10.0, 1.0])


def test_the_loss_on_unseen_queries_is_that_of_the_other_half():
    """By hand, for one draw: a threshold from one half, the loss from the other."""
    queries = telling_gate_queries(40, seed=3)
    fit = fit_gate(queries, predictors=["nqc"], draws=1, seed=5)
    order = np.random.default_rng(5).permutation(40)
    values = np.asarray([predict("nqc", query.scores) for query in queries])
    losses = np.asarray([query.reranked - query.kept for query in queries])
    seen, unseen = order[:20], order[20:]
    spared = values[unseen] >= find_threshold(values[seen], losses[seen], TOLERANCE)
    assert fit.saved == pytest.approx(spared.mean())
    assert fit.lost == pytest.approx(losses[unseen][spared].sum() / 20)
    assert fit.lost_by_chance == pytest.approx(spared.mean() * losses[unseen].mean())


def test_choosing_a_predictor_is_measured_on_queries_that_did_not_choose():
    """By hand, for one draw: of two predictors the one that spares more of one half, and its loss on the other."""
    random = np.random.default_rng(1)
    queries = [
        GateQuery(f"q{n}", random.uniform(1, 9, size=6).tolist(), 0.5, 0.5 + float(random.normal(0.02, 0.1)))
        for n in range(60)
    ]
    names = ["nqc", "smv"]
    chosen = fit_gate(queries, predictors=names, draws=1, seed=2, tolerance=0.02)
    order = np.random.default_rng(2).permutation(60)
    seen, unseen = order[:30], order[30:]
    losses = np.asarray([query.reranked - query.kept for query in queries])
    values = {name: np.asarray([predict(name, query.scores) for query in queries]) for name in names}
    found = {name: find_threshold(value[seen], losses[seen], 0.02) for name, value in values.items()}
    best = max(names, key=lambda name: (values[name][seen] >= found[name]).sum())
    spared = values[best][unseen] >= found[best]
    assert 0 < spared.sum() < 30
    assert chosen.saved == pytest.approx(spared.mean())
    assert chosen.lost == pytest.approx(losses[unseen][spared].sum() / 30)


def test_the_luckiest_of_predictors_that_tell_nothing_is_not_believed():
    """Re-ranking helps and harms at random: some predictor looks good on unseen queries, choosing one does not."""
    random = np.random.default_rng(4)
    queries = [
        GateQuery(f"q{n}", random.uniform(1, 9, size=8).tolist(), 0.5, 0.5 + float(random.normal(0.03, 0.2)))
        for n in range(50)
    ]
    advice = fit_gate(queries, tolerance=0.01)
    assert not advice.recommended
    assert advice.lost > min(fit_gate(queries, tolerance=0.01, predictors=[name]).lost for name in PREDICTORS)


def test_predictors_that_tell_nothing_are_not_recommended():
    advice = fit_gate(untelling_gate_queries())
    assert not advice.recommended
    assert advice.reason.startswith("No gate: the predictor chosen on one half of the queries spares")


@pytest.mark.parametrize("gain", [0.0, -0.2])
def test_where_re_ranking_gains_nothing_the_advice_is_to_leave_it_out(gain):
    advice = fit_gate(untelling_gate_queries(gain=gain))
    assert not advice.recommended
    assert "Leave re-ranking out" in advice.reason


def test_the_gate_itself_spares_the_queries_that_the_fit_counted():
    queries = [*telling_gate_queries(60), GateQuery("one", [3.0], 1.0, 1.0), GateQuery("equal", [3.0, 3.0], 0.1, 0.9)]
    for name in PREDICTORS:
        fit = fit_gate(queries, predictors=[name])
        gate = RerankGate(predictor=name, threshold=fit.threshold)
        kept = [
            "keep" in gate.run("q", [Document(id=str(n), content="t", score=s) for n, s in enumerate(query.scores)])
            for query in queries
        ]
        values = [math.inf if len(query.scores) < 2 else predict(name, query.scores) for query in queries]
        assert kept == [value is not None and value >= fit.threshold for value in values], name
        assert 0.3 < np.mean(kept) < 0.7
        losses = [query.reranked - query.kept for query, spared in zip(queries, kept, strict=True) if spared]
        assert math.fsum(losses) / len(queries) <= TOLERANCE


def test_caution_gives_up_less_and_the_same_seed_gives_the_same():
    queries = untelling_gate_queries(80, gain=0.02)
    assert fit_gate(queries, seed=1) == fit_gate(queries, seed=1)
    for name in PREDICTORS:
        bold, careful = (fit_gate(queries, predictors=[name], caution=caution) for caution in (0.0, 2.0))
        assert careful.saved < bold.saved
        assert careful.lost <= bold.lost + 1e-12


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"queries": telling_gate_queries(9)}, "at least 10 judged queries, but got 9"),
        ({"draws": 0}, "draws must be a whole number >= 1"),
        ({"tolerance": -0.1}, "tolerance must be a finite number >= 0"),
        ({"caution": math.nan}, "caution must be a finite number >= 0"),
        ({"predictors": ["clarity"]}, "predictor must be one of"),
    ],
)
def test_values_out_of_range_are_errors(parameters, message):
    with pytest.raises(ValueError, match=message):
        fit_gate(**{"queries": telling_gate_queries(20), **parameters})
