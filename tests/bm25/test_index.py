"""BM25Index: the reference formulas, updates that equal a rebuild, filters, order of equals, and what is on disk."""

import copy
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import unicodedata
from collections import Counter

import bm25s
import haystack.version
import numpy as np
import pytest
import Stemmer
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.bm25 import files
from haystack_ce_ranker.bm25.analysis import Analysis, languages, stop_words
from haystack_ce_ranker.bm25.files import IndexFilesError
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.bm25.scoring import VARIANTS, Scoring

PLAIN = Analysis(language=None)
RARELY = Analysis(language=None, tokenization_regex="[a-f]")
TEXTS = ["the brake of the car", "a car in the snow", "", "snow and more snow", "the hut", "car car car brake"]


def collection(size, seed=0, words=200):
    """Texts with a few frequent and many rare words, of lengths from 0 on."""
    random = np.random.default_rng(seed)
    share = 1.0 / np.arange(1, words + 1)
    lengths = random.integers(0, 40, size)
    return [" ".join(f"w{word}" for word in random.choice(words, n, p=share / share.sum())) for n in lengths]


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
    texts, query = collection(400), "w3 w77 w9 w9 nowhere"
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
    texts = collection(300, seed=5)
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


def test_equal_scores_come_in_the_order_of_the_collection():
    index = BM25Index.build(["x y", "y x", "z", "x y"] * 300, analysis=PLAIN)
    assert index.search("x", 500).positions.tolist() == [i for i in range(1200) if i % 4 != 2][:500]
    assert index.search("x", 7).positions.tolist() == [0, 1, 3, 4, 5, 7, 8]


def test_documents_without_a_word_of_the_query_are_not_returned():
    index = BM25Index.build(TEXTS)
    assert index.search("zebra").positions.tolist() == []
    assert index.search("brakes").positions.tolist() == [0, 5]


def test_a_query_of_stop_words_or_of_nothing_finds_nothing():
    index = BM25Index.build(TEXTS)
    for query in ("the", "the and of", "", "  \n", "?!"):
        assert len(index.search(query).positions) == 0
    assert len(BM25Index.build(TEXTS, analysis=PLAIN).search("the").positions) == 3


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("vitamin C (e.g. for type 2)", ["vitamin", "type"]),
        ("C", ["c"]),
        ("C 2 the", ["c", "2"]),
        ("北京 C", ["北", "京"]),
        ("C++", ["c"]),
        ("the", []),
    ],
)
def test_single_letters_of_a_query_count_only_where_nothing_else_is_asked_for(query, terms):
    assert Analysis().query_terms(query) == terms
    for free in (PLAIN, Analysis(tokenization_regex=r"\w+")):
        assert free.query_terms(query) == free.terms(query)
    assert "c" in Analysis().terms("vitamin C")  # texts keep them


def test_the_index_finds_a_single_letter_that_is_asked_for_alone():
    index = BM25Index.build(["programs in C", "programs in R", "programs"])
    assert index.search("C").positions.tolist() == [0]
    assert index.search("C programs").scores.tolist() == index.search("programs").scores.tolist()


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


def test_a_text_of_a_megabyte_and_a_word_repeated_past_two_bytes():
    index = BM25Index.build(["car " * 250_000, "car hut"], analysis=PLAIN)
    hits = index.search("car hut")
    expected = by_hand(["car " * 250_000, "car hut"], "car hut", Scoring(), PLAIN)
    assert dict(zip(hits.positions.tolist(), hits.scores.tolist(), strict=True)) == pytest.approx(expected, rel=1e-5)


def test_a_search_leaves_no_trace_for_the_next():
    index = BM25Index.build(collection(300), analysis=PLAIN)
    first = index.search("w1 w2 w3", 10)
    for query in ("w1", "w250", "w7 w8 w9"):
        index.search(query, 5)
    again = index.search("w1 w2 w3", 10)
    assert (first.positions.tolist(), first.scores.tolist()) == (again.positions.tolist(), again.scores.tolist())


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_must_be_positive(top_k):
    with pytest.raises(ValueError, match=f"top_k must be a whole number >= 1, but got {top_k}"):
        BM25Index.build(TEXTS).search("car", top_k)


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


# Updates


