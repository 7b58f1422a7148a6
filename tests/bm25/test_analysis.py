"""Analysis: words, stop words and stems in many languages, and the terms of a query."""

import threading
import unicodedata

import haystack.version
import pytest
import Stemmer

from haystack_ce_ranker.bm25.analysis import Analysis, languages, stop_words
from haystack_ce_ranker.bm25.index import BM25Index

PLAIN = Analysis(language=None)


@pytest.mark.parametrize("query", ["vitamin C (e.g. for type 2)", "C", "C 2", "北京 C C", "c++ C#"])
def test_letters_and_digits_are_words_of_texts_and_queries(query):
    for analysis in (Analysis(), PLAIN, Analysis(tokenization_regex=r"\w+"), Analysis("french")):
        assert analysis.query_terms(query) == analysis.terms(query)


def test_with_a_pattern_of_ones_own_words_are_what_it_matches():
    codes = Analysis(tokenization_regex=r"[\w.'+-]+")
    assert codes.words("Don't use e.g. C++ ﬁne") == ["don't", "use", "e.g.", "c++", "ﬁne"]
    assert codes.terms("Don't use e.g. C++ or U.S.") == ["use", "e.g.", "c++", "u.s."]


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
