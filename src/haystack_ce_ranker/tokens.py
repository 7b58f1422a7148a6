"""
Texts to token ids with character offsets; what a pair looks like to the model is `pairs.py`'s business.

A tokenizer reads every word of a long document anew, though most of them were read before, in this document or in
others. Where a tokenizer provably reads word by word, each different word goes through it once, and texts are put
together from a table of words: three to ten times as fast.
"""

import json
import re
import threading
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PARTS = 8  # texts of new words for the tokenizer's own threads to share

MAX_CHARACTERS = 2_000_000
"""How many characters the words of the table may have together, some 200,000 words; beyond, it starts anew."""

FEW_SPACES = 32
"""Characters a space from which on texts are read as a whole: what has no spaces, as Chinese, has no word twice."""


class Tokens(NamedTuple):
    """A text as token ids and the characters that each token stands for; three arrays of shape (tokens,)."""

    ids: Ids
    starts: Ids
    ends: Ids


class TextEncoder:
    """
    Encodes texts without special tokens. Safe from several threads.

    :param tokenizer: A tokenizer of the library `tokenizers`, without truncation and padding, that nobody else changes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._words = _WordTable(tokenizer) if reads_word_by_word(tokenizer) else None

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """
        Encode texts, all in one call.

        Half of a surrogate pair, which no tokenizer takes, is read as U+FFFD; offsets stay right.

        :returns: One `Tokens` for each text, offsets in characters (code points) of the text.
        """
        try:
            return self._encode(texts)
        except (TypeError, UnicodeEncodeError):
            return self._encode([_LONE_SURROGATE.sub("\ufffd", text) for text in texts])

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        return _encode_all(self._tokenizer, texts) if self._words is None else self._words.encode(texts)


def reads_word_by_word(tokenizer: Any) -> bool:
    """
    Tell whether the tokens of a text are those of its words between spaces, put together.

    That holds for BERT's own steps: its normaliser looks at one character at a time (an accent belongs to the
    character before it, never to one across a space), its pre-tokenizer parts at spaces, and WordPiece sees one word.
    Byte pairs and unigrams count the space as part of the word; theirs are read as a whole.
    """
    described = json.loads(tokenizer.to_str())
    kinds = [(described.get(step) or {}).get("type") for step in ("normalizer", "pre_tokenizer", "model")]
    across_spaces = any(
        token["lstrip"] or token["rstrip"] or token["single_word"] or token["content"].split() != [token["content"]]
        for token in described.get("added_tokens") or []
    )
    return kinds[0] in (None, "BertNormalizer") and kinds[1:] == ["BertPreTokenizer", "WordPiece"] and not across_spaces


class _WordTable:
    """The tokens of all words seen, one word behind the other, with offsets that count from the word's start."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._places = {"": 0}  # between two spaces; without a token
        self._firsts = np.zeros(2, dtype=np.int64)  # word n has the tokens from firsts[n] to firsts[n + 1]
        self._tokens = Tokens(*(np.empty(0, dtype=np.int32) for _ in range(3)))
        self._characters = 0

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        words_of = [text.replace("\n", " ").replace("\t", " ").split(" ") for text in texts]
        words = list(chain.from_iterable(words_of))
        if sum(map(len, texts)) > FEW_SPACES * len(words):
            return _encode_all(self._tokenizer, texts)
        with self._lock:
            self._learn(set(words))
            places = np.fromiter(map(self._places.__getitem__, words), np.int64, len(words))
            firsts, table = self._firsts, self._tokens
        begins = firsts[places]
        counts = firsts[places + 1] - begins
        before = _before(counts)  # tokens of all words before each word
        source = np.arange(int(counts.sum())) + np.repeat(begins - before, counts)
        first_words = _before(np.fromiter(map(len, words_of), np.int64, len(words_of)))
        characters = _before(_lengths(words) + 1)
        characters -= np.repeat(characters[first_words], np.diff(first_words, append=len(words)))
        shift = np.repeat(characters, counts).astype(np.int32)
        ids, starts, ends = table.ids[source], table.starts[source] + shift, table.ends[source] + shift
        borders = [*before[first_words].tolist(), len(source)]
        return [
            Tokens(ids[start:stop].copy(), starts[start:stop].copy(), ends[start:stop].copy())
            for start, stop in pairwise(borders)
        ]

    def _learn(self, words: set[str]) -> None:
        """Read the words that are new, in a few long texts: one text for each would cost more than the reading."""
        new = words - self._places.keys()
        if self._characters + sum(map(len, new)) > MAX_CHARACTERS:
            self._clear()
            new = words - self._places.keys()
        if not new:
            return
        in_order = list(new)
        parts = [in_order[first::_PARTS] for first in range(min(_PARTS, len(in_order)))]
        known, counts = [self._tokens], []
        for part, tokens in zip(parts, _encode_all(self._tokenizer, [" ".join(part) for part in parts]), strict=True):
            begins = _before(_lengths(part) + 1)
            word_of = np.searchsorted(begins, tokens.starts, side="right") - 1
            shift = begins[word_of].astype(np.int32)
            known.append(Tokens(tokens.ids, tokens.starts - shift, tokens.ends - shift))
            counts.append(np.bincount(word_of, minlength=len(part)))
        self._tokens = Tokens(*(np.concatenate(arrays) for arrays in zip(*known, strict=True)))
        self._firsts = np.append(self._firsts, self._firsts[-1] + np.cumsum(np.concatenate(counts)))
        self._places.update(zip(chain.from_iterable(parts), range(len(self._places), len(self._firsts)), strict=False))
        self._characters += sum(map(len, new))


def _before(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each element the sum of those before it."""
    sums: NDArray[np.int64] = np.cumsum(counts) - counts
    return sums


def _lengths(words: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(len, words), np.int64, len(words))


def _encode_all(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    return [_tokens(encoding) for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _tokens(encoding: Any) -> Tokens:
    offsets = np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)
    return Tokens(np.asarray(encoding.ids, dtype=np.int32), offsets[:, 0].copy(), offsets[:, 1].copy())
