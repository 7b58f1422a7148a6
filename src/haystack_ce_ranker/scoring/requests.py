"""What a call of the scorer works on: requests, their documents on the way, pairs, and how far it all is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import checks
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.reading.passages import Piece
from haystack_ce_ranker.reading.plan import ReadingPlan
from haystack_ce_ranker.reading.queries import EncodedQuery
from haystack_ce_ranker.scoring.scores import (
    BEYOND_DEPTH,
    DocumentScore,
    QueryScores,
    ScoredPiece,
    ScoringCost,
    skipped,
)
from haystack_ce_ranker.scoring.visits import Visit
from haystack_ce_ranker.tokenizing.pairs import PackedPair

Progress = Callable[[int, int], None]
"""Called with the number of documents scored so far, and of all documents."""


@dataclass
class Work:
    """
    A call of the scorer: what it costs, and how long it may go on.

    :ivar deadline: A time of `time.monotonic()`; None for no limit.
    :ivar visit: The request that it is done for, which may be withdrawn; None if it cannot.
    """

    cost: ScoringCost = field(default_factory=ScoringCost)
    deadline: float | None = None
    visit: Visit | None = None


@dataclass
class Candidate:
    """A document on its way through the scorer: its reading plan, and the logits of its pieces so far."""

    plan: ReadingPlan
    scored: list[ScoredPiece] = field(default_factory=list)


class Pair(NamedTuple):
    """One pair to score, and the document that it belongs to."""

    candidate: Candidate
    piece: Piece
    packed: PackedPair

    @classmethod
    def of(cls, candidate: Candidate, piece: Piece) -> "Pair":
        """Return the pair that shows a piece of a document."""
        return cls(candidate, piece, candidate.plan.pack(piece))


class Request:
    """
    A query with documents to score. Equal texts are one document here, so that they tie.

    :ivar texts: Each different text once, in the order of their first places.
    :ivar places: The first place of each of `texts` in the caller's list.
    :ivar positions: For each document of the caller its place in `texts`.
    :ivar beyond: How many further documents are not to be scored.
    """

    def __init__(
        self, query: EncodedQuery, documents: Sequence[str | DocumentText], *, depth: int | None = None
    ) -> None:
        self.query = query
        self.beyond = 0 if depth is None else max(len(documents) - depth, 0)
        self.places: list[int] = []
        self.positions: list[int] = []
        numbers: dict[DocumentText, int] = {}
        for place, given in enumerate(documents[:depth]):
            text = given if isinstance(given, DocumentText) else DocumentText(checks.text(f"documents[{place}]", given))
            if text not in numbers:
                numbers[text] = len(numbers)
                self.places.append(place)
            self.positions.append(numbers[text])
        self.texts = list(numbers)

    def only(self, chosen: Sequence[int]) -> "Request":
        """Return the request with some of its texts."""
        part = Request(self.query, [self.texts[position] for position in chosen])
        part.places = [self.places[position] for position in chosen]
        return part

    def scores(
        self,
        found: Sequence[DocumentScore],
        *,
        fresh: Sequence[DocumentScore] | None = None,
        out_of_time: bool = False,
        missing: float | None = None,
    ) -> QueryScores:
        """
        Return the scores of the caller's documents.

        :param found: Of `texts`.
        :param fresh: Those that this call computed; None for all.
        """
        fresh = found if fresh is None else fresh
        read = [score.query_tokens for score in found if score.logit is not None]
        return QueryScores(
            documents=(*(found[position] for position in self.positions), *[skipped(BEYOND_DEPTH)] * self.beyond),
            query_tokens=len(self.query),
            query_tokens_read=min(read, default=len(self.query)),
            pairs=sum(score.pairs for score in fresh),
            tokens=sum(score.pair_tokens for score in fresh),
            out_of_time=out_of_time,
            missing=missing,
            cached=sum(found[position].logit is not None for position in self.positions)
            - sum(score.logit is not None for score in fresh),
        )


class Part(NamedTuple):
    """Consecutive documents of one request, ready to be scored."""

    request: int
    candidates: list[Candidate]
    pairs: list[Pair]


class CountedProgress:
    """Tells how many of the caller's documents are scored."""

    def __init__(self, progress: Progress, requests: Sequence[Request]) -> None:
        self._progress = progress
        self._done = 0
        self._copies = [np.bincount(request.positions, minlength=len(request.texts)) for request in requests]
        self._taken = [0] * len(requests)
        self._all = sum(len(request.positions) for request in requests)

    def of_slice(self, parts: Sequence[Part]) -> Callable[[NDArray[np.bool_]], None]:
        """Return a function to call with a mask of a slice's pairs that are scored."""
        copies: list[int] = []
        for part in parts:
            start = self._taken[part.request]
            self._taken[part.request] += len(part.candidates)
            copies += self._copies[part.request][start : self._taken[part.request]].tolist()
        candidates = [candidate for part in parts for candidate in part.candidates]
        owners = np.repeat(np.arange(len(candidates)), [len(one.plan.pieces) for one in candidates])
        before, weights = self._done, np.asarray(copies)
        self._done += int(weights.sum())

        def report(scored: NDArray[np.bool_]) -> None:
            waiting = np.unique(owners[~scored])
            self._progress(before + int(weights.sum() - weights[waiting].sum()), self._all)

        return report


def groups_of(candidates: Sequence[Candidate], tokens: int) -> list[list[Candidate]]:
    """Return consecutive candidates in groups whose pairs have at most so many tokens together, or one candidate."""
    groups: list[list[Candidate]] = []
    room = 0
    for candidate in candidates:
        cost = sum(candidate.plan.cost(piece) for piece in candidate.plan.pieces)
        if not groups or cost > room:
            groups.append([])
            room = tokens
        groups[-1].append(candidate)
        room -= cost
    return groups