def assert_alike(index, texts, queries=("a", "b c", "c d e f", "abcdef", "ff")):
    rebuilt = BM25Index.build(texts, analysis=index.analysis, scoring=index.scoring)
    assert len(index) == len(texts)
    assert index.average_length == rebuilt.average_length
    for query in queries:
        mine, theirs = index.search(query, 10), rebuilt.search(query, 10)
        assert mine.positions.tolist() == theirs.positions.tolist()
        assert mine.scores.tolist() == theirs.scores.tolist()


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
        assert_alike(index, texts)
        assert_alike(index.merged(), texts)
        assert_alike(before_index, before_texts)


def test_many_changes_are_merged_and_a_few_are_not():
    texts = collection(3000)
    index = BM25Index.build(texts, analysis=PLAIN)
    few = index.update([*range(3000), -1], ["w1 w2"])
    assert few._base is index._base
    many = index.update([*range(1500), *[-1] * 10], ["w1"] * 10)
    assert many._base is not index._base
    assert len(many._base.documents) == sum(many.document_count(term) for term in many._base.terms)
    assert_alike(many, [*texts[:1500], *["w1"] * 10], ["w1", "w2 w150"])


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
    texts = collection(100)
    index = BM25Index.build(texts, analysis=PLAIN).update([*range(100), -1], ["w5"])
    scoring = Scoring("bm25l", k1=0.9, b=0.4)
    assert_alike(index.with_scoring(scoring), [*texts, "w5"], ["w1", "w5 w80"])


# Filters


def test_decisive_are_all_that_score_no_less_than_the_last_one_found():
    texts = collection(800)
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
    texts = collection(500)
    index = BM25Index.build(texts, analysis=PLAIN).update([*range(3, 500), -1, -1], ["w150", "w9 w150"])
    for query in ("w150", "w40 w150 w199", "unknown", ""):
        assert index.matching(query).tolist() == sorted(index.search(query, 1000).positions.tolist())
    assert index.matching("w150").tolist()[-2:] == [497, 498]


def test_a_filter_gives_the_best_of_the_allowed():
    texts = collection(500)
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
    texts = collection(2000)
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


def test_stems_are_the_same_in_every_thread():
    words = [
        f"{stem}{ending}" for stem in ("connect", "jump", "relat", "nation") for ending in ("ing", "ions", "ed", "al")
    ]
    expected = Stemmer.Stemmer("english").stemWords(words)
    wrong = []

    def stem():
        wrong.extend(1 for _ in range(500) if Analysis().terms(" ".join(words)) != expected)

    threads = [threading.Thread(target=stem) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Texts


def test_words_are_compared_in_normal_form_and_lower_case():
    decomposed = unicodedata.normalize("NFD", "Café in ZÜRICH")
    index = BM25Index.build([decomposed, "tea"], analysis=PLAIN)
    assert index.search("CAFÉ zürich").positions.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("我爱北京", ["我", "爱", "北", "京"]),
        ("東京タワー 2024年", ["東", "京", "タ", "ワ", "ー", "2024", "年"]),
        ("서울 city", ["서", "울", "city"]),
        ("ＡＢＣ-def_g", ["ａｂｃ", "def_g"]),
        ("rotes Haus, grüner Baum", ["rotes", "haus", "grüner", "baum"]),
    ],
)
def test_unspaced_scripts_are_read_by_character(text, terms):
    assert Analysis(language=None).terms(text) == terms


def test_terms_without_a_language_are_those_of_haystack():
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    # Haystack 3's own default is the same pattern; before, it did not split Chinese, Japanese and Korean.
    latest = int(haystack.version.__version__.split(".")[0]) >= 3
    store = InMemoryDocumentStore(**({} if latest else {"bm25_tokenization_regex": Analysis().tokenization_regex}))
    for text in (
        "Hello, World_1!",
        "我爱 Python3",
        "東京タワー ｶﾀｶﾅ 서울 ᄀ ㄱ ｱ",
        "naïve — ‘quoted’",
        "A.B.C. 3.14",
        "🙂 smile",
        "ÀÉ\u0301",
        "\ud800 x",
    ):
        assert PLAIN.terms(text) == store._tokenize_bm25(text)


MANY_SCRIPTS = (
    "Häuser maisons casas connections evlerin könyvek talojen domů դպրոցներ książkami mājām "
    "домами σπίτια लड़कियाँ किताबें घरहरूमा வீடுகள் المكتبات ביכער"
)


@pytest.mark.parametrize("language", Stemmer.algorithms())
def test_every_language_of_pystemmer_gives_its_stems_of_whole_words(language):
    words = unicodedata.normalize("NFC", MANY_SCRIPTS.lower()).split()
    kept = [word for word in words if word not in stop_words(language)]
    assert Analysis(language).terms(MANY_SCRIPTS) == Stemmer.Stemmer(language).stemWords(kept)
    index = BM25Index.build(["nothing of this", *words], analysis=Analysis(language))
    for word in kept:
        assert words.index(word) + 1 in index.search(word).positions.tolist()


