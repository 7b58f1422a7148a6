"""
A table of words with their tokens, so that each different word goes through a tokenizer once.

A tokenizer reads every word of a long document anew, though it has read most of them before, in this document or in
others. Where a tokenizer provably reads word by word, texts are put together from a table; benchmarks/speed.md says
what that saves. A word that is one token comes from the vocabulary. The tokenizer reads every other word once.

Importing this module imports numba, and compiles the loops or loads them from the cache.
"""

import re
import secrets
import string
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.tokenizing import word_kernels
from haystack_ce_ranker.tokenizing.tokens import LONG_WORDS, Ids, Tokens, read_whole

MAX_CHARACTERS = 2_000_000
"""The most characters that the words of a table may have together, about 250,000 words. A full table starts anew."""

MAX_WORDS = 1 << 18
"""The most words that a table may have. A full table starts anew."""

_PARTS, _FEW_WORDS = 8, 100  # the tokenizer reads new words as up to 8 texts, in its own threads, of 100 words or more
_SPACES = " \t\n\r"  # other spaces of Unicode may be control characters to a tokenizer, which drops those
_CODE_POINTS = "utf-32-le"
_NOTHING = "(?!)"  # matches nowhere


class WordTable:
    """
    The tokens of all words seen. Safe from several threads.

    Words end at spaces. A mark of punctuation is a word of its own. Case does not count if the tokenizer makes all
    letters lower case. A text that contains an added token such as "[SEP]" (in any case, if case does not count)
    bypasses the table. If the tokenizer looks for an added token in the normalised text, words are only split at
    spaces and kept as they stand.

    :param tokenizer: One for which `text_encoder.reads_word_by_word` holds.
    :param described: What the tokenizer is made of, its parsed JSON.
    """

    def __init__(self, tokenizer: Any, described: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        added = described.get("added_tokens") or []
        as_they_are = [token["content"] for token in added if not token["normalized"]]
        self._kinds = np.full(word_kernels.ASCII, word_kernels.PART_OF_WORD, dtype=np.uint8)
        self._folded = np.arange(word_kernels.ASCII, dtype=np.uint32)
        self._kinds[_code_points(_SPACES)] = word_kernels.BETWEEN_WORDS
        seeds: dict[str, int] = {}
        lower = len(as_they_are) == len(added) and bool((described.get("normalizer") or {}).get("lowercase"))
        # Lower case may turn a word into an added token.
        self._added = re.compile("|".join(map(re.escape, as_they_are)) or _NOTHING, re.IGNORECASE if lower else 0)
        if len(as_they_are) == len(added):
            self._kinds[_code_points(string.punctuation)] = word_kernels.WORD_OF_ITS_OWN
            if lower:
                self._folded[_code_points(string.ascii_uppercase)] = _code_points(string.ascii_lowercase)
            seeds = _single_tokens(described["model"], lower=lower)
        self._seeds = _code_points(" ".join(seeds))
        self._seed_tokens = Tokens(
            np.fromiter(seeds.values(), np.int32, len(seeds)),
            np.zeros(len(seeds), dtype=np.int32),
            np.fromiter(map(len, seeds), np.int32, len(seeds)),
        )
        self._seed_firsts = np.arange(len(seeds) + 1, dtype=np.int32)
        self._key = np.uint64(secrets.randbits(64) | 1)
        self._slots = np.zeros(1 << (2 * MAX_WORDS - 1).bit_length(), dtype=np.int32)
        self._hashes = np.empty(MAX_WORDS, dtype=np.uint64)
        self._letter_firsts = np.zeros(MAX_WORDS + 1, dtype=np.int32)
        self._letters = np.empty(MAX_CHARACTERS, dtype=np.uint32)
        self._token_firsts = self._seed_firsts
        self._tokens = self._seed_tokens
        self._sound = False  # whether all words in the table have their tokens
        self.after_fork()
        forking.renewed(self)

    def after_fork(self) -> None:
        """Make the lock anew; see `forking`. The next text finds out whether the table is sound."""
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Encode texts as the tokenizer does, without special tokens."""
        if not texts:
            return []
        characters = _code_points("\n".join([*texts, ""]))
        text_starts = _starts(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
        counts = np.empty(len(texts), dtype=np.int64)
        word_kernels.count_words(characters, text_starts, self._kinds, counts)
        suited = np.diff(text_starts) <= LONG_WORDS * counts + LONG_WORDS
        suited &= np.fromiter((self._added.search(text) is None for text in texts), np.bool_, len(texts))
        if not suited.all():
            return self._encode_some(texts, suited)
        numbered = self._look_up(characters, int(counts.sum()))
        if numbered is None:
            return read_whole(self._tokenizer, texts)
        numbers, begins, firsts, table = numbered
        word_starts = _starts(counts)
        token_starts = np.empty(len(texts) + 1, dtype=np.int64)
        word_kernels.count_tokens(numbers, word_starts, firsts, token_starts)
        joined = Tokens(*(np.empty(token_starts[-1], dtype=np.int32) for _ in range(3)))
        word_kernels.join_tokens(numbers, begins, word_starts, text_starts, firsts, *table, *joined)
        return [
            Tokens(*(array[start:stop].copy() for array in joined)) for start, stop in pairwise(token_starts.tolist())
        ]

    def _encode_some(self, texts: Sequence[str], suited: NDArray[np.bool_]) -> list[Tokens]:
        """Encode the texts that suit the table by the table, and the others whole."""
        by_words = iter(self.encode([text for text, suits in zip(texts, suited, strict=True) if suits]))
        whole = iter(
            read_whole(self._tokenizer, [text for text, suits in zip(texts, suited, strict=True) if not suits])
        )
        return [next(by_words if suits else whole) for suits in suited]

    def _look_up(self, characters: NDArray[np.uint32], words: int) -> tuple[Ids, Ids, Ids, Tokens] | None:
        """
        Number the words of a text, and read those that are new.

        :returns: The number of each word and where it begins; where the tokens of each number start, and the tokens.
            None if the words are too many for the table.
        """
        with self._lock:
            for _ in range(2):
                if not self._sound:
                    self._clear()
                self._sound = False  # until all is done: an error, or a fork, in between leaves words without tokens
                numbers, begins, now = self._number(characters, words, known=len(self._token_firsts) - 1)
                if len(numbers) == words:
                    self._learn(now)
                    self._sound = True
                    return numbers, begins, self._token_firsts, self._tokens
        return None

    def _number(self, characters: NDArray[np.uint32], words: int, *, known: int) -> tuple[Ids, Ids, int]:
        """Number words while the table has room; return their numbers, their begins, and how many words it has now."""
        numbers, begins = np.empty(words, dtype=np.int32), np.empty(words, dtype=np.int32)
        found, now = word_kernels.number_words(
            characters,
            self._kinds,
            self._folded,
            self._key,
            known,
            self._slots,
            self._hashes,
            self._letter_firsts,
            self._letters,
            numbers,
            begins,
        )
        return numbers[:found], begins[:found], now

    def _learn(self, now: int) -> None:
        """Let the tokenizer read the words up to number `now`, in a few long texts: one text a word would cost more."""
        known = len(self._token_firsts) - 1
        if now == known:
            return
        firsts = self._letter_firsts
        borders = np.linspace(known, now, 1 + min(_PARTS, -(-(now - known) // _FEW_WORDS))).astype(int).tolist()
        texts = [
            self._letters[firsts[start] : firsts[stop]].tobytes().decode(_CODE_POINTS)
            for start, stop in pairwise(borders)
        ]
        counts, learnt = [], [self._tokens]
        for (start, stop), tokens in zip(pairwise(borders), read_whole(self._tokenizer, texts), strict=True):
            begins = firsts[start:stop] - firsts[start]
            words = np.searchsorted(begins, tokens.starts, side="right") - 1
            counts.append(np.bincount(words, minlength=len(begins)))
            learnt.append(Tokens(tokens.ids, tokens.starts - begins[words], tokens.ends - begins[words]))
        # New arrays, since another thread may still read the old ones. Copying those of a full table takes a few ms.
        ends = self._token_firsts[-1] + np.cumsum(np.concatenate(counts), dtype=np.int32)
        self._token_firsts = np.concatenate([self._token_firsts, ends])
        self._tokens = Tokens(*(np.concatenate(arrays) for arrays in zip(*learnt, strict=True)))

    def _clear(self) -> None:
        """Forget all words but those of the vocabulary."""
        self._slots[:] = 0
        self._number(self._seeds, len(self._seed_tokens.ids), known=0)
        self._token_firsts, self._tokens = self._seed_firsts, self._seed_tokens


def _single_tokens(model: Mapping[str, Any], *, lower: bool) -> dict[str, int]:
    """
    Return the words that WordPiece reads as one token: it tries the whole word before its parts.

    They fill half of a table at most.
    """
    words: dict[str, int] = {}
    characters = 0
    for word, number in model["vocab"].items():
        plain = word.isascii() and (word.isalnum() or (len(word) == 1 and word in string.punctuation))
        if not plain or len(word) > model["max_input_chars_per_word"] or (lower and word != word.lower()):
            continue
        characters += len(word) + 1
        if characters > MAX_CHARACTERS // 2 or len(words) >= MAX_WORDS // 2:
            break
        words[word] = number
    return words


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode(_CODE_POINTS), dtype="<u4")


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some runs starts, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)])
