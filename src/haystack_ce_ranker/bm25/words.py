"""
Text -> words: the normal form of a text, and what counts as a word in it.

Without a language, words are those of Haystack's in-memory store. With one, `Reader` also knows contractions ("don't",
"l'eau"), abbreviations with dots ("U.S."), "C++" and "C#". `analysis.py` makes terms of the words. The manual's page on
`BM25Retriever` has a table of what becomes of file names, versions, addresses and so on; a test reads it.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

RULES = 3
"""Which rules a text is read by. Raise it when a text could become other words or terms: saved indexes are then made
again."""

# Scripts written without spaces between words. Every character is a term of its own, as in Haystack 3's in-memory store
# (haystack#12867), so that a query of one character or of a short word can match.
UNSPACED = (
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
DEFAULT_TOKENIZATION_REGEX = rf"[^\W{UNSPACED}]+|[{UNSPACED}]"

_IS_UNSPACED = re.compile(f"[{UNSPACED}]").match
_ASCII_WORDS = re.compile(r"\w+", re.ASCII).findall  # the default's meaning on ASCII text, at less cost
_PLAIN_WORDS = re.compile(r"\w+").findall
_MAY_ABBREVIATE = re.compile(r"\.\w\b").search
_FRACTIONS = re.compile("[\xbc-\xbe\u2150-\u215f\u2189]").match


def normalize(text: str) -> str:
    """Return `text` in lower case and in Unicode's composed normal form (NFC), in which all terms are kept."""
    return unicodedata.normalize("NFC", text.lower())


def fold(text: str, *, dotless: bool = False) -> str:
    """
    Return `text` in the normal form in which words are compared where a language is given.

    That is `normalize`, but letters and digits that differ only in how they are drawn are one: ligatures, full-width
    and mathematical letters, small digits as in CO₂. Accents stay. Typographic apostrophes become plain ones. Soft
    hyphens go: texts from PDF files hold them inside words. An I with a dot becomes an i, not an i and a mark.

    :param dotless: Whether the small letter of I is the one without a dot, as in Turkish.
    """
    for dotted in ("\u0130", "I\u0307", "i\u0307"):
        text = text.replace(dotted, "i")
    if dotless:
        text = text.replace("I", "\u0131")
    if text.isascii():
        return text.lower()
    text = text.replace("\u2019", "'").replace("\xad", "")
    for sub in _drawn_otherwise():
        text = sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return normalize(text)


@lru_cache(maxsize=1)
def plain_forms() -> dict[str, str]:
    """Return the plain form of each letter and digit up to U+FFFF that Unicode takes for another form of it (NFKC)."""
    found = {}
    for letter in filter(str.isalnum, map(chr, range(0x80, 0x10000))):
        plain = unicodedata.normalize("NFKC", letter)
        # Accents that stand alone would become a space, and two and a half 21/2.
        if plain != unicodedata.normalize("NFC", letter) and " " not in plain and not _FRACTIONS(letter):
            found[letter] = plain
    return found


@lru_cache(maxsize=1)
def _drawn_otherwise() -> tuple[Callable[..., str], ...]:
    """Return the `sub` of patterns for letters and digits that are drawn otherwise than plain ones."""
    found = plain_forms()
    mathematical = "[\U0001d400-\U0001d7ff]+"  # apart, because `re` is slow with a large set beyond two bytes
    return re.compile(f"[{''.join(found)}]+").sub, re.compile(mathematical).sub


def is_single(word: str) -> bool:
    """Return whether a word is one letter or digit. A character of Chinese, Japanese and Korean is more than that."""
    return len(word) == 1 and not _IS_UNSPACED(word)


@lru_cache(maxsize=64)
def splitter(pattern: str) -> Callable[[str], list[str]]:
    """Return the function that finds what `pattern` matches."""
    return re.compile(pattern).findall


