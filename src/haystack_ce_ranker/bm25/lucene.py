"""
The definition of an index of OpenSearch or Elasticsearch that ranks as `BM25Index` does.

Lucene, on which both are built, then splits texts into our words, drops our stop words, and stems and scores as we do.
What stays different: it keeps a document's length in one byte, has stemmers of an older Snowball, and looks for no stop
words. The manual's page on `BM25Retriever` has the list, and `benchmarks/engines.py` measures what it comes to.
"""

from collections.abc import Iterable
from typing import Any

from haystack_ce_ranker.bm25.analysis import Analysis, languages, stop_words
from haystack_ce_ranker.bm25.java_regex import java_regex, java_set
from haystack_ce_ranker.bm25.scoring import Scoring
from haystack_ce_ranker.bm25.words import (
    DEFAULT_TOKENIZATION_REGEX,
    UNSPACED,
    Characters,
    Reader,
    plain_forms,
    word_pattern,
)

_STEMMED = (
    *("arabic", "armenian", "basque", "catalan", "danish", "english", "estonian", "finnish", "french", "german"),
    *("greek", "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian", "porter"),
    *("portuguese", "romanian", "russian", "serbian", "spanish", "swedish", "tamil", "turkish", "yiddish"),
)
STEMMERS = {**{name: name.capitalize() for name in _STEMMED}, "dutch_porter": "Dutch"}
"""The name of Lucene's `snowball` filter for each language that it has our stemmer of."""

_LONGEST = 8191  # characters of a term: Lucene refuses a document with a term of more than 32,766 bytes
_UNSPACED = java_set(UNSPACED)


def index_definition(
    *,
    language: str | None = "english",
    tokenization_regex: str | None = None,
    method: str = "lucene",
    k1: float = 1.2,
    b: float = 0.75,
) -> dict[str, Any]:
    """
    Return the `settings` and `mappings` of an index that ranks as `BM25Retriever` does with these parameters.

    `OpenSearchDocumentStore(hosts=..., index=..., **index_definition())` makes such an index. Elasticsearch's store
    takes no settings. So make its index with these first (`PUT /name`), and the store uses it. For YAML files,
    `haystack-ce-ranker index-definition` prints them.

    :param language: As for `BM25Retriever`, and so are the others.
    :param tokenization_regex: Lucene compares it with the text without regard to case.
    :param method: Only `"lucene"`.
    :param k1: How slowly repetitions saturate.
    :param b: How much a document's length counts.
    :returns: Plain values under `settings` and `mappings`. A search that names no field looks at the content alone,
        not at meta. With a language, words of one letter or digit are in a field of their own, so that they do not
        count in a document's length: a search that names its fields must name `content` and `content.letters`.
        Embeddings are kept but not searched: give their field another mapping to search them.
    :raises ValueError: If Lucene cannot do what a parameter asks for; the message says what to use instead.
    """
    pattern = DEFAULT_TOKENIZATION_REGEX if tokenization_regex is None else tokenization_regex
    analysis, scoring = Analysis(language, pattern), Scoring(method=method, k1=k1, b=b)
    if scoring.method != "lucene":
        raise ValueError(
            f"method must be 'lucene' in an index of Lucene, but got {method!r}: use engine='bm25s' for it"
        )
    content: dict[str, Any] = {"type": "text", "analyzer": "content"}
    if language is not None:
        letters = {"type": "text", "analyzer": "letters", "search_analyzer": "letters_asked", "index_options": "freqs"}
        content["fields"] = {"letters": letters}
    strings = {"match_mapping_type": "string", "mapping": {"type": "keyword", "ignore_above": _LONGEST}}
    return {
        "settings": {
            "query": {"default_field": ["content", *(f"content.{name}" for name in content.get("fields", ()))]},
            "similarity": {"default": {"type": "BM25", "k1": scoring.k1, "b": scoring.b}},
            "analysis": _analysis(analysis),
        },
        "mappings": {
            "properties": {
                "content": content,
                **{name: {"type": "object", "enabled": False} for name in ("embedding", "sparse_embedding")},
            },
            "dynamic_templates": [{"strings": {"path_match": "*", **strings}}],
        },
    }


