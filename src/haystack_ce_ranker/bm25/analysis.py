"""
Text -> the terms that BM25 counts: stop words and stems.

The index and the query must be analysed alike. So `Analysis` is one frozen value that both use. An index on disk is
compared with it. `words.py` finds the words, `index.py` uses the terms.

Nothing that tells documents apart is thrown away. Words of one letter are terms. Stop words are, too, under a name of
their own; queries look for them as `Analysis.query_terms` says. Neither counts in a document's length.
"""

import hashlib
import json
import re
import runpy
import threading
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import Stemmer

from haystack_ce_ranker.bm25 import words as reading
from haystack_ce_ranker.bm25.words import DEFAULT_TOKENIZATION_REGEX, RULES, Reader

STOPPED = "\0"
"""Begins the term of a stop word, so that no stem is mixed up with it."""

# The names of the lists that bm25s ships. A stemming language without a list has no stop words. For English bm25s has
# two. We take the longer one, which is like the lists of other languages: with the shorter one, Lucene's 33 words,
# queries in sentences match on "what" and "how". `benchmarks/bm25.py quality` measures both.
_STOP_WORDS = {
    "danish": "STOPWORDS_DANISH",
    "dutch": "STOPWORDS_DUTCH",
    "english": "STOPWORDS_EN_PLUS",
    "french": "STOPWORDS_FRENCH",
    "german": "STOPWORDS_GERMAN",
    "italian": "STOPWORDS_ITALIAN",
    "norwegian": "STOPWORDS_NORWEGIAN",
    "porter": "STOPWORDS_EN_PLUS",
    "portuguese": "STOPWORDS_PORTUGUESE",
    "russian": "STOPWORDS_RUSSIAN",
    "spanish": "STOPWORDS_SPANISH",
    "swedish": "STOPWORDS_SWEDISH",
    "turkish": "STOPWORDS_TURKISH",
}
# Abbreviations that say as little as stop words. The lists lack them: they were made for single words.
_STOPPED_ABBREVIATIONS = {
    "dutch": ("b.v", "d.w.z", "o.a"),
    "english": ("e.g", "i.e"),
    "german": ("d.h", "u.a", "z.b"),
    "porter": ("e.g", "i.e"),
}
_CAPITALS = re.compile(r"[^\W\d_]{2,}").findall
_OPERATORS = frozenset(("and", "or", "not"))  # written in capitals out of habit: other engines read them as commands

_thread = threading.local()


def languages() -> tuple[str, ...]:
    """Return the languages that `Analysis` takes: the algorithms of the installed PyStemmer."""
    return tuple(Stemmer.algorithms())


@cache
def _lists() -> Mapping[str, Any]:
    """
    Return the lists that bm25s ships, by name, without an import of bm25s.

    That would load numba, and JAX where it is installed, which then takes three quarters of a GPU's memory.
    """
    package = Path(str(getattr(find_spec("bm25s"), "origin", None)))
    return runpy.run_path(str(package.with_name("stopwords.py")))


@lru_cache(maxsize=64)
def _listed(language: str | None) -> frozenset[str]:
    if language not in _STOP_WORDS:
        return frozenset()
    return frozenset(map(reading.normalize, _lists()[_STOP_WORDS[language]]))


@lru_cache(maxsize=64)
def stop_words(language: str | None) -> frozenset[str]:
    """
    Return the stop words of a language, in the normal form of the terms; none for a language without a list.

    The lists also hold what contractions leave (the t of don't, the l of l'eau). Standing alone these are words that
    tell documents apart (T cells, vitamin D), so no word of one letter is a stop word.
    """
    return frozenset(word for word in _listed(language) if len(word) > 1).union(
        _STOPPED_ABBREVIATIONS.get(str(language), ())
    )


@lru_cache(maxsize=64)
def _reader(language: str) -> Reader:
    letters = {word for word in _listed(language) if len(word) == 1} | {"s"}  # the lists of some languages lack it
    return Reader("".join(sorted(letters)))


def _stem_function(language: str) -> Callable[[str], str]:
    """Return this thread's stemmer. PyStemmer's objects keep a cache that two threads must not touch at once."""
    stemmers: dict[str, Any] = _thread.__dict__.setdefault("stemmers", {})
    if language not in stemmers:
        stemmers[language] = Stemmer.Stemmer(language)
    stem: Callable[[str], str] = stemmers[language].stemWord
    return stem


