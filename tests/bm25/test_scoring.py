"""Scoring: the variants against the published formulas and bm25s, and what parameters may be."""

from collections import Counter

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import random_texts
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.bm25.scoring import VARIANTS, Scoring

PLAIN = Analysis(language=None)
RARELY = Analysis(language=None, tokenization_regex="[a-f]")


def by_hand(texts, query, scoring, analysis):
    """The published formulas, one document and one term at a time, in double precision."""
    documents = [Counter(analysis.terms(text)) for text in texts]
    lengths = [sum(document.values()) for document in documents]
    average = sum(lengths) / len(texts)
    scores = {}
    for position, (document, length) in enumerate(zip(documents, lengths, strict=True)):
        total, found = 0.0, False
        for term in analysis.terms(query):
            count, df = document[term], sum(term in other for other in documents)
            if not count:
                continue
            found = True
            k1, b, delta, idf = scoring.k1, scoring.b, scoring.bound, scoring.idf(df, len(texts))
            norm = 1 - b + b * length / average
            if scoring.method in ("lucene", "robertson"):
                total += idf * count / (count + k1 * norm)
            elif scoring.method == "atire":
                total += idf * count * (k1 + 1) / (count + k1 * norm)
            elif scoring.method == "bm25plus":
                total += idf * (count * (k1 + 1) / (count + k1 * norm) + delta)
            else:
                total += idf * (k1 + 1) * (count / norm + delta) / (k1 + count / norm + delta)
        if found:
            scores[position] = total
    return scores


@pytest.mark.parametrize("method", VARIANTS)
def test_scores_equal_those_of_bm25s(method):
    texts, query = random_texts(400), "w3 w77 w9 w9 nowhere"
    index = BM25Index.build(texts, analysis=PLAIN, scoring=Scoring(method, k1=1.4, b=0.6))
    theirs = bm25s.BM25(
        method={"bm25plus": "bm25+"}.get(method, method), k1=1.4, b=0.6, delta=index.scoring.bound or 0.5
    )
    theirs.index([PLAIN.terms(text) for text in texts], show_progress=False)
    # bm25s adds to every document, for each term that it lacks, what the term would score at no occurrence. Lv & Zhai
    # sum over the terms that a document has; so does this index, and so the comparison is by occurrences.
    expected, parts = np.zeros(len(texts)), theirs.scores
    for term in theirs.get_tokens_ids(PLAIN.terms(query)):
        postings = slice(parts["indptr"][term], parts["indptr"][term + 1])
        absent = 0.0 if theirs.nonoccurrence_array is None else theirs.nonoccurrence_array[term]
        expected[parts["indices"][postings]] += parts["data"][postings] + absent
    hits = index.search(query, len(texts))
    assert len(hits.positions) > 100
    assert hits.scores == pytest.approx(expected[hits.positions], rel=1e-5)
    assert expected[[i for i in range(len(texts)) if i not in set(hits.positions.tolist())]].max() == 0


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire"])
def test_the_ranking_is_that_of_bm25s_retrieve(method):
    texts = random_texts(300, seed=5)
    index = BM25Index.build(texts, analysis=PLAIN, scoring=Scoring(method))
    theirs = bm25s.BM25(method=method, k1=1.2, b=0.75)
    theirs.index([PLAIN.terms(text) for text in texts], show_progress=False)
    for query in ("w150 w20", "w1 w44 w60", "w199"):
        hits = index.search(query, 20)
        _, scores = theirs.retrieve([PLAIN.terms(query)], k=len(hits.scores), show_progress=False)
        assert hits.scores == pytest.approx(scores[0], rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text("abcdef ", max_size=12), min_size=1, max_size=12),
    st.text("abcdefg", max_size=5),
    st.sampled_from(list(VARIANTS)),
    st.floats(0, 3),
    st.floats(0, 1),
)
def test_scores_follow_the_published_formula(texts, query, method, k1, b):
    scoring = Scoring(method, k1=k1, b=b)
    hits = BM25Index.build(texts, analysis=RARELY, scoring=scoring).search(query, 100)
    expected = by_hand(texts, query, scoring, RARELY)
    assert dict(zip(hits.positions.tolist(), hits.scores.tolist(), strict=True)) == pytest.approx(
        expected, rel=1e-4, abs=1e-6
    )
    assert list(hits.scores) == sorted(hits.scores, reverse=True)


def test_a_text_of_a_megabyte_and_a_word_repeated_past_two_bytes():
    index = BM25Index.build(["car " * 250_000, "car hut"], analysis=PLAIN)
    hits = index.search("car hut")
    expected = by_hand(["car " * 250_000, "car hut"], "car hut", Scoring(), PLAIN)
    assert dict(zip(hits.positions.tolist(), hits.scores.tolist(), strict=True)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "bm26"}, "method must be one of 'lucene'.*'bm26'"),
        ({"k1": -1}, "k1 must be a finite number >= 0, but got -1"),
        ({"k1": float("nan")}, "k1 must be a finite number >= 0, but got nan"),
        ({"k1": float("inf")}, "k1 must be a finite number >= 0, but got inf"),
        ({"k1": True}, "k1 must be a finite number >= 0, but got True"),
        ({"b": 1.5}, "b must be a finite number >= 0 and <= 1, but got 1.5"),
        ({"k1": "1.2"}, "k1 must be a finite number >= 0, but got '1.2'"),
        ({"delta": 0.5}, "delta is a parameter of bm25l and bm25plus, but method is 'lucene': omit delta"),
        ({"method": "bm25l", "delta": -0.5}, "delta must be a finite number >= 0 or None, but got -0.5"),
    ],
)
def test_scoring_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scoring(**arguments)


def test_scoring_takes_numpy_s_numbers_and_keeps_plain_ones():
    scoring = Scoring("bm25l", k1=np.float32(0.5), b=np.float64(0.25), delta=np.int64(1))
    assert scoring == Scoring("bm25l", k1=0.5, b=0.25, delta=1)
    assert [type(value) for value in (scoring.k1, scoring.b, scoring.delta)] == [float, float, int]
