"""
Text -> the terms that BM25 counts: normal form, splitting, stop words, stems.

The index and the query must be analysed alike. So `Analysis` is one frozen value that both use. An index on disk is
compared with it. `index.py` uses the terms.
"""

import hashlib
import json
import re
import threading
import unicodedata
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import Stemmer

# Scripts written without spaces between words. Every character is a term of its own, as in Haystack 3's in-memory store
# (haystack#12867), so that a query of one character or of a short word can match.
_UNSPACED = (
    "\u1100-\u11ff"  # Hangul Jamo
    "\ua960-\ua97f"  # Hangul Jamo Extended-A
    "\ud7b0-\ud7ff"  # Hangul Jamo Extended-B
    "\u3130-\u318f"  # Hangul Compatibility Jamo
    "\uac00-\ud7af"  # Hangul Syllables
    "\u3041-\u3096"  # Hiragana letters
    "\u30a1-\u30fa\u30fc"  # Katakana letters and the prolonged sound mark
    "\u31f0-\u31ff"  # Katakana Phonetic Extensions
    "\u3400-\u4dbf"  # CJK Unified Ideographs Extension A
    "\u4e00-\u9fff"  # CJK Unified Ideographs
    "\uf900-\ufaff"  # CJK Compatibility Ideographs
    "\uff66-\uff9f"  # Halfwidth Katakana
    "\uffa0-\uffdc"  # Halfwidth Hangul Jamo
)
DEFAULT_TOKENIZATION_REGEX = rf"[^\W{_UNSPACED}]+|[{_UNSPACED}]"

_IS_UNSPACED = re.compile(f"[{_UNSPACED}]").match
_ASCII_WORDS = re.compile(r"\w+", re.ASCII).findall  # the default's meaning on ASCII text, at less cost

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

_thread = threading.local()


def languages() -> tuple[str, ...]:
    """Return the languages that `Analysis` takes: the algorithms of the installed PyStemmer."""
    return tuple(Stemmer.algorithms())


@lru_cache(maxsize=64)
def stop_words(language: str | None) -> frozenset[str]:
    """Return the stop words of a language, in the normal form of the terms; none for a language without a list."""
    if language not in _STOP_WORDS:
        return frozenset()
    from bm25s import stopwords  # here, because bm25s loads numba

    return frozenset(map(normalize, getattr(stopwords, _STOP_WORDS[language])))


def normalize(text: str) -> str:
    """Return `text` in lower case and in Unicode's composed normal form (NFC), in which all terms are kept."""
    return unicodedata.normalize("NFC", text.lower())


def _stem_function(language: str) -> Callable[[str], str]:
    """Return this thread's stemmer. PyStemmer's objects keep a cache that two threads must not touch at once."""
    stemmers: dict[str, Any] = _thread.__dict__.setdefault("stemmers", {})
    if language not in stemmers:
        stemmers[language] = Stemmer.Stemmer(language)
    stem: Callable[[str], str] = stemmers[language].stemWord
    return stem


@lru_cache(maxsize=64)
def _splitter(pattern: str) -> Callable[[str], list[str]]:
    return re.compile(pattern).findall


@lru_cache(maxsize=1)
def _default_with_marks() -> str:
    """Return the default pattern, but with combining marks as parts of a word: Hindi's vowels, which `\\w` lacks."""
    marks = "".join(re.escape(chr(i)) for i in range(0x300, 0x10000) if unicodedata.category(chr(i)) in ("Mn", "Mc"))
    return rf"[^\W{_UNSPACED}](?:[^\W{_UNSPACED}]|[{marks}])*|[{_UNSPACED}]"