@dataclass(frozen=True)
class Analysis:
    """
    How a text becomes terms.

    :param language: The language of the stemmer and stop words, one of `languages()`; None for neither.
    :param tokenization_regex: A pattern that words match, in lower-case NFC text; at most one group, as `re.findall`
        takes it. The default takes words, and single characters of Chinese, Japanese and Korean. If a language is
        given, the default also knows what `words.Reader` knows, and keeps combining marks in a word: the stemmers of
        Hindi and Tamil need whole words.
    :raises ValueError: If the language is unknown or the pattern does not compile.
    """

    language: str | None = "english"
    tokenization_regex: str = DEFAULT_TOKENIZATION_REGEX

    def __post_init__(self) -> None:
        if self.language is not None and self.language not in languages():
            raise ValueError(
                f"language must be None or one of {', '.join(languages())}, but got {self.language!r}. "
                "Use None for a language without a stemmer."
            )
        try:
            groups = self.groups
        except (re.error, TypeError) as error:
            raise ValueError(
                f"tokenization_regex must be a regular expression, but got {self.tokenization_regex!r}: {error}"
            ) from error
        if groups > 1:
            raise ValueError(
                f"tokenization_regex must have at most one group, but {self.tokenization_regex!r} has {groups}. "
                "Write (?:...) for groups that only hold things together."
            )

    @property
    def groups(self) -> int:
        """How many groups the pattern has: 1 if a word is what the group matches, else 0."""
        return re.compile(self.tokenization_regex).groups

    @cached_property
    def reader(self) -> Reader | None:
        """What reads texts by the rules of the language; None where the words are those of the pattern alone."""
        if self.language is None or self.tokenization_regex != DEFAULT_TOKENIZATION_REGEX:
            return None
        return _reader(self.language)

    def words(self, text: str) -> list[str]:
        """Return the words of `text` in order, before stop words and stems; some may be empty if the pattern is."""
        if (reader := self.reader) is not None:
            return reader.words(reading.fold(text, dotless=self.language == "turkish"))
        text = reading.normalize(text)
        if self.tokenization_regex == DEFAULT_TOKENIZATION_REGEX:
            return reading.plain_words(text)
        return reading.splitter(self.tokenization_regex)(text)

    def term_function(self) -> Callable[[str], str]:
        """
        Return the function that makes a term of one of `words`, for use in this thread.

        The term is the stem of the word, or for a stop word `STOPPED` and the word. It is empty for an empty word.
        """
        if self.language is None:
            return lambda word: word
        stopped, stem = stop_words(self.language), _stem_function(self.language)
        core_of = None if self.reader is None else self.reader.core

        def term(word: str) -> str:
            core = word if core_of is None or word in stopped else core_of(word)
            if not core or core in stopped:
                return STOPPED + (core or word) if word else ""
            try:
                return stem(core) or core  # some stemmers leave nothing of some words
            except UnicodeEncodeError:  # half of a surrogate pair
                return core

        return term

    def terms(self, text: str) -> list[str]:
        """Return the terms of `text` in order, with repetitions, without stop words."""
        return [term for term in map(self.term_function(), self.words(text)) if term and not self.is_stopped(term)]

    def query_terms(self, query: str) -> list[str]:
        """
        Return the terms that a search looks for.

        These are the terms of the query, each as often as the query has it. Stop words are left out beside other words,
        but not if they are names: written in capitals in a query that also has small letters (IT support), or with dots
        (I.T.). A query of stop words alone looks for them.
        """
        if self.language is None:
            return self.terms(query)
        names = _names(query)
        kept: list[str] = []
        stopped: list[str] = []
        for word, term in zip(words := self.words(query), map(self.term_function(), words), strict=True):
            named = term[1:] in names or ("." in word and term[1:] != word)
            if self.is_stopped(term) and not named:
                stopped.append(term)
            elif term:
                kept.append(term)
        return kept or stopped

    def is_stopped(self, term: str) -> bool:
        """Return whether a term is that of a stop word."""
        return self.language is not None and term.startswith(STOPPED)

    def is_counted(self, term: str) -> bool:
        """
        Return whether a term counts in a document's length: with a language, all but stop words, letters and digits.

        Most letters of texts are articles, initials and numbering. A document is not about less for them.
        """
        return self.language is None or not (term.startswith(STOPPED) or reading.is_single(term))

    def fingerprint(self) -> dict[str, Any]:
        """Return plain values that are kept with an index on disk. They differ if a text could become other terms."""
        stopped = json.dumps(sorted(stop_words(self.language)))
        return {
            "rules": RULES,
            "language": self.language,
            "tokenization_regex": self.tokenization_regex,
            "stop_words": hashlib.blake2b(stopped.encode("utf-8"), digest_size=8).hexdigest(),
            "stemmer": None if self.language is None else f"PyStemmer {Stemmer.version()}",
            "unicode": unicodedata.unidata_version,
        }


def _names(query: str) -> frozenset[str]:
    """Return the words of a query that stand out by their capitals, in lower case; none if all is in capitals."""
    if query.islower() or query.isupper():
        return frozenset()
    return frozenset(word.lower() for word in _CAPITALS(query) if word.isupper()) - _OPERATORS


class _Numbers(dict[str, int]):
    """Word -> number of its term, worked out once per distinct word; see `number_terms`."""

    def __init__(self, analysis: Analysis, terms: dict[str, int]) -> None:
        super().__init__()
        self._is_counted = analysis.is_counted
        self._term = analysis.term_function()
        self._terms = terms

    def __missing__(self, word: str) -> int:
        term = self._term(word)
        number = -1
        if term:
            number = self._terms.setdefault(term, len(self._terms))
            if not self._is_counted(term):
                number = -2 - number
        self[word] = number
        return number


def number_terms(texts: Iterable[str], analysis: Analysis, terms: dict[str, int]) -> tuple["array[int]", "array[int]"]:
    """
    Analyse many texts at once.

    Each distinct word is stemmed once, so most words cost one look-up: 60 million words take seconds.

    :param texts: Any iterable; it is read once and not kept.
    :param analysis: How a text becomes terms.
    :param terms: Term -> number; new terms are added to it, numbered from its length on.
    :returns: The numbers of all words of all texts (`int32`), and where each text begins, with one more entry for the
        end (`int64`). A number `t` from 0 on is that of a term. -2 - t is that of a term which does not count in the
        text's length. -1 stands for no term.
    """
    numbers, starts = array("i"), array("q", [0])
    number = _Numbers(analysis, terms).__getitem__
    words = analysis.words
    for text in texts:
        # dict.__getitem__ of a subclass calls __missing__, and map calls it without a Python frame
        numbers.extend(map(number, words(text)))
        starts.append(len(numbers))
    return numbers, starts
