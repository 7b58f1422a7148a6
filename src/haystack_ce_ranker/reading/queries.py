"""
A query as tokens, and the part of it to keep when it does not fit.

`budget.py` decides how many tokens stay; this file decides which.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.reading.blank import is_blank
from haystack_ce_ranker.tokenizing.tokens import Ids, Tokens

Places = NDArray[np.intp]


class QueryText(NamedTuple):
    """
    A query as it is shown to the model: what is asked, between texts that stand around every query.

    :ivar content: What is asked.
    :ivar prefix: Text before it, such as an instruction.
    :ivar suffix: Text behind it.
    """

    content: str
    prefix: str = ""
    suffix: str = ""

    def whole(self) -> str:
        """Return the three as one text."""
        return self.prefix + self.content + self.suffix


@dataclass(frozen=True, eq=False)
class EncodedQuery:
    """
    A query as tokens.

    :ivar text: The text that the tokens were made of.
    :ivar tokens: Token ids with their places in `text`, without special tokens.
    :ivar kept: Which tokens of the whole query these are, ascending; None for all.
    :ivar has_text: Whether there is anything to ask: not if only what stands around every query has tokens.
    :ivar own: Where in `text` the content begins and ends, between what stands around every query; None for all of it.
    """

    text: str
    tokens: Tokens
    kept: Places | None = None
    has_text: bool = True
    own: tuple[int, int] | None = None

    @classmethod
    def of(cls, query: str | QueryText, tokens: Tokens, *, prompt: str = "") -> "EncodedQuery":
        """
        Return a query with the tokens of `prompt` and the query.

        :param prompt: What the model was saved with, to go before every query.
        """
        query = query if isinstance(query, QueryText) else QueryText(query)
        start = len(prompt) + len(query.prefix)
        own = (start, start + len(query.content)) if start or query.suffix else None
        found = cls(prompt + query.whole(), tokens, own=own)
        return replace(found, has_text=not is_blank(query.content) and bool(found.asks.any()))

    @property
    def asks(self) -> NDArray[np.bool_]:
        """Which tokens are of the content. The others are those of every query, and say nothing of what is asked."""
        if self.own is None:
            return np.ones(len(self), np.bool_)
        return (self.tokens.ends > self.own[0]) & (self.tokens.starts < self.own[1])

    @property
    def asked(self) -> Ids:
        """The ids of the tokens of the content."""
        return self.tokens.ids[self.asks]

    def __len__(self) -> int:
        """Return how many tokens it has."""
        return len(self.tokens.ids)

    def reduced(self, tokens: int, reduction: str) -> "EncodedQuery":
        """
        Return the query with at most `tokens` tokens, in their order. A query that fits is returned itself.

        What stands around every query stays as long as it leaves half of them to the content.

        :param tokens: How many tokens may stay, at least 1.
        :param reduction: A name in `REDUCTIONS`.
        """
        if len(self) <= tokens:
            return self
        own, around = np.flatnonzero(self.asks), np.flatnonzero(~self.asks)
        room = min(len(own), max(tokens - len(around), (tokens + 1) // 2))
        chosen = own if room == len(own) else own[REDUCTIONS[reduction](self.tokens.ids[own], room)]
        kept = np.sort(np.concatenate([chosen, around[: tokens - room]]))
        return replace(self, tokens=Tokens(*(part[kept] for part in self.tokens)), kept=kept)

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