@dataclass(frozen=True)
class Analysis:
    """
    How a text becomes terms.

    :param language: The language of the stemmer and stop words, one of `languages()`; None for neither.
    :param tokenization_regex: A pattern that terms match, in lower-case NFC text; at most one group, as `re.findall`
        takes it. The default takes words, and single characters of Chinese, Japanese and Korean. If a language is
        given, the default also keeps combining marks in a word: the stemmers of Hindi and Tamil need whole words.
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
            groups = re.compile(self.tokenization_regex).groups
        except (re.error, TypeError) as error:
            raise ValueError(
                f"tokenization_regex must be a regular expression, but got {self.tokenization_regex!r}: {error}"
            ) from error
        if groups > 1:
            raise ValueError(
                f"tokenization_regex must have at most one group, but {self.tokenization_regex!r} has {groups}. "
                "Write (?:...) for groups that only hold things together."
            )

    def words(self, text: str) -> list[str]:
        """Return the words of `text` in order, before stop words and stems."""
        text = normalize(text)
        if self.tokenization_regex != DEFAULT_TOKENIZATION_REGEX:
            return _splitter(self.tokenization_regex)(text)
        if text.isascii():
            return _ASCII_WORDS(text)
        return _splitter(self.tokenization_regex if self.language is None else _default_with_marks())(text)

    def terms(self, text: str) -> list[str]:
        """Return the terms of `text` in order, with repetitions."""
        return self._stemmed(self._kept(text))

    def query_terms(self, query: str) -> list[str]:
        """
        Return the terms that a search looks for.

        These are the terms of the query. With a language and the default pattern, single letters and digits are
        omitted, unless the query has no other words. They are rare in texts, so they weigh much, and most come from
        "e.g.", initials and numbering. Single characters of Chinese, Japanese and Korean stay.
        """
        words = self._kept(query)
        if self.language is not None and self.tokenization_regex == DEFAULT_TOKENIZATION_REGEX:
            longer = [word for word in words if len(word) > 1 or _IS_UNSPACED(word)]
            words = longer if longer else words
        return self._stemmed(words)

    def _kept(self, text: str) -> list[str]:
        stopped = stop_words(self.language)
        return [word for word in self.words(text) if word and word not in stopped]

    def _stemmed(self, words: list[str]) -> list[str]:
        return words if self.language is None else list(map(_stem_function(self.language), words))

    def fingerprint(self) -> dict[str, Any]:
        """Return plain values that are kept with an index on disk. They differ if a text could become other terms."""
        stopped = json.dumps(sorted(stop_words(self.language)))
        return {
            "language": self.language,
            "tokenization_regex": self.tokenization_regex,
            "stop_words": hashlib.blake2b(stopped.encode("utf-8"), digest_size=8).hexdigest(),
            "stemmer": None if self.language is None else f"PyStemmer {Stemmer.version()}",
            "unicode": unicodedata.unidata_version,
        }


class _Numbers(dict[str, int]):
    """Word -> number of its term, worked out once per distinct word; -1 for a word that is no term."""

    def __init__(self, analysis: Analysis, terms: dict[str, int]) -> None:
        super().__init__({"": -1})
        self._terms = terms
        self._stem = _stem_function(analysis.language) if analysis.language is not None else None
        if analysis.language is not None:
            self.update(dict.fromkeys(stop_words(analysis.language), -1))

    def __missing__(self, word: str) -> int:
        term = self._stem(word) if self._stem is not None else word
        number = self[word] = self._terms.setdefault(term, len(self._terms))
        return number


def number_terms(texts: Iterable[str], analysis: Analysis, terms: dict[str, int]) -> tuple["array[int]", "array[int]"]:
    """
    Analyse many texts at once.

    Each distinct word is stemmed once, so most words cost one look-up: 60 million words take seconds.

    :param texts: Any iterable; it is read once and not kept.
    :param analysis: How a text becomes terms.
    :param terms: Term -> number; new terms are added to it, numbered from its length on.
    :returns: The numbers of all words of all texts, -1 for a word that is no term (`int32`), and where each text
        begins, with one more entry for the end (`int64`).
    """
    numbers, starts = array("i"), array("q", [0])
    number = _Numbers(analysis, terms).__getitem__
    words = analysis.words
    for text in texts:
        # dict.__getitem__ of a subclass calls __missing__, and map calls it without a Python frame
        numbers.extend(map(number, words(text)))
        starts.append(len(numbers))
    return numbers, starts
