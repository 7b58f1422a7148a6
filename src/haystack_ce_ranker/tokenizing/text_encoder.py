"""
Texts to tokens: by the tokenizer itself, or word by word from a table where that gives the same tokens faster.

`pairs.py` knows the format of a pair.
"""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from haystack_ce_ranker import forking
from haystack_ce_ranker.tokenizing.tokens import LONG_WORDS, Tokens, read_whole

if TYPE_CHECKING:
    from haystack_ce_ranker.tokenizing.word_table import WordTable

LONG_TEXT = 4500
"""
A text of this many characters or more is long: about 1,000 tokens, twice what most models read at once.

The first long text loads the table of words. That takes 1 s and 0.11 GB (2 s once on a machine, to compile its loops),
and then saves 0.4 microseconds a character. So the table pays for itself after some 2,500,000 characters of long
texts: 100 articles of 25,000 characters, or 550 texts of this length. Short texts never load the table. The tokenizer
reads a passage of 60 words in 0.2 ms, a small share of the time in which a model scores it on a CPU. Once the table is
there, it reads short texts, too. Five collections of passages, abstracts and questions (dl19, vaswani, cacm, med and
stackfaq) have no text of this length; 95 % of COVID-QA's articles are longer.
"""

MANY_ADDED = 100
"""With more added tokens than this, texts are read whole. Otherwise each text would be searched for all of them."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@forking.cached
def _loading() -> threading.Lock:
    return threading.Lock()


class TextEncoder:
    """
    Encodes texts without special tokens. Safe from several threads.

    :param tokenizer: A tokenizer of the library `tokenizers`, without truncation and padding, that nobody else changes.
    :ivar by_words: Whether long texts are read word by word.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._table: WordTable | None = None
        self.by_words = reads_word_by_word(json.loads(tokenizer.to_str()))

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """
        Encode texts, all in one call.

        No tokenizer takes half of a surrogate pair. It is read as U+FFFD, and offsets stay right.

        :returns: One `Tokens` for each text, offsets in characters (code points) of the text.
        """
        try:
            return self._encode(texts)
        except (TypeError, UnicodeEncodeError):
            return self._encode([_LONE_SURROGATE.sub("\ufffd", text) for text in texts])

    def load_table(self) -> "WordTable":
        """
        Return the table of words; the first call loads it, whichever thread makes it.

        :raises ValueError: If the tokenizer does not read word by word.
        """
        if not self.by_words:
            raise ValueError("the tokenizer does not read word by word, so it has no table of words; use `encode`.")
        with forking.uninterrupted(), _loading():
            if self._table is None:
                from haystack_ce_ranker.tokenizing.word_table import WordTable  # compiles, or loads what was compiled

                self._table = WordTable(self._tokenizer, json.loads(self._tokenizer.to_str()))
            return self._table

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        table = self._table
        if table is None and self.by_words and any(map(_is_long, texts)):
            table = self.load_table()
        return read_whole(self._tokenizer, texts) if table is None else table.encode(texts)


def _is_long(text: str) -> bool:
    """Tell whether a text is long and has words, so that a table of words would read it faster."""
    return len(text) >= LONG_TEXT and text.count(" ") * LONG_WORDS >= len(text)


def reads_word_by_word(described: Mapping[str, Any]) -> bool:
    """
    Tell whether the tokens of a text are the tokens of its words between spaces, put together.

    That holds for BERT's own steps. Its normaliser looks at one character at a time (an accent belongs to the
    character before it, never to one across a space). Its pre-tokenizer splits at spaces and around punctuation, and
    WordPiece sees one word. Byte pairs and unigrams count the space as part of the word, so those texts are read whole.

    :param described: What the tokenizer is made of, its parsed JSON.
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