@pytest.mark.parametrize(("language", "one", "other"), [("hindi", "लड़कियाँ", "लड़की"), ("tamil", "வீடுகள்", "வீடு")])
def test_combining_marks_belong_to_the_word_where_a_language_is_given(language, one, other):
    assert BM25Index.build(["-", one], analysis=Analysis(language)).search(other).positions.tolist() == [1]
    assert len(Analysis(None).words(one)) > 1  # without a language words are split as Haystack splits them


def test_every_stemmer_is_a_language_and_most_have_stop_words():
    assert set(languages()) == set(Stemmer.algorithms())
    assert Analysis("german").terms("die Häuser und der Baum") == ["haus", "baum"]
    assert Analysis("french").terms("les maisons") == ["maison"]
    assert "the" in stop_words("english")
    assert stop_words(None) == frozenset()


def test_a_pattern_of_ones_own():
    codes = Analysis(language=None, tokenization_regex=r"[a-z]+-\d+")
    index = BM25Index.build(["see AB-12 and AB-13", "AB 12"], analysis=codes)
    assert index.search("ab-13").positions.tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"language": "klingon"}, "language must be None or one of .*english.*'klingon'"),
        ({"tokenization_regex": "("}, "must be a regular expression"),
        ({"tokenization_regex": "(a)(b)"}, "at most one group"),
    ],
)
def test_analysis_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        Analysis(**arguments)


def test_importing_the_engine_loads_neither_numba_nor_haystack():
    loaded = "[m for m in ('numba', 'haystack', 'torch') if m in sys.modules]"
    code = f"import sys, haystack_ce_ranker.bm25.index; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Files


def saved(folder, texts=TEXTS, analysis=None):
    index = BM25Index.build(texts, analysis=analysis)
    index.save(folder, extra={"keys": np.arange(len(texts), dtype=np.uint64)}, labels={"fields": ["title"]})
    return index


def test_an_opened_index_is_the_saved_one(tmp_path):
    texts = collection(500)
    index = saved(tmp_path / "index", texts, PLAIN)
    opened = BM25Index.open(tmp_path / "index", analysis=PLAIN)
    assert_alike(opened, texts, ["w1", "w2 w3 w100"])
    assert opened.extra["keys"].tolist() == list(range(500))
    assert opened.labels == {"fields": ["title"]}
    assert not opened._base.documents.flags.writeable
    assert isinstance(opened._base.documents.base, np.memmap)
    mask = np.arange(500) % 2 == 0
    assert (
        opened.search("w1 w5", 9, allowed=opened.allow(mask)).positions.tolist()
        == index.search("w1 w5", 9, allowed=index.allow(mask)).positions.tolist()
    )


def test_an_opened_index_can_be_updated_saved_and_opened_again(tmp_path):
    texts = collection(3000)
    saved(tmp_path, texts, PLAIN)
    base = {path.name for path in tmp_path.glob("base-*")}
    texts = [*texts[1:], "w1 w2 fresh", "fresh"]
    changed = BM25Index.open(tmp_path, analysis=PLAIN).update([*range(1, 3000), -1, -1], texts[-2:])
    changed.save(tmp_path)
    assert {path.name for path in tmp_path.glob("base-*")} == base  # the large files were not written again
    again = BM25Index.open(tmp_path, analysis=PLAIN)
    assert_alike(again, texts, ["w1", "fresh w2"])
    texts = [*texts, "fresh fresh"]
    assert_alike(again.update([*range(3001), -1], texts[-1:]), texts, ["fresh", "w4"])


def test_saving_leaves_nothing_behind_but_what_is_in_force(tmp_path):
    for size in (10, 2000, 30):
        saved(tmp_path, collection(size))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {
        "manifest.json",
        *(fields["file"] for fields in manifest["arrays"].values()),
    }


def test_an_empty_index_can_be_saved(tmp_path):
    BM25Index.build([]).save(tmp_path)
    assert len(BM25Index.open(tmp_path)) == 0


def test_an_index_is_opened_for_its_own_analysis_and_any_formula(tmp_path):
    saved(tmp_path)
    with pytest.raises(IndexFilesError, match="analysis"):
        BM25Index.open(tmp_path, analysis=PLAIN)
    opened = BM25Index.open(tmp_path, scoring=Scoring("bm25plus", k1=2.0))
    assert_alike(opened, TEXTS, ["car", "snow brakes"])


