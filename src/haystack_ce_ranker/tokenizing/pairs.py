"""
A pair of texts as one sequence of tokens, and the format that a model reads pairs in.

The format says which tokens stand before, between and behind the two texts, and the token type of every part. Packing
is then a concatenation. `pair_formats.py` learns the format, and `reading` decides what to pack.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.tokenizing.tokens import Ids


class PairTexts(NamedTuple):
    """The two texts of a pair."""

    query: str
    document: str


class PackedPair(NamedTuple):
    """
    One pair as the model reads it.

    :ivar ids: Token ids, with special tokens; shape (tokens,).
    :ivar types: Token types; shape (tokens,).
    :ivar source: Gives the texts that the tokens were made of, for a backend that sends texts to a server.
    """

    ids: Ids
    types: Ids
    source: Callable[[], PairTexts] | None = None

    def texts(self) -> PairTexts:
        """
        Return the texts of the pair: slices of what the caller gave, not decoded tokens.

        :raises ValueError: If the pair was packed from tokens alone.
        """
        if self.source is None:
            raise ValueError("this pair was packed from tokens alone and has no texts; pack it with a ReadingPlan.")
        return self.source()


class Frame(NamedTuple):
    """
    The text that a template puts around one side of a pair, as far as it bears on the tokens of that side.

    `lead` and `tail` are encoded together with the text, because a tokenizer may merge them with it: in
    "Query: snow" the token is " snow", not "snow". `before` and `after` are the rest. They are there only so that the
    tokenizer sees what stands beside the text, and their tokens belong to the parts of the `PairFormat`. `strips` says
    that the template removes white space around the text.
    """

    before: str = ""
    lead: str = ""
    tail: str = ""
    after: str = ""
    strips: bool = False


NO_FRAME = Frame()


@dataclass(frozen=True)
class PairFormat:
    """
    The tokens before, between and after the two texts of a pair, with the token type of each part.

    :ivar query: The text that a template puts around the query; empty for models that only have special tokens.
    :ivar document: The same for the document.
    """

    prefix: PackedPair
    query_type: int
    middle: PackedPair
    document_type: int
    suffix: PackedPair
    query: Frame = NO_FRAME
    document: Frame = NO_FRAME

    @property
    def special_tokens(self) -> int:
        """How many tokens a pair has beside those of its texts."""
        return len(self.prefix.ids) + len(self.middle.ids) + len(self.suffix.ids)

    def pack(self, query: Ids, *document: Ids) -> PackedPair:
        """Pack a query and the parts of a document, which are read as one text, into one pair."""
        length = sum(len(part) for part in document)
        return PackedPair(
            np.concatenate([self.prefix.ids, query, self.middle.ids, *document, self.suffix.ids]),
            np.concatenate(
                [
                    self.prefix.types,
                    np.full(len(query), self.query_type, dtype=np.int32),
                    self.middle.types,
                    np.full(length, self.document_type, dtype=np.int32),
                    self.suffix.types,
                ]
            ),
        )
