"""BM25Index: what a search finds, updates that equal a rebuild, filters, order of equals, threads."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import assert_finds_alike, random_texts
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.bm25.scoring import Scoring

PLAIN = Analysis(language=None)
RARELY = Analysis(language=None, tokenization_regex="[a-f]")
TEXTS = ["the brake of the car", "a car in the snow", "", "snow and more snow", "the hut", "car car car brake"]


def test_equal_scores_come_in_the_order_of_the_random_texts():
    index = BM25Index.build(["x y", "y x", "z", "x y"] * 300, analysis=PLAIN)
    assert index.search("x", 500).positions.tolist() == [i for i in range(1200) if i % 4 != 2][:500]
    assert index.search("x", 7).positions.tolist() == [0, 1, 3, 4, 5, 7, 8]


def test_documents_without_a_word_of_the_query_are_not_returned():
    index = BM25Index.build(TEXTS)
    assert index.search("zebra").positions.tolist() == []
    assert index.search("brakes").positions.tolist() == [0, 5]


def test_a_query_of_nothing_finds_nothing():
    index = BM25Index.build(TEXTS)
    for query in ("", "  \n", "?!"):
        assert len(index.search(query).positions) == 0


def test_a_query_of_stop_words_alone_looks_for_them():
    index = BM25Index.build(TEXTS)
    assert set(index.search("the").positions.tolist()) == {0, 1, 4}
    assert set(index.search("the and of").positions.tolist()) == {0, 1, 3, 4}
    assert index.matching("the and of").tolist() == [0, 1, 3, 4]
    assert index.search("the hut").positions.tolist() == index.search("hut").positions.tolist() == [4]
    assert len(BM25Index.build(TEXTS, analysis=PLAIN).search("the").positions) == 3


def test_the_index_finds_a_single_letter_alone_and_beside_other_words():
    index = BM25Index.build(["programs in R", "programs", "programs in C"])
    assert index.search("C").positions.tolist() == [2]
    assert index.search("C programs").positions[0] == 2
    assert index.search("programs in C").scores.tolist() == index.search("C programs").scores.tolist()


def test_a_matching_document_is_returned_even_where_its_score_is_zero():
    index = BM25Index.build(["x", "x y"], analysis=PLAIN, scoring=Scoring("robertson"))
    hits = index.search("x")
    assert hits.positions.tolist() == [0, 1]
    assert hits.scores.tolist() == [0.0, 0.0]


def test_a_word_repeated_in_the_query_counts_as_often():
    index = BM25Index.build(TEXTS)
    assert index.search("snow snow").scores == pytest.approx(2 * index.search("snow").scores)


def test_the_empty_collection_finds_nothing_and_can_grow():
    index = BM25Index.build([])
    assert len(index) == 0
    assert len(index.search("car").positions) == 0
    assert index.update([-1, -1], ["a car", "a hut"]).search("car").positions.tolist() == [0]


def test_texts_without_words_are_documents_all_the_same():
    index = BM25Index.build(["", "...", "the"])
    assert (len(index), index.average_length) == (3, 0.0)
    assert len(index.search("car").positions) == 0
    assert BM25Index.build(["", "car"]).search("car").positions.tolist() == [1]


def test_a_search_leaves_no_trace_for_the_next():
    index = BM25Index.build(random_texts(300), analysis=PLAIN)
    first = index.search("w1 w2 w3", 10)
    for query in ("w1", "w250", "w7 w8 w9"):
        index.search(query, 5)
    again = index.search("w1 w2 w3", 10)
    assert (first.positions.tolist(), first.scores.tolist()) == (again.positions.tolist(), again.scores.tolist())


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_must_be_positive(top_k):
    with pytest.raises(ValueError, match=f"top_k must be a whole number >= 1, but got {top_k}"):
        BM25Index.build(TEXTS).search("car", top_k)


# Updates


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_updates_give_bit_for_bit_what_a_rebuild_gives(data):
    letters = st.text("abcdef", max_size=8)
    texts = data.draw(st.lists(letters, max_size=8))
    index = BM25Index.build(texts, analysis=RARELY)
    for _ in range(data.draw(st.integers(1, 4))):
        before_texts, before_index = texts, index
        kept = data.draw(st.lists(st.sampled_from(range(len(texts))), unique=True)) if texts else []
        previous = data.draw(st.permutations([*kept, *[-1] * data.draw(st.integers(0, 3))]))
        new = [data.draw(letters) for old in previous if old < 0]
        index = index.update(previous, new)
        remaining = iter(new)
        texts = [before_texts[old] if old >= 0 else next(remaining) for old in previous]
        assert_finds_alike(index, texts)
        assert_finds_alike(index.merged(), texts)
        assert_finds_alike(before_index, before_texts)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_updates_keep_stop_words_and_letters_as_a_rebuild_would(data):
    texts_of = st.lists(st.sampled_from(["the", "who", "it", "a", "b", "car", "don't", "U.S."]), max_size=6)
    texts = [" ".join(words) for words in data.draw(st.lists(texts_of, max_size=6))]
    index = BM25Index.build(texts)
    for _ in range(2):
        kept = data.draw(st.lists(st.sampled_from(range(len(texts))), unique=True)) if texts else []
        new = [" ".join(data.draw(texts_of)) for _ in range(data.draw(st.integers(0, 3)))]
        index = index.update([*kept, *[-1] * len(new)], new)
        texts = [*(texts[position] for position in kept), *new]
        queries = ("the who", "it", "A car", "B", "don't", "us the")
        assert_finds_alike(index, texts, queries)
        assert_finds_alike(index.merged(), texts, queries)


def test_many_changes_are_merged_and_a_few_are_not():
    texts = random_texts(3000)
    index = BM25Index.build(texts, analysis=PLAIN)
    few = index.update([*range(3000), -1], ["w1 w2"])
    assert few._base is index._base
    many = index.update([*range(1500), *[-1] * 10], ["w1"] * 10)
    assert many._base is not index._base
    assert len(many._base.documents) == sum(many.document_count(term) for term in many._base.terms)
    assert_finds_alike(many, [*texts[:1500], *["w1"] * 10], ["w1", "w2 w150"])


def test_words_that_no_document_has_any_more_are_forgotten_by_a_merge():
    index = BM25Index.build(["zebra", "car"], analysis=PLAIN).update([1], []).merged()
    assert set(index._base.terms) == {"car"}


@pytest.mark.parametrize(
    ("previous", "texts", "message"),
    [
        ([0, 6], [], "positions below 6"),
        ([-2], [], "goes from -2"),
        ([0, 0], [], "holds one twice"),
        ([0, -1], [], "each of the 1 new documents, but holds 0"),
        ([0], ["x"], "each of the 0 new documents, but holds 1"),
        ([[0]], [], "one dimension"),
    ],
)
def test_update_says_what_is_wrong(previous, texts, message):
    with pytest.raises(ValueError, match=message):
        BM25Index.build(TEXTS).update(previous, texts)


def test_unknown_words_of_queries_are_not_kept():
    """A server asked for ever new words would else grow, once a document has been removed."""
    index = BM25Index.build(TEXTS).update(range(1, len(TEXTS)), [])
    for i in range(100):
        index.search(f"unknown{i} car")
    assert set(index._document_counts) == {"car"}


def test_other_formulas_need_no_other_index():
    texts = random_texts(100)
    index = BM25Index.build(texts, analysis=PLAIN).update([*range(100), -1], ["w5"])
    scoring = Scoring("bm25l", k1=0.9, b=0.4)
    assert_finds_alike(index.with_scoring(scoring), [*texts, "w5"], ["w1", "w5 w80"])


# Filters


def test_decisive_are_all_that_score_no_less_than_the_last_one_found():
    texts = random_texts(800)
    index = BM25Index.build(texts, analysis=PLAIN).update([*range(5, 800), -1], ["w1 w2"])
    random = np.random.default_rng(3)
    for share in (0.01, 0.1, 0.5, 1.0):
        allowed = index.allow(random.random(len(index)) < share)
        for query, top_k in (("w1 w2 w90", 5), ("w1", 3), ("w150 w3", 20), ("unknown", 5)):
            found = index.search(query, top_k, allowed=allowed)
            everything = index.search(query, 1000)
            least = found.scores[-1] if len(found.scores) == top_k else 0.0
            expected = set(everything.positions[everything.scores >= least].tolist())
            decisive = set(index.decisive(query, top_k, allowed).tolist())
            assert expected <= decisive <= set(everything.positions.tolist())
    half = index.allow(np.arange(len(index)) % 2 == 0)
    assert 5 < len(index.decisive("w1 w2 w90", 5, half)) < len(index.matching("w1 w2 w90")) / 4


def test_matching_are_all_that_a_query_could_find():
    texts = random_texts(500)
    index = BM25Index.build(texts, analysis=PLAIN).update([*range(3, 500), -1, -1], ["w150", "w9 w150"])
    for query in ("w150", "w40 w150 w199", "unknown", ""):
        assert index.matching(query).tolist() == sorted(index.search(query, 1000).positions.tolist())
    assert index.matching("w150").tolist()[-2:] == [497, 498]


def test_a_filter_gives_the_best_of_the_allowed():
    texts = random_texts(500)
    index = BM25Index.build(texts, analysis=PLAIN).update([*range(1, 500), -1], ["w1 w2 w3"])
    mask = np.arange(500) % 7 == 3
    allowed = index.allow(mask)
    everything = index.search("w1 w2 w90", 500)
    filtered = index.search("w1 w2 w90", 20, allowed=allowed)
    expected = [position for position in everything.positions.tolist() if mask[position]][:20]
    assert len(expected) == 20
    assert filtered.positions.tolist() == expected
    nothing = index.allow(np.zeros(500, bool))
    assert len(index.search("w1", allowed=nothing).positions) == 0


def test_a_filter_belongs_to_one_index():
    index = BM25Index.build(TEXTS)
    with pytest.raises(ValueError, match="one entry for each of the 6 documents"):
        index.allow(np.ones(5, bool))
    with pytest.raises(ValueError, match="another index"):
        index.update(range(6), []).search("car", allowed=index.allow(np.ones(6, bool)))


# Threads


def test_many_threads_may_search_while_another_updates():
    texts = random_texts(2000)
    index = BM25Index.build(texts, analysis=PLAIN)
    queries = [f"w{i} w{3 * i} w{i * i % 200}" for i in range(40)]
    expected = [index.search(query, 10).positions.tolist() for query in queries]
    wrong = []

    def search():
        for _ in range(5):
            for query, positions in zip(queries, expected, strict=True):
                if index.search(query, 10).positions.tolist() != positions:
                    wrong.append(query)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    changed = index
    for i in range(20):
        changed = changed.update([*range(len(changed)), -1], [f"w{i} new"])
    for thread in threads:
        thread.join()
    assert wrong == []
    assert changed.document_count("new") == 20


def test_importing_the_engine_loads_neither_numba_nor_haystack():
    loaded = "[m for m in ('numba', 'haystack', 'torch') if m in sys.modules]"
    code = f"import sys, haystack_ce_ranker.bm25.index; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_index_takes_a_gpu_by_way_of_jax(tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported, and takes most of a GPU')", encoding="utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from haystack_ce_ranker.bm25.index import BM25Index\n"
        "print(BM25Index.build(['the hut', 'snow']).search('what is the snow', 2).positions.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[1]", "")
