"""
Whether a model's vocabulary knows a text, or sees unknown tokens and single letters where there are words.

An English re-ranker reads Arabic letter by letter and Thai as one unknown token a sentence. Its scores are then noise,
and worse than no re-ranking at all.
"""

import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.tokenizing.tokens import Tokens

UNREADABLE_SHARE = 0.75
"""
From this share of unknown and single-letter pieces on, a text counts as unreadable.

With the vocabulary of ms-marco-MiniLM, texts in English, German, French, Polish, Finnish and Vietnamese have shares up
to 0.09. Those in Russian, Greek, Arabic, Hindi, Chinese, Japanese, Korean and Thai have shares from 0.97 on. Byte pairs
that know Hindi still stop at its vowel signs, which gave 0.53.
"""

MANY_IDEOGRAPHS = 2000
"""
With so many ideographs of its own, a vocabulary reads them one by one as a matter of course.

The English vocabulary of BERT has 488, a Chinese one over 7,000.
"""


class Vocabulary:
    """
    What of a model's vocabulary tells whether it knows a text.

    :param words: Gives its words; called once, by the first text with ideographs.
    :param unknown_id: The token for what it does not know; None if every text can be spelled.
    """

    def __init__(self, words: Callable[[], Iterable[str]], unknown_id: int | None) -> None:
        self._words = words
        self.unknown_id = unknown_id

    @cached_property
    def knows_ideographs(self) -> bool:
        """Whether it has `MANY_IDEOGRAPHS`."""
        found = {word.removeprefix("##").removeprefix("▁") for word in self._words()}
        return sum(len(word) == 1 and _is_ideograph(word) for word in found) >= MANY_IDEOGRAPHS


class Readability(NamedTuple):
    """
    How well a vocabulary knows a text.

    :ivar unreadable: The share of its pieces that are unknown or a single letter of another script than Latin; 0 where
        it is certain to be below `UNREADABLE_SHARE`.
    :ivar unknown: The share of its characters, spaces apart, that stand in unknown tokens: no model can read those.
    """

    unreadable: float = 0.0
    unknown: float = 0.0


READABLE = Readability()


def readability(text: str, tokens: Tokens, vocabulary: Vocabulary) -> Readability:
    """
    Return how well a vocabulary knows a text.

    :param tokens: The text's tokens, with offsets in it.
    """
    lengths = tokens.ends - tokens.starts
    unknown = tokens.ids == (-1 if vocabulary.unknown_id is None else vocabulary.unknown_id)
    short = (lengths <= 1) & ~unknown
    unread = _share_of_characters(text, int(lengths[unknown].sum()))
    # Pieces are looked at one by one only if all that are short, being strange letters, would reach the threshold.
    if np.count_nonzero(unknown | short) < UNREADABLE_SHARE * len(lengths):
        return Readability(0.0, unread)
    pieces = [text[start:end] for start, end in zip(tokens.starts[short], tokens.ends[short], strict=True)]
    letters = [piece for piece in pieces if any(map(_is_letter, piece))]
    telling = len(lengths) - len(pieces) + len(letters)  # numbers and punctuation tell nothing
    strange = int(np.count_nonzero(unknown)) + sum(not _is_own(piece, vocabulary) for piece in letters)
    return Readability(strange / telling if telling else 0.0, unread)


def _share_of_characters(text: str, count: int) -> float:
    """Return what share of a text's characters, spaces apart, so many are; at most 1."""
    return min(count / max(len("".join(text.split())), 1), 1.0) if count else 0.0


def _is_own(letter: str, vocabulary: Vocabulary) -> bool:
    """Tell whether a single letter is one at which a vocabulary stops as a matter of course."""
    return letter.isascii() or (all(map(_is_ideograph, letter)) and vocabulary.knows_ideographs)


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def _is_ideograph(character: str) -> bool:
    """Tell whether a character is one of the CJK ideographs."""
    return "\u3400" <= character <= "\u9fff" or "\U00020000" <= character <= "\U0003ffff"
