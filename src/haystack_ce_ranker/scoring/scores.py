"""The results of scoring: a score for each document with what was read of it, and what a call cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from haystack_ce_ranker.reading.passages import AGGREGATES, Piece
from haystack_ce_ranker.reading.plan import NO_QUERY, NO_TEXT, ReadingPlan
from haystack_ce_ranker.reading.readability import READABLE, Readability


class ScoredPiece(NamedTuple):
    """A piece of a document with the logit of the pair that showed it."""

    piece: Piece
    logit: float


@dataclass(frozen=True)
class ReadSpan:
    """
    Characters of a document's content that the model read in one pair.

    :ivar start: First character; `content[start:end]` is the text.
    :ivar end: One behind the last character.
    :ivar logit: The model's output for the pair.
    :ivar evidence: The lexical evidence that the pair was chosen by; 0.0 if nothing was chosen.
    """

    start: int
    end: int
    logit: float
    evidence: float = 0.0


@dataclass(frozen=True)
class DocumentScore:
    """
    The score of one document.

    :ivar logit: The model's raw output, aggregated over the pairs; None if the document was not scored.
    :ivar why_unscored: Why it was not: `NO_TEXT`, `NO_QUERY` or `NO_ROOM` of `reading.plan`, or `BEYOND_DEPTH`,
        `SCREENED`, `OUT_OF_TIME`, `OVER_BUDGET` or `OVERLOAD`; None if it was.
    :ivar read: What was read, the pair with the highest logit first. Head and tail of one pair are two entries.
    :ivar tokens: Tokens of the content.
    :ivar tokens_read: How many of them the model saw, each counted once.
    :ivar pairs: Forward passes that it took.
    :ivar pair_tokens: Tokens of its pairs, with special tokens, without padding.
    :ivar query_tokens: Tokens of the query that its pairs showed.
    :ivar readability: How well the model's vocabulary knows the content.
    """

    logit: float | None
    read: tuple[ReadSpan, ...] = ()
    tokens: int = 0
    tokens_read: int = 0
    pairs: int = 0
    pair_tokens: int = 0
    query_tokens: int = 0
    why_unscored: str | None = None
    readability: Readability = READABLE

    @property
    def coverage(self) -> float:
        """
        Share of the content that the model saw; 1.0 for an empty document.

        It is the share of the tokens, less the share of the characters that stand in unknown tokens.
        """
        shown = self.tokens_read / self.tokens if self.tokens else 1.0
        return shown * (1.0 - self.readability.unknown)

    @property
    def scaled(self) -> float | None:
        """The sigmoid of the logit; None without one."""
        return None if self.logit is None else _sigmoid(self.logit)

    @property
    def sort_key(self) -> tuple[bool, float]:
        """What puts the best first, and documents without a score last."""
        return (self.logit is None, 0.0 if self.logit is None else -self.logit)

    def plain(self) -> dict[str, Any]:
        """Return what a document's record says of its score, as plain values."""
        why = {} if self.why_unscored is None else {"why_unscored": self.why_unscored}
        return {
            "logit": self.logit,
            "read": [{"start": span.start, "end": span.end, "logit": span.logit} for span in self.read],
            "coverage": self.coverage if self.logit is not None else 0.0,
            **why,
        }


BEYOND_DEPTH, SCREENED, OUT_OF_TIME, OVER_BUDGET = "beyond_depth", "screened", "deadline", "budget"
OVERLOAD = "overload"
"""
Why a document was not scored although it may have text: `depth` was reached in the order that documents came or in the
order of what could be expected of them, the deadline had passed, the shared token budget was spent, or the request was
refused because too many waited.
"""


def skipped(why: str) -> DocumentScore:
    """Return the score of a document that was skipped before anything of it was read."""
    return DocumentScore(logit=None, why_unscored=why)


@dataclass(frozen=True)
class QueryScores:
    """
    The scores of one query's documents.

    :ivar documents: In the order they came.
    :ivar query_tokens: Tokens of the query, without special tokens.
    :ivar query_tokens_read: The fewest of them that a pair showed; equal to `query_tokens` if the query was never cut.
    :ivar pairs: Pairs that were scored. Documents with a kept score take none.
    :ivar tokens: Tokens that the model read, with special tokens, without padding.
    :ivar out_of_time: Whether the deadline came before everything was scored.
    :ivar missing: How many of the best documents can be expected among those without a score, by a `DepthRule`; None
        without one.
    :ivar cached: Documents that this call did not score: their score was kept from an earlier call, was just being
        computed by another call, or is that of an equal text of this call.
    """

    documents: tuple[DocumentScore, ...]
    query_tokens: int
    query_tokens_read: int
    pairs: int
    tokens: int
    out_of_time: bool = False
    missing: float | None = None
    cached: int = 0


def unscored(documents: int, why: str) -> QueryScores:
    """Return the scores of a query of which nothing was read."""
    scores = (skipped(why),) * documents
    return QueryScores(scores, query_tokens=0, query_tokens_read=0, pairs=0, tokens=0, out_of_time=why == OUT_OF_TIME)


@dataclass
class ScoringCost:
    """
    What one call of the scorer cost: seconds per step, pairs, batches, tokens, and the token slots with padding.

    `flops` are those of the tokens by the model's closed form, NaN if none is known, and `padding_flops` those of the
    padding beside them.

    `waited` are the seconds in which batches of other requests were run before this one's, and `shared` counts the
    batches that held pairs of other requests, too.

    On a GPU the steps overlap, so that their seconds together can be more than the call took.
    """

    tokenise: float = 0.0
    select: float = 0.0
    score: float = 0.0
    pairs: int = 0
    batches: int = 0
    tokens: int = 0
    slots: int = 0
    flops: float = 0.0
    padding_flops: float = 0.0
    waited: float = 0.0
    shared: int = 0

    @property
    def padding_share(self) -> float:
        """Share of the token slots that held padding."""
        return 1.0 - self.tokens / self.slots if self.slots else 0.0

    def add(self, other: "ScoringCost") -> None:
        """Add what another call cost."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


def document_score(
    plan: ReadingPlan, scored: Sequence[ScoredPiece], aggregate: str, *, why_unscored: str = OUT_OF_TIME
) -> DocumentScore:
    """
    Return a document's score from those of its pieces. A document without a scored piece is not scored.

    :param scored: The pieces in the order in which the plan has them.
    :param aggregate: A name in `passages.AGGREGATES`.
    :param why_unscored: Why no piece was scored if the plan has some.
    """
    tokens = len(plan.document.body.ids)
    if not scored:
        if plan.why_unread in (NO_TEXT, NO_QUERY):
            return skipped(plan.why_unread)  # none of its tokens was cut
        return DocumentScore(logit=None, tokens=tokens, why_unscored=plan.why_unread or why_unscored)
    logits = np.asarray([one.logit for one in scored])
    seen = np.zeros(tokens, dtype=bool)
    read = []
    for place in np.argsort(-logits, kind="stable"):
        piece, logit = scored[place]
        for span in piece.spans:
            seen[span.start : span.stop] = True
            read.append(ReadSpan(*plan.offsets(span), logit, piece.evidence))
    return DocumentScore(
        logit=AGGREGATES[aggregate](logits),
        read=tuple(read),
        tokens=tokens,
        tokens_read=int(np.count_nonzero(seen)),
        pairs=len(scored),
        pair_tokens=sum(plan.cost(one.piece) for one in scored),
        query_tokens=len(plan.query),
        readability=plan.document.readability,
    )


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))