def test_no_index_is_an_error_that_says_so(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(IndexFilesError, match=r"there is no manifest\.json"):
            BM25Index.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(format="something else"), "it is of format 'something else'"),
        (lambda manifest: manifest.update(version=99), "version 99"),
        (lambda manifest: manifest.update(byte_order="big"), "big-endian"),
        (lambda manifest: manifest["values"].update(documents=7), "damaged"),
        (lambda manifest: manifest.pop("arrays"), "damaged"),
        (lambda manifest: manifest.pop("version"), "cannot be read"),
    ],
)
def test_a_foreign_or_changed_manifest_is_refused(tmp_path, change, message):
    saved(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(IndexFilesError, match=message):
        BM25Index.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'"index"'])
def test_a_broken_manifest_is_refused(tmp_path, content):
    saved(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(IndexFilesError, match="cannot be read"):
        BM25Index.open(tmp_path)


def test_any_file_that_is_cut_changed_or_gone_is_noticed(tmp_path):
    index = BM25Index.build(collection(1200)).update([*range(1200), -1], ["w3 w4"])
    index.save(tmp_path, extra={"keys": np.arange(3, dtype=np.uint64)})
    files = [path for path in tmp_path.glob("*.array") if path.stat().st_size]
    assert len(files) == 10
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        for damaged in (content[:-1], content + b"\0", flipped):
            path.write_bytes(damaged)
            with pytest.raises(IndexFilesError, match=path.name):
                BM25Index.open(tmp_path)
        path.unlink()
        with pytest.raises(IndexFilesError, match=f"{path.name} is missing"):
            BM25Index.open(tmp_path)
        path.write_bytes(content)
    assert len(BM25Index.open(tmp_path)) == 1201


def test_a_manifest_cannot_point_outside_its_folder(tmp_path):
    saved(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop("crc32")
    manifest["arrays"]["lengths"]["file"] = "../secret"
    path.write_text(json.dumps({**manifest, "crc32": files.zlib.crc32(files._canonical(manifest))}))
    with pytest.raises(IndexFilesError, match="malformed"):
        BM25Index.open(tmp_path / "index")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
@pytest.mark.parametrize("writes_before_the_end", [0, 1, 5, 9, 10, 11])
def test_a_process_killed_while_it_saves_leaves_an_index_that_opens(tmp_path, writes_before_the_end):
    saved(tmp_path / "index", ["old car", "old hut"])
    saved(tmp_path / "other", ["new car", "new hut", "new snow"])
    code = f"""
        import os, signal, sys
        from haystack_ce_ranker.bm25 import files
        from haystack_ce_ranker.bm25.index import BM25Index

        write, left = files._write_synced, [{writes_before_the_end}]

        def write_or_die(path, data):
            if left[0] == 0:
                path.write_bytes(bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            write(path, data)

        files._write_synced = write_or_die
        files._remove_others = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        index = BM25Index.open(sys.argv[1] + "/other")
        index.save(sys.argv[1] + "/index", extra=index.extra)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    finished = writes_before_the_end == 11  # ten arrays and the manifest: only the cleaning up was still to come
    opened = BM25Index.open(tmp_path / "index")
    assert len(opened) == (3 if finished else 2)
    assert len(opened.search("new" if finished else "old").positions) == len(opened)
    leftovers = {path.name for path in (tmp_path / "index").iterdir()}
    saved(tmp_path / "index")
    assert_alike(BM25Index.open(tmp_path / "index"), TEXTS, ["car"])
    if not finished:  # what the dead process left is young, so it may be another process's: it is removed later
        old = leftovers & {path.name for path in (tmp_path / "index").iterdir()}
        for name in old:
            os.utime(tmp_path / "index" / name, (0, 0))
        saved(tmp_path / "index")
        assert not old & {path.name for path in (tmp_path / "index").iterdir()} - {"manifest.json"}


def test_a_failed_save_raises_and_keeps_the_old_index(tmp_path, monkeypatch):
    saved(tmp_path)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_synced", full)
    with pytest.raises(OSError, match="No space"):
        BM25Index.build(["other"]).save(tmp_path)
    assert len(BM25Index.open(tmp_path)) == len(TEXTS)


def test_nothing_on_disk_is_pickled_and_a_copy_shares_the_postings(tmp_path):
    index = saved(tmp_path)
    assert all(b"numpy" not in path.read_bytes() for path in tmp_path.iterdir())
    assert copy.deepcopy(index) is index