def plain_words(text: str) -> list[str]:
    """Return the words of a text in normal form as Haystack's in-memory store does."""
    return _ASCII_WORDS(text) if text.isascii() else splitter(DEFAULT_TOKENIZATION_REGEX)(text)


class Reader(NamedTuple):
    """
    How a language's texts are read.

    A word may hold an apostrophe with one letter before or behind it, as in "l'eau" and "don't", and the dots of an
    abbreviation; `core` removes them.

    :param letters: The single letters that contractions of this language leave: s and t in English, l and d in French.
    """

    letters: str

    def words(self, text: str) -> list[str]:
        """Return the words of a text that `fold` returned."""
        simple = text.isascii() or _needs_care()(text) is None
        signs = "'" in text or "_" in text or "#" in text or "++" in text or _MAY_ABBREVIATE(text)
        if simple and not signs:  # most texts; this is twice as fast
            return (_ASCII_WORDS if text.isascii() else _PLAIN_WORDS)(text)
        return splitter(_pattern(self.letters, simple))(text)

    def core(self, word: str) -> str:
        """Return a word without what a contraction added and without dots; empty if it is only a contraction (I'd)."""
        if "'" in word:
            word = "".join(part for part in word.split("'") if len(part) > 1 or part not in self.letters)
        return word.replace(".", "")


class Characters(NamedTuple):
    """
    The sets of characters that `word_pattern` is made of, as a kind of regular expression writes them.

    :param character: A letter or digit of a script with spaces.
    :param letter: One that is no decimal digit.
    :param more: What a word goes on with: combining marks, too, where texts have any.
    """

    character: str
    letter: str
    more: str


def word_pattern(letters: str, characters: Characters) -> str:
    """
    Return what a word looks like: one of three forms, between what a contraction adds on both sides.

    The forms are an abbreviation of single letters with dots; a letter with "#" as in C#; letters, digits and combining
    marks in a row, with "++" behind them as in C++.

    :param letters: See `Reader`.
    :param characters: The sets of characters; Lucene's way to write them differs from Python's.
    """
    character, letter, more = characters
    before = rf"(?:[{letters}]'(?={character}))?" if letters else ""
    behind = rf"(?:'[{letters}](?!{more}))?" if letters else ""
    # no abbreviation begins behind a letter of the same row: what fails from its first letter fails from all others,
    # and a long row would be read again from each
    first = rf"(?<!(?<!{more}|'){letter}\.)"
    abbreviation = rf"{first}(?:{letter}\.)+{letter}(?!\.?{more})"
    return rf"{before}(?:{abbreviation}|{letter}#|{character}{more}*(?:\+\+)?){behind}"


@lru_cache(maxsize=64)
def _pattern(letters: str, simple: bool) -> str:
    """
    Return `word_pattern`, and single characters of scripts without spaces, as Python writes them.

    The marks are Hindi's vowels, among others, which `\\w` lacks.

    :param letters: See `Reader`.
    :param simple: Whether the text has no combining marks and no script without spaces.
    """
    if simple:
        return word_pattern(letters, Characters(r"[^\W_]", r"[^\W\d_]", r"[^\W_]"))
    character, letter = rf"[^\W_{UNSPACED}]", rf"[^\W\d_{UNSPACED}]"
    word = word_pattern(letters, Characters(character, letter, rf"(?:{character}|[{_marks()}])"))
    return rf"{word}|[{UNSPACED}]"


@lru_cache(maxsize=1)
def _marks() -> str:
    """Return the combining marks for use in a set of a pattern."""
    return "".join(re.escape(chr(i)) for i in range(0x300, 0x10000) if unicodedata.category(chr(i)) in ("Mn", "Mc"))


@lru_cache(maxsize=1)
def _needs_care() -> Callable[[str], re.Match[str] | None]:
    """Return the search for combining marks and scripts without spaces."""
    return re.compile(f"[{UNSPACED}{_marks()}]").search
