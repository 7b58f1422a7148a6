"""
The part of a query to keep when it does not fit: token ids in, fewer token ids out, in their order.

`budget.py` decides how many; this file decides which.
"""

from collections.abc import Callable

import numpy as np

from haystack_ce_ranker.tokenizing.tokens import Ids


def _head_tail(query: Ids, tokens: int) -> Ids:
    head = (tokens + 1) // 2
    return np.concatenate([query[:head], query[len(query) - (tokens - head) :]])


def _rarest(query: Ids, tokens: int) -> Ids:
    order = np.argsort(-query, kind="stable")[:tokens]
    return query[np.sort(order)]


REDUCTIONS: dict[str, Callable[[Ids, int], Ids]] = {
    "head": lambda query, tokens: query[:tokens],
    "tail": lambda query, tokens: query[len(query) - tokens :],
    "head_tail": _head_tail,
    "rarest": _rarest,
}
"""Which tokens of a query to keep, by name, given how many; the query is longer than that."""


def reduce_query(query: Ids, tokens: int, reduction: str = "rarest") -> Ids:
    """
    Return the `tokens` tokens of a query that say most of what it asks for; the query itself if it fits.

    By default the rarest stay, for these carry what is asked. How rare a token is, its id tells: vocabularies of
    WordPiece, byte pairs and unigrams are written down from the most frequent piece to the rarest. So the choice needs
    no collection, and a document's score does not depend on its neighbours.

    :param query: Token ids; shape (query tokens,).
    :param tokens: How many may stay, at least 1.
    :param reduction: A name in `REDUCTIONS`.
    """
    return query if len(query) <= tokens else REDUCTIONS[reduction](query, tokens)
