"""
What kinds of queries a system helps and harms: features of each query, and the gain of those that are alike.

Texts and numbers in, plain numbers out. Terms are BM25's (`bm25.analysis`), predictors those of `gating`. Many segments
are looked at, so each one's p is corrected for their number, and one of few queries is not judged at all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import compress

import numpy as np

from haystack_ce_ranker import checks
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.data.collections import Collection
from haystack_ce_ranker.evaluation.judging.comparison import (
    LEVEL,
    Bounds,
    ByQuery,
    Comparison,
    Count,
    Rankings,
    Share,
    compare,
)
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.gating.decision import predict
from haystack_ce_ranker.significance import holm

FEWEST = 10  # a segment of fewer queries is not judged
SHORT = 3  # words up to which a query is short enough to be called ambiguous
CANDIDATES = 10  # how many of the first stage's documents are looked at for their length
SCORES = 100  # how many of its scores are looked at, at most: predictors depend on how many there are

Features = Mapping[str, Mapping[str, float | None]]
"""For each query id, values by a feature's key; None where the feature is not defined for the query."""


class Effect(StrEnum):
    """What a system does for a kind of query; `too few` queries are not judged."""

    HELPS = "helps"
    HARMS = "harms"
    NO_EVIDENCE = "no evidence"
    TOO_FEW = "too few"


@dataclass(frozen=True, slots=True)
class Feature:
    """
    Something in which queries differ.

    :ivar names: Of the lowest, the middle and the highest third.
    :ivar what: What the bounds are bounds of.
    :ivar form: How a bound is written.
    """

    names: tuple[str, str, str]
    what: str
    form: str


_TOP_SCORE = "first-stage top score"

FEATURES: Mapping[str, Feature] = {
    "query_words": Feature(("short queries", "queries of middle length", "long queries"), "words", ".0f"),
    "shared_words": Feature(
        ("few shared words", "some shared words", "many shared words"),
        "share of the query's words in a relevant document",
        ".0%",
    ),
    "relevant_words": Feature(
        ("short relevant documents", "relevant documents of middle length", "long relevant documents"), "words", ",.0f"
    ),
    "candidate_words": Feature(
        ("short candidates", "candidates of middle length", "long candidates"), "median words", ",.0f"
    ),
    "relative_margin": Feature(
        (f"{_TOP_SCORE} hardly stands out", f"{_TOP_SCORE} stands out a little", "top score stands out"),
        "margin to the second score",
        ".1%",
    ),
    "nqc": Feature(
        ("flat first-stage scores", "first-stage scores neither flat nor steep", "steep first-stage scores"),
        "normalised query commitment",
        ".3f",
    ),
}
"""What describes a query (see `results.Results`); all but shared and relevant words are known without judgments."""

AMBIGUOUS = "ambiguous short queries"
"""At most `SHORT` words, and normalised query commitment in the lowest third: no document stands out for them."""


def features(
    collection: Collection, first_stage: Rankings, *, relevance_level: int = 1, analysis: Analysis | None = None
) -> dict[str, dict[str, float | None]]:
    """
    Describe each query.

    :param first_stage: For each query id, document ids with the first stage's scores, best first.
    :param relevance_level: The lowest grade that counts as relevant.
    :param analysis: How texts become terms; None for English.
    """
    reader = Analysis() if analysis is None else analysis
    texts = collection.documents

    @cache
    def terms_of(document_id: str) -> frozenset[str]:
        return frozenset(reader.terms(texts[document_id].content))

    @cache
    def words_of(document_id: str) -> int:
        return len(texts[document_id].content.split())

    found = {}
    for query_id, query in collection.queries.items():
        grades = collection.judgments.get(query_id, {})
        relevant = [one for one, grade in grades.items() if grade >= relevance_level and one in texts]
        candidates = first_stage.get(query_id, {})
        first = [one for one in candidates if one in texts][:CANDIDATES]
        scores = list(candidates.values())[:SCORES]
        terms = frozenset(reader.terms(query))
        shares = [len(terms & terms_of(one)) / len(terms) for one in relevant] if terms else []
        found[query_id] = {
            "query_words": float(max(len(query.split()), 1)),
            "shared_words": float(np.mean(shares)) if shares else None,
            "relevant_words": float(np.mean([words_of(one) for one in relevant])) if relevant else None,
            "candidate_words": float(np.median([words_of(one) for one in first])) if first else None,
            "relative_margin": _relative_margin(scores),
            "nqc": predict("nqc", scores),
        }
    return found


@dataclass(frozen=True)
class QueryKind:
    """What some queries have in common: a feature above `low` and up to `high` (null: no bound), in words `bounds`."""

    feature: str
    name: str
    bounds: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Segment(QueryKind):
    """Queries that are alike in a feature, by their ids."""

    queries: tuple[str, ...]


