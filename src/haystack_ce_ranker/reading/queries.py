"""
A query as tokens, and the part of it to keep when it does not fit.

`budget.py` decides how many tokens stay; this file decides which.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.reading.blank import is_blank
from haystack_ce_ranker.tokenizing.tokens import Ids, Tokens

Places = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class EncodedQuery:
    """
    A query as tokens.

    :ivar text: The text that the tokens were made of.
    :ivar tokens: Token ids with their places in `text`, without special tokens.
    :ivar kept: Which tokens of the whole query these are, ascending; None for all.
    :ivar has_text: Whether there is anything to ask: not if only a prompt of the model has tokens.
    """

    text: str
    tokens: Tokens
    kept: Places | None = None
    has_text: bool = True

    @classmethod
    def of(cls, query: str, tokens: Tokens, *, prompt: str = "") -> "EncodedQuery":
        """
        Return a query with the tokens of `prompt + query`.

        :param prompt: What the model was saved with, to go before every query.
        """
        has_text = not is_blank(query) and bool((tokens.ends > len(prompt)).any())
        return cls(prompt + query, tokens, has_text=has_text)

    def __len__(self) -> int:
        """Return how many tokens it has."""
        return len(self.tokens.ids)

    def reduced(self, tokens: int, reduction: str) -> "EncodedQuery":
        """
        Return the query with at most `tokens` tokens, in their order. A query that fits is returned itself.

        :param tokens: How many tokens may stay, at least 1.
        :param reduction: A name in `REDUCTIONS`.
        """
        if len(self) <= tokens:
            return self
        kept = REDUCTIONS[reduction](self.tokens.ids, tokens)
        return EncodedQuery(self.text, Tokens(*(part[kept] for part in self.tokens)), kept)

    def shown(self) -> str:
        """Return the text of the tokens: the whole text, or each run of kept tokens, with a space between runs."""
        if self.kept is None:
            return self.text
        runs = np.split(np.arange(len(self)), np.flatnonzero(np.diff(self.kept) > 1) + 1)
        starts, ends = self.tokens.starts, self.tokens.ends
        return " ".join(self.text[starts[run[0]] : ends[run[-1]]] for run in runs)


def _head(_query: Ids, tokens: int) -> Places:
    return np.arange(tokens)


def _tail(query: Ids, tokens: int) -> Places:
    return np.arange(len(query) - tokens, len(query))


def _head_tail(query: Ids, tokens: int) -> Places:
    head = (tokens + 1) // 2
    return np.concatenate([np.arange(head), np.arange(len(query) - (tokens - head), len(query))])


def _rarest(query: Ids, tokens: int) -> Places:
    """
    Keep the rarest tokens, because they say most about the question.

    A token's id tells how rare it is: vocabularies of WordPiece, byte pairs and unigrams go from the most frequent
    piece to the rarest. So the choice needs no collection, and a document's score does not depend on its neighbours.
    """
    return np.sort(np.argsort(-query, kind="stable")[:tokens])


REDUCTIONS: dict[str, Callable[[Ids, int], Places]] = {
    "head": _head,
    "tail": _tail,
    "head_tail": _head_tail,
    "rarest": _rarest,
}
"""Functions that choose the tokens to keep, by name. They take ids and a number, and return places, ascending."""
