"""Texts to tokens, word by word where that gives the same; what a pair looks like is `pairs.py`'s business."""

import re
from collections.abc import Sequence
from typing import Any

from haystack_ce_ranker.tokens import Tokens, read_whole

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class TextEncoder:
    """
    Encodes texts without special tokens. Safe from several threads.

    :param tokenizer: A tokenizer of the library `tokenizers`, without truncation and padding, that nobody else changes.
    """

    def __init__(self, tokenizer: Any) -> None:
        from haystack_ce_ranker.word_table import WordTable, reads_word_by_word  # compiles, or loads what was compiled

        self._tokenizer = tokenizer
        self._words = WordTable(tokenizer) if reads_word_by_word(tokenizer) else None

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
        return read_whole(self._tokenizer, texts) if self._words is None else self._words.encode(texts)
