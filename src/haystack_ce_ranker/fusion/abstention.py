"""
When to say that nothing here answers a query: a threshold of the best joined probability, and how well it tells.

Collections judge queries that have an answer. So each query counts twice: as it is, and without its relevant documents
among the candidates, which is what a query that nothing answers looks like.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.fusion.judged import JudgedQuery, Setting, fused
from haystack_ce_ranker.fusion.normalizers import FloatArray

FEWEST = 10
"""Queries with a relevant candidate below which no threshold is chosen."""


class Tops(NamedTuple):
    """The best joined score of one query: with its relevant candidates, and without them."""

    answered: float
    unanswered: float


@dataclass(frozen=True)
class Abstention:
    """
    A threshold, and what thresholds chosen on one half of the queries do on the other half, both ways.

    :ivar threshold: Chosen on all queries. As the joiner's `score_threshold` it leaves no document of a query that it
        takes for one without an answer.
    :ivar precision: Share of the queries without a relevant candidate among those that got no document.
    :ivar recall: Share of the queries without a relevant candidate that got no document.
    :ivar answered: Share of the queries with a relevant candidate that got a document.
    :ivar queries: How many there are, each with and without its relevant candidates.
    """

    threshold: float
    precision: float
    recall: float
    answered: float
    queries: int


def tops_of(query: JudgedQuery, setting: Setting) -> Tops | None:
    """Return a query's best scores; None without a relevant candidate, or if nothing else was found."""
    relevant = {identifier for identifier, grade in query.judgments.items() if grade > 0}
    whole, rest = (fused(one, setting) for one in (query, without(query, relevant)))
    if not rest.scores or relevant.isdisjoint(whole.ids):
        return None
    return Tops(max(whole.scores), max(rest.scores))


def without(query: JudgedQuery, left_out: set[str]) -> JudgedQuery:
    """Return a query as if some documents had not been found."""
    lists = {}
    for name, listed in query.lists.items():
        kept = [place for place, identifier in enumerate(listed.ids) if identifier not in left_out]
        ids, scores = [listed.ids[place] for place in kept], [listed.scores[place] for place in kept]
        lists[name] = replace(listed, ids=ids, scores=scores)
    candidates = None if query.candidates is None else [one for one in query.candidates if one not in left_out]
    return replace(query, lists=lists, candidates=candidates)


def abstention(tops: Sequence[Tops], *, seed: int = 0) -> Abstention | None:
    """Choose the threshold with the highest F1 of telling queries without an answer; None with fewer than `FEWEST`."""
    if len(tops) < FEWEST:
        return None
    values = np.array(tops, dtype=np.float64)
    order = np.random.default_rng(seed).permutation(len(values))
    halves = values[order[::2]], values[order[1::2]]
    silent = kept = 0
    for here, there in (halves, halves[::-1]):
        threshold = _choose(here)
        kept += int((there[:, 0] >= threshold).sum())
        silent += int((there[:, 1] < threshold).sum())
    wrong = len(values) - kept
    return Abstention(
        threshold=_choose(values),
        precision=silent / (silent + wrong) if silent + wrong else 0.0,
        recall=silent / len(values),
        answered=kept / len(values),
        queries=len(values),
    )


def in_words(found: Abstention | None) -> str:
    """Say what a threshold does."""
    if found is None:
        return f"when nothing answers a query cannot be told: fewer than {FEWEST} queries have a relevant candidate"
    return (
        f"when nothing answers a query: a `score_threshold` of {found.threshold:.2f} then leaves no document. Of "
        f"queries without a relevant candidate (the same {found.queries}, with these taken out) {found.recall:.0%} get "
        f"none; {found.precision:.0%} of those that get none are such; {found.answered:.0%} of the others get an answer"
    )


def _choose(values: FloatArray) -> float:
    """Return the threshold with the highest F1, between two scores that occur; of equal ones the lowest."""
    occurring = np.unique(values)
    thresholds = (occurring[:-1] + occurring[1:]) / 2.0 if len(occurring) > 1 else occurring
    right = (values[:, 1, None] < thresholds).sum(axis=0)
    wrong = (values[:, 0, None] < thresholds).sum(axis=0)
    return float(thresholds[int(np.argmax(2.0 * right / (right + wrong + len(values))))])
