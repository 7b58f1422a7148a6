"""
Whether two systems differ on the same queries, by how much, and on which most: values per query in, figures out.

Knows neither files nor pipelines; the tests are those of `significance`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from haystack_ce_ranker import checks
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.significance import SAME, bootstrap, differences_of, holm, randomisation_test

LEVEL = 0.05  # the corrected p below which a difference is no chance
TOP = 10  # documents of a ranking that are shown for a query that was helped or hurt: those that nDCG@10 sees

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Bounds = tuple[float, float]
"""Lower and upper end of a 95 % bootstrap interval."""

Rankings = Mapping[str, Mapping[str, float]]
"""For each query id, document ids with scores, best first."""

ByQuery = Mapping[str, Mapping[str, Mapping[str, float]]]
"""For each system and measure, values by query id."""


@dataclass(frozen=True)
class Comparison:
    """
    A system against another one on the same queries.

    :ivar difference: Mean over the queries of the system's value less the other's.
    :ivar low: Lower end of the 95 % bootstrap interval of the difference.
    :ivar high: Upper end.
    :ivar p: Of the two-sided paired randomisation test that the difference is 0.
    :ivar wins: Queries on which the system is better.
    :ivar ties: Queries with equal values.
    :ivar losses: Queries on which it is worse.
    """

    difference: float
    low: float
    high: float
    p: Share
    wins: Count
    ties: Count
    losses: Count


@dataclass(frozen=True)
class Versus(Comparison):
    """
    nDCG@10 compared with the baseline's, query by query.

    :ivar p_corrected: The p, corrected for the number of systems (Holm).
    """

    p_corrected: Share


class Passage(NamedTuple):
    """A passage that the model read: its first character, the one behind its last, and the logit."""

    start: int
    end: int
    logit: float | None


@dataclass(frozen=True)
class Evidence:
    """What a model read of a document: its logit, the share of its tokens that was read, the passages (best first)."""

    logit: float | None = None
    coverage: float | None = None
    read: tuple[Passage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MovedDocument(Evidence):
    """What was read of a document, its grade (null: not judged), and its ranks from 1 (null: not in that ranking)."""

    document: str
    grade: int | None
    rank_before: int | None
    rank_after: int | None


@dataclass(frozen=True)
class ChangedQuery:
    """A query whose nDCG@10 changed, and the documents among the first ten before or after, in the system's order."""

    query: str
    before: float
    after: float
    gain: float
    documents: tuple[MovedDocument, ...]


@dataclass(frozen=True)
class HelpedAndHurt:
    """The queries that a system helps most and hurts most, the largest change first."""

    system: str
    baseline: str
    measure: str
    helped: tuple[ChangedQuery, ...]
    hurt: tuple[ChangedQuery, ...]


def compare(
    baseline: Mapping[str, float], other: Mapping[str, float], *, seed: int = 0, samples: int = 20_000
) -> Comparison:
    """
    Compare a system with a baseline, query by query. The order of the queries plays no part.

    :param baseline: Values by query id.
    :param other: The system's values, of the same queries.
    :param seed: Of the bootstrap and of the random signs.
    :param samples: Random signs drawn where there are too many queries to count all; the smallest p is one in that.
    :raises ValueError: If there is no query, or the queries are not the same.
    """
    if not baseline:
        raise ValueError("there must be at least one query to compare on, but got none")
    if baseline.keys() != other.keys():
        odd = sorted(baseline.keys() ^ other.keys())
        raise ValueError(f"both systems must have values of the same queries, but {odd[0]!r} is in one only")
    before, after = (np.array([one[name] for name in sorted(baseline)], np.float64) for one in (baseline, other))
    differences = differences_of(after, before)
    losses, ties, wins = (int((np.sign(differences) == sign).sum()) for sign in (-1, 0, 1))
    p = randomisation_test(differences, seed=seed, samples=samples)
    return Comparison(*bootstrap(differences, seed=seed), p=p, wins=wins, ties=ties, losses=losses)


def versus(by_query: ByQuery, baseline: str) -> dict[str, Versus]:
    """
    Compare every system but the baseline with it, by nDCG@10.

    :raises ValueError: If the baseline is no system.
    """
    checks.choice("baseline", baseline, by_query)
    base = by_query[baseline][NDCG_AT_10]
    found = {name: compare(base, values[NDCG_AT_10]) for name, values in by_query.items() if name != baseline}
    corrected = holm({name: comparison.p for name, comparison in found.items()})
    return {name: Versus(**vars(comparison), p_corrected=corrected[name]) for name, comparison in found.items()}


def most_changed(before: Mapping[str, float], after: Mapping[str, float], most: int) -> tuple[list[str], list[str]]:
    """Return the ids of the queries that gained most, and of those that lost most; the largest change first."""
    gains = {query_id: after[query_id] - before[query_id] for query_id in after}
    best_first = sorted(gains, key=lambda query_id: (-gains[query_id], query_id))
    helped = [query_id for query_id in best_first if gains[query_id] >= SAME]
    hurt = [query_id for query_id in reversed(best_first) if gains[query_id] <= -SAME]
    return helped[:most], hurt[:most]


def helped_and_hurt(
    by_query: ByQuery,
    before: Rankings,
    after: Rankings,
    *,
    baseline: str,
    system: str,
    judgments: Mapping[str, Mapping[str, int]],
    readings: Mapping[str, Mapping[str, Evidence]],
    most: int = 5,
) -> HelpedAndHurt:
    """
    Return the queries that a system helps most and hurts most, with what its model read of their documents.

    :param before: The baseline's rankings.
    :param after: The system's rankings.
    :param judgments: Grades by query id and document id.
    :param readings: What the model read, by query id and document id, where it is known.
    :param most: At most this many queries of each kind.
    :returns: Of a query's documents, those that are among the first ten before or after, in the system's order.
    """
    checks.whole_number("most", most)
    old, new = by_query[baseline][NDCG_AT_10], by_query[system][NDCG_AT_10]

    def changed(query_id: str) -> ChangedQuery:
        rankings = before.get(query_id, {}), after.get(query_id, {})
        documents = _documents(*rankings, judgments.get(query_id, {}), readings.get(query_id, {}))
        return ChangedQuery(query_id, old[query_id], new[query_id], new[query_id] - old[query_id], documents)

    helped, hurt = (tuple(map(changed, ids)) for ids in most_changed(old, new, most))
    return HelpedAndHurt(system, baseline, NDCG_AT_10, helped, hurt)


def _documents(
    before: Iterable[str], after: Iterable[str], grades: Mapping[str, int], readings: Mapping[str, Evidence]
) -> tuple[MovedDocument, ...]:
    old, new = ({document_id: rank for rank, document_id in enumerate(some, start=1)} for some in (before, after))
    seen = dict.fromkeys([*list(new)[:TOP], *list(old)[:TOP]])
    return tuple(
        MovedDocument(
            **vars(readings.get(document_id, Evidence())),
            document=document_id,
            grade=grades.get(document_id),
            rank_before=old.get(document_id),
            rank_after=new.get(document_id),
        )
        for document_id in sorted(seen, key=lambda one: new.get(one, len(new) + old.get(one, 0)))
    )
