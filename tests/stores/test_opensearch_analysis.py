"""A real OpenSearch with our analysis makes our terms of a text, in every language it has, and scores as we do."""

from collections import Counter
from uuid import uuid4

import pytest

from fakes import random_texts
from haystack_ce_ranker.bm25.analysis import Analysis, languages
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.bm25.lucene import STEMMERS, index_definition
from haystack_ce_ranker.bm25.scoring import Scoring

opensearchpy = pytest.importorskip("opensearchpy", reason="needs opensearch-haystack")

TEXTS = (
    "Vitamin C, type 2; C++17, g++ and C#: a_b_c.pdf, AB-1234/5, CVE-2024-3094, .NET, $5, v2.0.1",
    "https://example.org/faq?id=7#top jane.doe@example.org 1,000.50",
    "U.S. and J.R.R. Tolkien's Ph.D.; O'Neill’s dog isn't here, e.g. I'd L'eau",
    "café, CO₂, ﬁne ＡＢＣ in­dex ①",
    "लड़की 我爱北京 C ภาษาไทย Straße ÜBER Ёлка ελλάδα",
)
PATTERNS = (
    r"\w+(?:-\w+)*",
    r"(?<![a-z])([a-z]+)\d*\b",
    r"[^\W\d_]{2,}|\d+?",
    r"[^\s\[\],.&]+",
)


@pytest.fixture(scope="module")
def client(opensearch_url):
    with opensearchpy.OpenSearch(opensearch_url) as client:
        yield client


@pytest.fixture
def terms_of(client):
    """A function that returns the terms of a text in an index of these parameters: those that count, and letters."""
    made = []

    def terms_of(text, **parameters):
        key = repr(parameters)
        if key not in [known for known, _ in made]:
            made.append((key, f"analysis-{uuid4().hex}"))
            client.indices.create(index=made[-1][1], body=index_definition(**parameters))
        name = dict(made)[key]

        def by(analyzer):
            answer = client.indices.analyze(index=name, body={"analyzer": analyzer, "text": text})
            return [token["token"] for token in answer["tokens"]]

        if parameters.get("language", "english") is None:
            return by("content"), []
        words, letters = by("content"), by("letters_asked")
        # The field of the letters holds a word for each of ours, so that its lengths are right.
        assert len(by("letters")) == len(words) + len(letters)
        return words, letters

    yield terms_of
    for _, name in made:
        client.indices.delete(index=name)


def assert_same_terms(terms_of, text, **parameters):
    pattern = {"tokenization_regex": parameters["tokenization_regex"]} if "tokenization_regex" in parameters else {}
    analysis = Analysis(parameters.get("language", "english"), **pattern)
    words, letters = terms_of(text, **parameters)
    assert Counter(words + letters) == Counter(analysis.terms(text))
    assert words == [term for term in analysis.terms(text) if analysis.is_counted(term)]


def test_words_are_those_of_the_manual_s_table(terms_of):
    for text in TEXTS:
        assert_same_terms(terms_of, text)
        assert_same_terms(terms_of, text.replace("₂", "").replace("ﬁ", "").replace("­", ""), language=None)


def test_patterns_of_ones_own_find_the_same_words(terms_of):
    for pattern in PATTERNS:
        for text in TEXTS[:3]:
            assert_same_terms(terms_of, text, language=None, tokenization_regex=pattern)
            assert_same_terms(terms_of, text, language="swedish", tokenization_regex=pattern)


MANY = (
    "Häuser maisons casas connections evlerin könyvek talojen domů դպրոցներ домами σπίτια लड़कियाँ किताबें घरहरूमा "
    "வீடுகள் المكتبات ביכער running happily generously"
)


def test_every_language_of_the_table_has_the_server_s_stemmer(terms_of):
    """Lucene's Snowball is older than PyStemmer's, so that a few words have another stem."""
    for language in sorted(set(STEMMERS) & set(languages())):
        words, letters = terms_of(MANY, language=language)
        ours = Analysis(language).terms(MANY)
        assert len(words + letters) == len(ours)
        assert sum((Counter(words + letters) & Counter(ours)).values()) >= len(ours) - 1, language


def test_a_text_that_never_ends_a_word_is_taken(client, terms_of):
    """Such a text must neither be refused for its terms nor end the node in the search for words."""
    endless = ("a." * 20_000, "x" * 40_000, "d'" * 3_000)
    for text in endless:
        assert len(terms_of(text)[0]) <= 1
    name = f"analysis-{uuid4().hex}"
    client.indices.create(index=name, body=index_definition())
    for text in endless:
        client.index(index=name, body={"content": text, "title": "y" * 40_000, "embedding": [0.1, 0.2]})
    client.indices.delete(index=name)


@pytest.mark.parametrize(
    ("language", "k1", "b"), [("english", 1.2, 0.75), ("english", 0.5, 0.3), (None, 2.0, 1.0), (None, 0.0, 0.0)]
)
def test_the_scores_of_short_texts_are_ours(client, language, k1, b):
    """Up to 40 words Lucene keeps a text's length as it is. OpenSearch multiplies all scores by the same number."""
    texts = [text for text in random_texts(300) if text]
    index = BM25Index.build(texts, analysis=Analysis(language), scoring=Scoring(k1=k1, b=b))
    name = f"analysis-{uuid4().hex}"
    client.indices.create(index=name, body=index_definition(language=language, k1=k1, b=b))
    client.bulk(
        body=[
            line for i, text in enumerate(texts) for line in ({"index": {"_index": name, "_id": i}}, {"content": text})
        ],
        refresh=True,
    )
    for query in ("w0", "w3 w17 w17 w60", "w150 w1 unknown"):
        body = {"query": {"multi_match": {"query": query, "type": "most_fields"}}, "size": 300}
        hits = client.search(index=name, body=body)["hits"]["hits"]
        found = index.search(query, 300)
        ours = dict(zip(found.positions.tolist(), ((k1 + 1.0) * found.scores).tolist(), strict=True))
        assert {int(hit["_id"]): hit["_score"] for hit in hits} == pytest.approx(ours, rel=1e-5)
    client.indices.delete(index=name)
