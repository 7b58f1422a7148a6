"""p-values as scipy's, intervals that hold the mean, Holm as published."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from haystack_ce_ranker.significance import EXACT, bootstrap, holm, randomisation_test


def differences(queries, *, shift, seed):
    random = np.random.default_rng(seed)
    values = np.round(random.normal(shift, 0.2, queries), 2)
    values[random.random(queries) < 0.2] = 0.0
    return values


@pytest.mark.parametrize("queries", [2, 3, 5, 9, 13])
@pytest.mark.parametrize("shift", [0.0, 0.1, -0.3])
def test_few_queries_have_the_p_of_scipys_exact_test(queries, shift):
    for seed in range(5):
        values = differences(queries, shift=shift, seed=seed)
        theirs = stats.permutation_test(
            (values, np.zeros(queries)),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=2**queries,
        ).pvalue
        assert randomisation_test(values) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("queries", [40, 300])
@pytest.mark.parametrize("shift", [0.0, 0.015, -0.03])
def test_many_queries_have_the_p_of_scipys_random_test_up_to_chance(queries, shift):
    values = differences(queries, shift=shift, seed=3)
    theirs = stats.permutation_test(
        (values, np.zeros(queries)),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        batch=2_000,
        rng=np.random.default_rng(7),
    ).pvalue
    ours = randomisation_test(values, seed=1)
    error = np.sqrt(2 * max(theirs * (1 - theirs), 1e-4) / 20_000)
    assert abs(ours - theirs) < 5 * error + 2e-4


def test_where_all_flips_can_be_counted_random_ones_agree_with_them():
    values = differences(EXACT - 2, shift=0.08, seed=2)
    exact = randomisation_test(values)
    many = np.concatenate([values, np.zeros(50)])  # equal queries play no part
    assert randomisation_test(many) == exact
    just_above = differences(60, shift=0.04, seed=2)
    found = [randomisation_test(just_above, seed=seed) for seed in range(5)]
    assert max(found) - min(found) < 0.02
    assert len(set(found)) > 1
    assert randomisation_test(just_above, seed=3) == found[3]


def test_p_is_never_zero_and_a_clear_difference_has_the_smallest():
    values = np.full(200, 0.3)
    assert randomisation_test(values, samples=999) == pytest.approx(1 / 1000)
    assert randomisation_test(np.full(3, 0.3)) == pytest.approx(2 / 8)


@pytest.mark.parametrize("samples", [0, -5])
def test_no_samples_are_refused(samples):
    with pytest.raises(ValueError, match=f"samples must be > 0, but got {samples}"):
        randomisation_test(np.ones(50), samples=samples)


def test_holm_is_that_of_the_textbook():
    """The example of Holm's method with four hypotheses: 0.01, 0.04, 0.03 and 0.005."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(found) == ["a", "b", "c", "d"]
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=12))
def test_corrected_values_keep_the_order_and_lie_between_their_own_and_bonferronis(p_values):
    found = holm(p_values)
    assert found.keys() == p_values.keys()
    for name, p in p_values.items():
        assert p <= found[name] <= min(p * len(p_values), 1.0) + 1e-12
    ranked = sorted(p_values, key=lambda name: p_values[name])
    assert all(found[a] <= found[b] for a, b in itertools.pairwise(ranked))


def test_bootstrap_holds_the_mean_and_is_narrower_with_more_queries() -> None:
    random = np.random.default_rng(0)
    few, many = bootstrap(random.normal(1, 1, 20)), bootstrap(random.normal(1, 1, 2000))
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert many.low > 0.9
    assert bootstrap(np.full(5, 0.25)) == (0.25, 0.25, 0.25)
    assert math.isnan(bootstrap(np.zeros(0)).mean)
