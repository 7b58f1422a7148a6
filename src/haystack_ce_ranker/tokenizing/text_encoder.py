"""Texts to tokens, word by word where that gives the same; what a pair looks like is `pairs.py`'s business."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from haystack_ce_ranker.tokenizing.tokens import Tokens, read_whole

MANY_ADDED = 100
"""Added tokens beyond which texts are read as a whole: each text would have to be searched for all of them."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class TextEncoder:
    """
    Encodes texts without special tokens. Safe from several threads.

    :param tokenizer: A tokenizer of the library `tokenizers`, without truncation and padding, that nobody else changes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._words = None
        described = json.loads(tokenizer.to_str())
        if reads_word_by_word(described):
            from haystack_ce_ranker.tokenizing.word_table import WordTable  # compiles, or loads what was compiled

            self._words = WordTable(tokenizer, described)

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


def reads_word_by_word(described: Mapping[str, Any]) -> bool:
    """
    Tell whether the tokens of a text are those of its words between spaces, put together.

    That holds for BERT's own steps: its normaliser looks at one character at a time (an accent belongs to the
    character before it, never to one across a space), its pre-tokenizer parts at spaces and around punctuation, and
    WordPiece sees one word. Byte pairs and unigrams count the space as part of the word; theirs are read as a whole.

    :param described: The tokenizer as JSON.
    """
    kinds = [(described.get(step) or {}).get("type") for step in ("normalizer", "pre_tokenizer", "model")]
    added = described.get("added_tokens") or []
    across_spaces = any(
        token["lstrip"] or token["rstrip"] or token["single_word"] or token["content"].split() != [token["content"]]
        for token in added
    )
    return (
        kinds[0] in (None, "BertNormalizer")
        and kinds[1:] == ["BertPreTokenizer", "WordPiece"]
        and not across_spaces
        and len(added) <= MANY_ADDED
    )
