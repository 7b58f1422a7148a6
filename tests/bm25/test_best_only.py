"""A search passes over documents that cannot be among the best, and finds the same ones as if it read all postings."""

import numpy as np
import pytest

from haystack_ce_ranker.bm25 import kernels
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.bm25.scoring import VARIANTS, Scoring

DOCUMENTS, WORDS = 6000, 400


def texts_of(count, seed=0):
    """Texts of words whose frequencies fall as those of a language do, some of them long."""
    random = np.random.default_rng(seed)
    shares = 1 / np.arange(1, WORDS + 1)
    lengths = random.integers(3, 30, count) * random.choice([1, 1, 1, 8], count)
    words = random.choice(WORDS, int(lengths.sum()), p=shares / shares.sum())
    return [" ".join(f"w{word}" for word in part) for part in np.split(words, np.cumsum(lengths)[:-1])]


QUERIES = [
    *(" ".join(f"w{word}" for word in np.random.default_rng(seed).choice(WORDS, 2 + seed % 12)) for seed in range(40)),
    "w0",
    "w399 w0",
    "w0 w1 w2 w3 w4",
    "w300 w0 w0 w0 w1",
]


@pytest.fixture(scope="module")
def index():
    return BM25Index.build(texts_of(DOCUMENTS))


def all_and_best(index, query, k, allowed=None):
    """What is found if all are wanted, so that nothing is passed over, cut to `k`; and what a search for `k` finds."""
    whole = index.search(query, len(index) + 1, allowed=allowed)
    found = index.search(query, k, allowed=allowed)
    return (whole.positions[:k].tolist(), whole.scores[:k]), (found.positions.tolist(), found.scores)


def require_same(index, k, queries=QUERIES, allowed=None):
    for query in queries:
        (expected, scores), (found, own) = all_and_best(index, query, k, allowed)
        assert found == expected, query
        assert own == pytest.approx(scores, rel=1e-6), query


@pytest.fixture(params=["a list", "all scores"])
def way(request, monkeypatch):
    """Both ways to add up, whatever the size of the index."""
    monkeypatch.setattr("haystack_ce_ranker.bm25.index._DENSE_SHARE", 1e9 if request.param == "a list" else 0.0)
    return request.param


@pytest.mark.parametrize("k", [1, 10, 500])
@pytest.mark.parametrize("method", VARIANTS)
def test_the_best_are_those_of_all(index, method, k, way):
    require_same(index.with_scoring(Scoring(method=method)), k)


def test_documents_are_passed_over(index, way, monkeypatch):
    read = []
    for query in QUERIES:
        index.search(query, 10)
    loops = {name: getattr(kernels, name) for name in ("add_scores", "add_densely")}

    def watching(name):
        def run(*given):
            found = loops[name](*given)
            read.append((found, int(sum(given[1] - given[0]))))
            return found

        return run

    for name in loops:
        monkeypatch.setattr(kernels, name, watching(name))
    for query in QUERIES:
        index.search(query, 10)
    few = [found for found, postings in read if found < postings / 4]
    assert len(few) >= 5


def test_what_is_known_of_a_term_changes_no_score(index, way):
    fresh = index.with_scoring(Scoring())
    for query in QUERIES:
        first, again = (fresh.search(query, 10) for _ in range(2))
        assert (first.positions.tolist(), first.scores.tolist()) == (again.positions.tolist(), again.scores.tolist())


def test_removed_and_new_documents(index, way):
    kept = np.random.default_rng(3).permutation(DOCUMENTS)[: DOCUMENTS - 300]
    changed = index.update([*kept, *[-1] * 250], texts_of(250, seed=4))
    assert len(changed._recent) == 250, "it must not be merged"
    require_same(changed, 10)
    texts = texts_of(DOCUMENTS)
    built = BM25Index.build([*(texts[place] for place in kept), *texts_of(250, seed=4)])
    for query in QUERIES:
        assert changed.search(query, 10).positions.tolist() == built.search(query, 10).positions.tolist()


def test_allowed_documents_only(index, way):
    allowed = index.allow(np.random.default_rng(5).random(DOCUMENTS) < 0.3)
    require_same(index, 10, allowed=allowed)


def test_equal_scores_at_the_border_come_in_the_order_of_the_collection(way):
    same = BM25Index.build(["w1 w2 w3"] * 5000 + ["w1"] * 3000 + ["w2"] * 3000)
    found = same.search("w1 w2 w3", 10)
    assert found.positions.tolist() == list(range(10))
    assert same.search("w1 w2", 5002).positions.tolist()[:5000] == list(range(5000))


def test_documents_that_change_places_still_ascend_in_the_postings(tmp_path):
    texts = texts_of(DOCUMENTS)
    new = texts_of(1500, seed=6)
    places = np.random.default_rng(7).permutation([*range(DOCUMENTS), *[-1] * 1500])
    changed = BM25Index.build(texts).update(places, new)
    assert len(changed._recent) == 0, "it must have been merged"
    changed.save(tmp_path / "index")
    opened = BM25Index.open(tmp_path / "index")  # refuses postings that do not ascend
    fresh = iter(new)
    built = BM25Index.build([texts[place] if place >= 0 else next(fresh) for place in places])
    for query in QUERIES:
        assert opened.search(query, 10).positions.tolist() == built.search(query, 10).positions.tolist()