def _analysis(analysis: Analysis) -> dict[str, Any]:
    """Return what the settings say of the analysis."""
    language, reader = analysis.language, analysis.reader
    pattern = java_regex(analysis.tokenization_regex) if reader is None else _words(reader)
    tokenizer = {
        "type": "pattern",
        "pattern": pattern,
        "flags": "CASE_INSENSITIVE|UNICODE_CASE",
        "group": analysis.groups,
    }
    if language is None:
        return {
            "tokenizer": {"words": tokenizer},
            "filter": {"kept": {"type": "length", "min": 1, "max": _LONGEST}},
            "analyzer": {"content": _analyzer(["lowercase", "kept"])},
        }
    longer = rf"^(?:.{{2,}}|[{_UNSPACED}])$"
    filters = {
        "kept": {"type": "length", "min": 1, "max": _LONGEST},
        "stopped": {"type": "stop", "stopwords": sorted(stop_words(language))},
        "stems": {"type": "snowball", "language": _stemmer(language)},
        "without_letters": _replaced(f"^[^{_UNSPACED}]$", ""),
        "without_words": _replaced(longer, ""),
        "words_alike": _replaced(longer, "__"),
    }
    lowercase = "lowercase"
    if language == "turkish" and reader is not None:
        lowercase = "lowercase_turkish"
        filters[lowercase] = {"type": "lowercase", "language": "turkish"}
    terms = [lowercase, "kept", "stopped", "stems"]
    parts: dict[str, Any] = {"tokenizer": {"words": tokenizer}, "filter": filters}
    first: list[str] = []
    if reader is not None:
        either = f"[{reader.letters}]"
        filters["contractions"] = _replaced(f"^{either}'{either}$|^{either}'|'{either}$", "")
        filters["dots"] = _replaced(r"\.", "")
        terms = [lowercase, "stopped", "contractions", "dots", *terms[1:]]
        parts["char_filter"] = {"signs": {"type": "mapping", "mappings": _signs()}}
        first = ["signs"]
    parts["analyzer"] = {
        "content": _analyzer([*terms, "without_letters", "kept"], first),
        "letters": _analyzer([*terms, "words_alike"], first),
        "letters_asked": _analyzer([*terms, "without_words", "kept"], first),
    }
    return parts


def _analyzer(filters: list[str], first: Iterable[str] = ()) -> dict[str, Any]:
    return {"type": "custom", "char_filter": list(first), "tokenizer": "words", "filter": filters}


def _replaced(pattern: str, by: str) -> dict[str, Any]:
    return {"type": "pattern_replace", "pattern": pattern, "replacement": by}


def _words(reader: Reader) -> str:
    """Return what a word looks like by the rules of a language."""
    but = f"&&[^{_UNSPACED}]"
    characters = Characters(
        character=rf"[\p{{L}}\p{{N}}{but}]",
        letter=rf"[\p{{L}}\p{{Nl}}\p{{No}}{but}]",
        more=rf"[\p{{L}}\p{{N}}\p{{Mn}}\p{{Mc}}{but}]",
    )
    return f"{word_pattern(reader.letters, characters)}|[{_UNSPACED}]"


def _signs() -> list[str]:
    """Return what `words.fold` replaces, as far as it becomes ASCII. Lucene alone cannot join letters and accents."""
    plain = (f"{letter}=>{form}" for letter, form in plain_forms().items() if form.isascii() and form.isalnum())
    return [r"\u2019=>'", r"\u00ad=>", *plain]


def _stemmer(language: str) -> str:
    """Return the name of Lucene's stemmer of a language."""
    if language == "dutch" and "dutch_porter" not in languages():
        return "Dutch"  # PyStemmer before 3 has the stemmer that Lucene has
    if language in STEMMERS:
        return STEMMERS[language]
    instead = "'dutch_porter'" if language == "dutch" else "None, or engine='bm25s'"
    raise ValueError(
        f"language must be None or one that Lucene has our stemmer of ({', '.join(STEMMERS)}), but got {language!r}: "
        f"use {instead}"
    )