def split(found: Features) -> list[Segment]:
    """
    Split the queries by each feature into thirds, and find the ambiguous short ones.

    Equal values are never parted, so thirds may be uneven; an empty third is left out, and a feature with one value for
    all queries has no segments. A query without a value is in no segment of the feature.
    """
    made: list[Segment] = []
    for key, feature in FEATURES.items():
        values = _values(found, key)
        if len(set(values.values())) < 2:
            continue
        thirds = _thirds(list(values.values()))
        places = np.searchsorted(thirds, list(values.values()))  # a value that is a bound belongs below it
        for place, (name, low, high) in enumerate(zip(feature.names, (None, *thirds), (*thirds, None), strict=True)):
            if members := tuple(compress(values, places == place)):
                made.append(Segment(key, name, _in_words(feature, low, high), low, high, members))
    if commitment := _values(found, "nqc"):
        flat = _thirds(list(commitment.values()))[0]
        members = tuple(
            query_id
            for query_id, words in _values(found, "query_words").items()
            if words <= SHORT and commitment.get(query_id, np.inf) <= flat
        )
        bounds_in_words = f"words at most {SHORT}, normalised query commitment at most {flat:.3f}"
        made.append(Segment("ambiguity", AMBIGUOUS, bounds_in_words, None, None, members))
    return made


@dataclass(frozen=True)
class JudgedSegment(QueryKind):
    """
    What a system does for queries that are alike in a feature.

    :ivar gain: Mean gain; null without a query. `gain_elsewhere` is that of all other queries that have the feature.
    :ivar interval: 95 % bootstrap interval of the gain; null, as is `p`, where the segment is not judged.
    :ivar p_corrected: The p of the paired randomisation test, corrected for the number of segments (Holm).
    """

    queries: Count
    gain: float | None
    gain_elsewhere: float | None
    interval: Bounds | None
    p: Share | None
    p_corrected: Share | None
    effect: Effect


@dataclass(frozen=True)
class Segments:
    """Where a system helps and harms; segments overlap, and those of fewer than `fewest` queries are not judged."""

    system: str
    baseline: str
    measure: str
    fewest: int
    level: float
    correction: str
    segments: tuple[JudgedSegment, ...]


def judge(found: Features, by_query: ByQuery, *, baseline: str, system: str, fewest: int = FEWEST) -> Segments:
    """
    Say for each segment whether a system helps there or harms.

    It helps where the interval of its mean gain lies above 0 and the randomisation test's p, corrected by Holm over all
    segments that are judged, is below 0.05; it harms where the same holds below 0. Segments overlap: they are ways to
    look at the same queries.

    :param found: Of `features`.
    :param fewest: A segment of fewer queries is `too few`: it has a mean, but neither an interval nor a p.
    """
    checks.whole_number("fewest", fewest, least=2)
    old, new = by_query[baseline][NDCG_AT_10], by_query[system][NDCG_AT_10]
    known = {query_id: values for query_id, values in found.items() if query_id in old and query_id in new}
    gains = {query_id: new[query_id] - old[query_id] for query_id in known}
    made = split(known)
    compared = {
        segment.name: compare({one: old[one] for one in segment.queries}, {one: new[one] for one in segment.queries})
        for segment in made
        if len(segment.queries) >= fewest
    }
    corrected = holm({name: comparison.p for name, comparison in compared.items()})
    rows = tuple(_judged(one, known, gains, compared.get(one.name), corrected.get(one.name)) for one in made)
    correction = f"Holm over {len(compared)} segments"
    return Segments(system, baseline, NDCG_AT_10, fewest, LEVEL, correction, rows)


def _judged(
    segment: Segment,
    found: Features,
    gains: Mapping[str, float],
    comparison: Comparison | None,
    p_corrected: float | None,
) -> JudgedSegment:
    key = "nqc" if segment.feature == "ambiguity" else segment.feature
    inside = set(segment.queries)
    effect = Effect.TOO_FEW
    if comparison is not None and p_corrected is not None:
        clear = p_corrected < LEVEL
        effect = Effect.HELPS if clear and comparison.low > 0 else Effect.NO_EVIDENCE
        effect = Effect.HARMS if clear and comparison.high < 0 else effect
    return JudgedSegment(
        **{**vars(segment), "queries": len(segment.queries)},
        gain=_mean([gains[one] for one in segment.queries]),
        gain_elsewhere=_mean([gains[one] for one in _values(found, key) if one not in inside]),
        interval=None if comparison is None else (comparison.low, comparison.high),
        p=None if comparison is None else comparison.p,
        p_corrected=p_corrected,
        effect=effect,
    )


def _relative_margin(scores: Sequence[float]) -> float | None:
    """Return None where the scores give no order, or the best one is not above 0."""
    ranked = sorted((score for score in scores if math.isfinite(score)), reverse=True)
    if len(ranked) < 2 or ranked[0] == ranked[-1] or ranked[0] <= 0.0:
        return None
    return (ranked[0] - ranked[1]) / ranked[0]


def _mean(gains: Sequence[float]) -> float | None:
    return float(np.mean(gains)) if gains else None


def _values(found: Features, key: str) -> dict[str, float]:
    return {query_id: value for query_id, values in found.items() if (value := values.get(key)) is not None}


def _thirds(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values that part them into thirds; where the lower is the highest of all, the one below it."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    first, second = (float(one) for one in np.quantile(ordered, [1 / 3, 2 / 3], method="inverted_cdf"))
    if first == ordered[-1]:
        first = second = float(ordered[ordered < first].max(initial=ordered[0]))
    elif second == ordered[-1]:
        second = float(ordered[ordered < second].max(initial=first))
    return first, second


def _in_words(feature: Feature, low: float | None, high: float | None) -> str:
    bounds = (("above", low), ("at most", high))
    parts = [f"{word} {bound:{feature.form}}" for word, bound in bounds if bound is not None]
    return f"{feature.what} {', '.join(parts)}"
