"""
Ways to choose the windows of a long document for `watts_windows.py`: the engine's own, and others beside it.

A way is given a query and a document, and returns the pieces to read, those with most evidence first.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.reading.documents import EncodedDocument
from haystack_ce_ranker.reading.passages import STRATEGIES, Piece, WindowSettings
from haystack_ce_ranker.reading.soft_matches import SoftMatches
from haystack_ce_ranker.tokenizing.tokens import Ids


class Asked(NamedTuple):
    """
    A query, and a document that does not fit beside it.

    :ivar query: The query's tokens.
    :ivar document: The document as tokens.
    :ivar room: The most tokens that a piece may have.
    """

    query: Ids
    document: EncodedDocument
    room: int


Choose = Callable[[Asked], list[Piece]]


def by_evidence(size: int, most: int, share: float = 0.0) -> Choose:
    """Choose as the engine does, by its evidence; windows overlap by half."""
    return by_settings(WindowSettings(size, size // 2, most, share))


def by_settings(settings: WindowSettings, strategy: str = "best_passages") -> Choose:
    """Choose as the engine does by one of its strategies."""
    return lambda asked: STRATEGIES[strategy](asked.document, asked.query, asked.room, settings)


def by_soft_matches(soft: SoftMatches, size: int, most: int, share: float = 0.0) -> Choose:
    """Choose as the engine does, by what is like a token of the query."""
    return by_settings(WindowSettings(size, size // 2, most, share, soft.evidence))


def apart(soft: SoftMatches, size: int, most: int, counts: float) -> Choose:
    """
    Choose by soft matches windows that overlap less.

    :param counts: The share of a window's evidence that it loses if it were one with a window chosen before.
    """

    def choose(asked: Asked) -> list[Piece]:
        tokens = len(asked.document.body.ids)
        found = by_soft_matches(soft, size, tokens)(asked)
        starts = np.asarray([piece.spans[0].start for piece in found])
        values = np.asarray([piece.evidence for piece in found])
        common = np.zeros(len(found))
        chosen: list[Piece] = []
        while len(chosen) < min(most, len(found)):
            left = np.where(common < 1.0, values * (1.0 - counts * common), -1.0)
            best = int(left.argmax())
            if chosen and left[best] <= 0.0:
                break
            chosen.append(found[best])
            common = np.maximum(common, np.maximum(size - np.abs(starts - starts[best]), 0) / size)
        return chosen

    return choose
