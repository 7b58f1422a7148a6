"""
One token budget shared among all documents of a query: chooses a piece of each document, then more of the best ones.

Plans and logits in, pieces out; nothing is scored here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.reading.passages import Piece, Span
from haystack_ce_ranker.reading.plan import ReadingPlan

MIN_SHARED_WINDOW = 16
"""A shared budget leaves a candidate unscored rather than show the model fewer body tokens of it than this."""


class Chosen(NamedTuple):
    """A piece to read, and the place of its document among the plans."""

    place: int
    piece: Piece


def first_pieces(plans: Sequence[ReadingPlan], budget: int) -> list[Chosen]:
    """
    Choose one piece of each document in the order they came, while the budget can show a window worth reading.

    Documents of which nothing is to be read are passed over.

    The pieces are cut to equal shares if they do not all fit.

    :param budget: The most tokens of all pairs together, special tokens among them.
    """
    places = [place for place, plan in enumerate(plans) if plan.pieces]
    pieces = [plans[place].pieces[0] for place in places]
    overheads = [plans[place].cost(piece) - piece.tokens for place, piece in zip(places, pieces, strict=True)]
    if sum(overheads) + sum(piece.tokens for piece in pieces) <= budget:
        return [Chosen(place, piece) for place, piece in zip(places, pieces, strict=True)]
    least = [over + min(MIN_SHARED_WINDOW, piece.tokens) for over, piece in zip(overheads, pieces, strict=True)]
    affordable = int(np.searchsorted(np.cumsum(least), budget, side="right"))
    pieces, overheads = pieces[:affordable], overheads[:affordable]
    share = _equal_share([piece.tokens for piece in pieces], budget - sum(overheads))
    return [Chosen(place, _shortened(piece, share)) for place, piece in zip(places, pieces, strict=False)]


def dearest(plans: Sequence[ReadingPlan], count: int) -> list[ReadingPlan]:
    """Return so many of some documents, those whose first pieces cost most; documents without one cost nothing."""
    costs = [plan.cost(plan.pieces[0]) if plan.pieces else 0 for plan in plans]
    return [plans[place] for place in sorted(range(len(plans)), key=lambda place: -costs[place])[:count]]


def further_pieces(
    plans: Sequence[ReadingPlan], logits: Sequence[float | None], budget: int, *, top_k: int
) -> list[Chosen]:
    """
    Choose further pieces where they can change the top k: the second pieces of the best documents, then of the others.

    The third pieces follow in the same order, and so on. A piece that does not fit is skipped.

    :param logits: The logit of each document's first piece; None for a document without one.
    :param budget: The tokens that the first pieces left.
    :param top_k: How many of the best the caller wants.
    """
    known = [(place, logit) for place, logit in enumerate(logits) if logit is not None]
    ranked = [place for place, _ in sorted(known, key=lambda one: -one[1])]
    chosen = []
    for nth in range(1, max((len(plan.pieces) for plan in plans), default=1)):
        for group in (ranked[: 2 * top_k], ranked[2 * top_k :]):
            for place in group:
                plan = plans[place]
                if nth < len(plan.pieces) and (tokens := plan.cost(plan.pieces[nth])) <= budget:
                    budget -= tokens
                    chosen.append(Chosen(place, plan.pieces[nth]))
    return chosen


def _equal_share(tokens: Sequence[int], budget: int) -> int:
    """Return the most tokens that each document may take so that all together stay within a budget."""
    left, open_documents = budget, len(tokens)
    for length in sorted(tokens):
        if length * open_documents > left:
            return left // open_documents
        left -= length
        open_documents -= 1
    return max(tokens, default=0)


def _shortened(piece: Piece, tokens: int) -> Piece:
    spans = []
    for span in piece.spans:
        stop = min(span.stop, span.start + max(tokens, 0))
        tokens -= stop - span.start
        if stop > span.start:
            spans.append(Span(span.start, stop))
    return Piece(tuple(spans), piece.evidence)
