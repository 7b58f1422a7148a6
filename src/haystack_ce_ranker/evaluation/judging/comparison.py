"""
Whether two systems differ on the same queries, by how much, and on which most: values per query in, figures out.

Knows neither files nor pipelines; the tests are those of `significance`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from haystack_ce_ranker.significance import SAME, bootstrap, holm, randomisation_test

MEASURE = "nDCG@10"

TOP = 10
"""How many documents of a ranking are shown for a query that was helped or hurt: those that the measure sees."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    A system against a baseline on the same queries.

    :ivar difference: Mean over the queries of the system's value less the baseline's.
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
    p: float
    wins: int
    ties: int
    losses: int


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
    differences = np.array([other[query_id] - baseline[query_id] for query_id in sorted(baseline)], dtype=np.float64)
    differences[np.abs(differences) < SAME] = 0.0
    interval = bootstrap(differences, seed=seed)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        p=randomisation_test(differences, seed=seed, samples=samples),
        wins=wins,
        ties=len(differences) - wins - losses,
        losses=losses,
    )


def versus(
    by_query: Mapping[str, Mapping[str, Mapping[str, float]]], baseline: str, *, measure: str = MEASURE, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """
    Compare every system with the baseline.

    :param by_query: For each system and measure, values by query id; as `by_query` of results.json.
    :returns: For each system but the baseline the fields of `Comparison` as plain values, and `p_corrected` (Holm, over
        the systems).
    :raises ValueError: If the baseline is no system.
    """
    if baseline not in by_query:
        raise ValueError(f"baseline must be one of {', '.join(map(repr, by_query))}, but got {baseline!r}")
    found = {
        name: compare(by_query[baseline][measure], values[measure], seed=seed)
        for name, values in by_query.items()
        if name != baseline
    }
    corrected = holm({name: comparison.p for name, comparison in found.items()})
    return {name: {**asdict(comparison), "p_corrected": corrected[name]} for name, comparison in found.items()}


def helped_and_hurt(
    by_query: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    baseline: str,
    system: str,
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    judgments: Mapping[str, Mapping[str, int]],
    readings: Mapping[str, Mapping[str, Mapping[str, Any]]],
    measure: str = MEASURE,
    most: int = 5,
) -> dict[str, Any]:
    """
    Return the queries that a system helps most and hurts most, with what its model read of their documents.

    :param by_query: As in `versus`.
    :param before: The baseline's run: for each query id, document ids with scores, best first.
    :param after: The system's run.
    :param judgments: Grades by query id and document id.
    :param readings: What the model read, by query id and document id: `coverage`, the share of the document's tokens;
        `read`, a list of [first character, behind the last, logit]; `logit`, the document's. What is missing was not
        read, or nobody knows.
    :param most: So many queries of each kind at most.
    :returns: Plain values: ids, grades, ranks (1 is the best; None where a run does not have the document), offsets.
        Of a query's documents those are listed that are among the first ten before or after, the system's first first.
    """
    if most < 1:
        raise ValueError(f"most must be > 0, but got {most}")
    old, new = by_query[baseline][measure], by_query[system][measure]
    gains = {query_id: new[query_id] - old[query_id] for query_id in new}
    best_first = sorted(gains, key=lambda query_id: (-gains[query_id], query_id))
    helped = [query_id for query_id in best_first if gains[query_id] >= SAME][:most]
    hurt = [query_id for query_id in reversed(best_first) if gains[query_id] <= -SAME][:most]

    def entry(query_id: str) -> dict[str, Any]:
        return {
            "query": query_id,
            "before": float(old[query_id]),
            "after": float(new[query_id]),
            "gain": float(gains[query_id]),
            "documents": _documents(
                list(before.get(query_id, {})),
                list(after.get(query_id, {})),
                judgments.get(query_id, {}),
                readings.get(query_id, {}),
            ),
        }

    return {
        "system": system,
        "baseline": baseline,
        "measure": measure,
        "helped": [entry(query_id) for query_id in helped],
        "hurt": [entry(query_id) for query_id in hurt],
    }


def _documents(
    before: Sequence[str],
    after: Sequence[str],
    grades: Mapping[str, int],
    readings: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    old = {document_id: rank for rank, document_id in enumerate(before, start=1)}
    new = {document_id: rank for rank, document_id in enumerate(after, start=1)}
    seen = dict.fromkeys([*after[:TOP], *before[:TOP]])
    found = []
    for document_id in sorted(seen, key=lambda document_id: new.get(document_id, len(new) + old.get(document_id, 0))):
        reading = readings.get(document_id, {})
        found.append(
            {
                "document": document_id,
                "grade": grades.get(document_id),
                "rank_before": old.get(document_id),
                "rank_after": new.get(document_id),
                "logit": reading.get("logit"),
                "coverage": reading.get("coverage"),
                "read": [[int(start), int(end), logit] for start, end, logit in reading.get("read", ())],
            }
        )
    return found
