"""What can be expected of candidates without a score: the order of their texts, of their ranks, and how sure it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from haystack_ce_ranker.scoring.prospects import Prospects, similarity, standings

NO_QUERY = np.empty(0, dtype=np.int32)


def ids(*values):
    return np.asarray(values, dtype=np.int32)


def two_kinds(count, seed=0):
    """Texts of two kinds by turns, each of words of its kind; the kind of each."""
    random = np.random.default_rng(seed)
    kinds = np.arange(count) % 2
    return [random.integers(1000, 1040, 30) + 5000 * kind for kind in kinds], kinds


def test_texts_of_one_kind_are_similar_and_others_are_not():
    texts, kinds = two_kinds(12)
    found = similarity(texts, NO_QUERY)
    same = kinds[:, None] == kinds[None, :]
    assert found.shape == (12, 12)
    assert np.diag(found) == pytest.approx(1.0, abs=1e-5)
    assert found[same].min() > 0 > found[~same].max()


def test_a_token_of_one_text_alone_says_nothing():
    shared = [ids(2000, 3000, 4000), ids(2000, 3000, 5000), ids(4000, 5000, 6000)]
    own = [np.append(text, [9000 + place] * 3) for place, text in enumerate(shared)]
    assert similarity([*own], NO_QUERY) == pytest.approx(similarity([*shared[:2], ids(4000, 5000)], NO_QUERY))


def test_the_querys_tokens_count_twice_and_rare_tokens_more():
    texts = [ids(2000, 3000), ids(2000, 4000), ids(3000, 4000), ids(2000, 5000), ids(3000, 5000)]
    plain, asked = similarity(texts, NO_QUERY), similarity(texts, ids(2000))
    assert asked[0, 1] > plain[0, 1]
    frequent = [ids(1, 3000), ids(1, 4000), ids(3000, 5000), ids(4000, 5000)]
    assert similarity(frequent, NO_QUERY)[0, 2] > similarity(frequent, NO_QUERY)[0, 1]


@pytest.mark.parametrize("texts", [[], [NO_QUERY], [NO_QUERY, ids(5)], [ids(7, 7), ids(7, 7)]])
def test_texts_without_a_word_are_similar_to_nothing(texts):
    found = similarity(texts, NO_QUERY)
    assert found.shape == (len(texts), len(texts))
    assert not found.any()


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_standings_are_normal_quantiles_of_the_ranks(logits):
    expected = norm.ppf((rankdata(logits) - 0.5) / len(logits))
    assert standings(logits) == pytest.approx(expected)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30, unique=True), st.integers(0, 5))
def test_the_scale_of_the_logits_does_not_count(logits, top):
    texts, _ = two_kinds(len(logits) + 5)
    alike = similarity(texts, NO_QUERY)
    one, other = Prospects(len(texts), alike), Prospects(len(texts), alike)
    one.see(range(len(logits)), logits)
    ranks = np.argsort(np.argsort(logits)).tolist()
    other.see(range(len(logits)), [3.0 * rank - 7.0 for rank in ranks])
    assert one.best(5) == other.best(5)
    assert one.missing(top + 1) == pytest.approx(other.missing(top + 1))


def test_before_any_logit_the_first_are_the_best():
    assert Prospects(8, np.eye(8)).best(3) == [0, 1, 2]


def test_candidates_like_the_good_ones_come_next():
    texts, kinds = two_kinds(40)
    found = Prospects(40, similarity(texts, NO_QUERY))
    found.see(range(10), [4.0 if kind else -4.0 for kind in kinds[:10]])
    assert {int(kinds[place]) for place in found.best(8)} == {1}
    blind = Prospects(40)
    blind.see(range(10), [4.0 if kind else -4.0 for kind in kinds[:10]])
    assert blind.best(8) == list(range(10, 18))


def test_fewer_are_missing_the_more_is_seen_and_none_at_the_end():
    texts, _ = two_kinds(60)
    logits = np.linspace(5, -5, 60)
    found = Prospects(60, similarity(texts, NO_QUERY))
    assert found.missing(5) == 5.0
    missing = []
    for start in range(0, 60, 10):
        found.see(range(start, start + 10), logits[start : start + 10].tolist())
        missing.append(found.missing(5))
    assert missing == sorted(missing, reverse=True)
    assert missing[0] > 0.1 > missing[2]
    assert missing[-1] == 0.0
    assert found.best(5) == []


def test_as_many_are_better_as_were_expected():
    """Draws from the process itself: it expects what happens."""
    random = np.random.default_rng(0)
    expected, happened = [], []
    for draw in range(150):
        texts, _ = two_kinds(50, seed=draw)
        found = Prospects(50, similarity(texts, NO_QUERY))
        covariance = found._covariance + found._own * np.eye(50)
        logits = found._prior + np.linalg.cholesky(covariance) @ random.normal(size=50)
        found.see(range(15), logits[:15].tolist())
        expected.append(found.missing(5))
        happened.append(int((logits[15:] > np.sort(logits[:15])[-5]).sum()))
    assert np.mean(expected) == pytest.approx(np.mean(happened), rel=0.3)
    assert np.corrcoef(expected, happened)[0, 1] > 0.3


def test_a_candidate_without_a_logit_waits_no_longer():
    found = Prospects(4)
    found.see([0, 2], [None, 1.0])
    assert found.waiting.tolist() == [1, 3]
    assert found.best(2) == [1, 3]


def test_one_candidate_alone_has_no_spread_of_ranks():
    found = Prospects(1)
    assert found.best(1) == [0]
    found.see([0], [2.0])
    assert found.missing(1) == 0.0
