"""
What kinds of queries a system helps and harms: features of each query, and the gain of those that are alike.

Texts and numbers in, plain numbers out. Terms are BM25's (`bm25.analysis`), predictors those of `gating`. Many segments
are looked at, so each one's p is corrected for their number, and one of few queries is not judged at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.evaluation.data.collections import Collection
from haystack_ce_ranker.evaluation.judging.comparison import MEASURE, Comparison, compare
from haystack_ce_ranker.gating import count_words, predict
from haystack_ce_ranker.significance import holm

FEWEST = 10
"""A segment of fewer queries is not judged."""

LEVEL = 0.05
"""Corrected p below which a segment's gain is no chance."""

SHORT = 3
"""Words up to which a query is short enough to be called ambiguous."""

CANDIDATES = 10
"""So many of the first stage's documents are looked at for their length."""

SCORES = 100
"""So many of the first stage's scores at most are looked at: predictors depend on how many there are."""

HELPS, HARMS, NO_EVIDENCE, TOO_FEW = "helps", "harms", "no evidence", "too few"

Features = Mapping[str, Mapping[str, float | None]]
"""For each query id, values by a feature's key; None where the feature is not defined for the query."""


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
        (
            "first-stage top score hardly stands out",
            "first-stage top score stands out a little",
            "top score stands out",
        ),
        "margin to the second score",
        ".1%",
    ),
    "nqc": Feature(
        ("flat first-stage scores", "first-stage scores neither flat nor steep", "steep first-stage scores"),
        "normalised query commitment",
        ".3f",
    ),
}
"""
What a query is described by. `query_words`: words of the query. `shared_words`: share of its terms (without stop words,
stemmed) that a relevant document has, mean over the relevant documents. `relevant_words`: mean length of those.
`candidate_words`: median length of the first stage's first ten. `relative_margin` and `nqc`: see `gating.PREDICTORS`.
Shared words and relevant documents are known from judgments only; the others at query time.
"""

AMBIGUOUS = "ambiguous short queries"
"""At most `SHORT` words, and normalised query commitment in the lowest third: no document stands out for them."""


def features(
    collection: Collection,
    first_stage: Mapping[str, Mapping[str, float]],
    *,
    relevance_level: int = 1,
    analysis: Analysis | None = None,
) -> dict[str, dict[str, float | None]]:
    """
    Describe each query.

    :param first_stage: For each query id, document ids with the first stage's scores, best first.
    :param relevance_level: The lowest grade that counts as relevant.
    :param analysis: How texts become terms; None for English.
    """
    describe = _Describe(collection, Analysis() if analysis is None else analysis)
    found = {}
    for query_id, query in collection.queries.items():
        grades = collection.judgments.get(query_id, {})
        relevant = [document_id for document_id, grade in grades.items() if grade >= relevance_level]
        found[query_id] = describe(query, relevant, first_stage.get(query_id, {}))
    return found


class _Describe:
    """Computes features; the terms and the length of a document are found once."""

    def __init__(self, collection: Collection, analysis: Analysis) -> None:
        self._texts = collection.documents
        self._analysis = analysis
        self._terms: dict[str, frozenset[str]] = {}
        self._words: dict[str, int] = {}

    def __call__(self, query: str, relevant: Sequence[str], candidates: Mapping[str, float]) -> dict[str, float | None]:
        relevant = [document_id for document_id in relevant if document_id in self._texts]
        first = [document_id for document_id in candidates if document_id in self._texts][:CANDIDATES]
        terms = frozenset(self._analysis.query_terms(query))
        words = count_words(query)
        scores = list(candidates.values())[:SCORES]
        shares = [len(terms & self._terms_of(document_id)) / len(terms) for document_id in relevant] if terms else []
        return {
            "query_words": float(words),
            "shared_words": float(np.mean(shares)) if shares else None,
            "relevant_words": float(np.mean([self._words_of(one) for one in relevant])) if relevant else None,
            "candidate_words": float(np.median([self._words_of(one) for one in first])) if first else None,
            "relative_margin": predict("relative_margin", scores),
            "nqc": predict("nqc", scores),
        }

    def _terms_of(self, document_id: str) -> frozenset[str]:
        if document_id not in self._terms:
            self._terms[document_id] = frozenset(self._analysis.terms(self._texts[document_id].content))
        return self._terms[document_id]

    def _words_of(self, document_id: str) -> int:
        if document_id not in self._words:
            self._words[document_id] = len(self._texts[document_id].content.split())
        return self._words[document_id]


@dataclass(frozen=True, slots=True)
class Segment:
    """
    Queries that are alike in a feature: those above `low` and up to `high`; None: no bound.

    :ivar name: What they are.
    :ivar bounds: The bounds in words.
    """

    feature: str
    name: str
    bounds: str
    low: float | None
    high: float | None
    queries: tuple[str, ...]


def split(found: Features) -> list[Segment]:
    """
    Split the queries by each feature into thirds, and find the ambiguous short ones.

    Equal values are never parted, so thirds may be uneven; where a third would be empty it is left out, and a feature
    with one value for all queries has no segments. A query without a value is in no segment of the feature.
    """
    made: list[Segment] = []
    for key, feature in FEATURES.items():
        values = _values(found, key)
        if len(set(values.values())) < 2:
            continue
        first, second = _thirds(list(values.values()))
        bounds = ((None, first), (first, second), (second, None))
        for name, (low, high) in zip(feature.names, bounds, strict=True):
            members = tuple(
                query_id
                for query_id, value in values.items()
                if (low is None or value > low) and (high is None or value <= high)
            )
            if members:
                made.append(Segment(key, name, _in_words(feature, low, high), low, high, members))
    commitment = _values(found, "nqc")
    if commitment:
        flat = _thirds(list(commitment.values()))[0]
        members = tuple(
            query_id
            for query_id, words in _values(found, "query_words").items()
            if words <= SHORT and commitment.get(query_id, np.inf) <= flat
        )
        bounds_in_words = f"words at most {SHORT}, normalised query commitment at most {flat:.3f}"
        made.append(Segment("ambiguity", AMBIGUOUS, bounds_in_words, None, None, members))
    return made


def judge(
    found: Features,
    by_query: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    baseline: str,
    system: str,
    measure: str = MEASURE,
    fewest: int = FEWEST,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Say for each segment whether a system helps there or harms.

    It helps where the interval of its mean gain lies above 0 and the randomisation test's p, corrected by Holm over all
    segments that are judged, is below 0.05; it harms where the same holds below 0. Segments overlap: they are ways to
    look at the same queries.

    :param found: Of `features`.
    :param by_query: For each system and measure, values by query id.
    :param fewest: A segment of fewer queries is `too few`: it has a mean, but neither an interval nor a p.
    :returns: Plain values: what was compared, and under `segments` for each its bounds, number of queries, mean gain,
        the mean gain of all other queries that have the feature, interval, p and `effect`.
    """
    if fewest < 2:
        raise ValueError(f"fewest must be > 1, but got {fewest}")
    old, new = by_query[baseline][measure], by_query[system][measure]
    known = {query_id: values for query_id, values in found.items() if query_id in old and query_id in new}
    made = split(known)
    compared: dict[str, Comparison] = {}
    for place, segment in enumerate(made):
        if len(segment.queries) >= fewest:
            compared[str(place)] = compare(
                {query_id: old[query_id] for query_id in segment.queries},
                {query_id: new[query_id] for query_id in segment.queries},
                seed=seed,
            )
    corrected = holm({place: comparison.p for place, comparison in compared.items()})
    rows = []
    for place, segment in enumerate(made):
        comparison = compared.get(str(place))
        p_corrected = corrected.get(str(place))
        rows.append(
            {
                "feature": segment.feature,
                "name": segment.name,
                "bounds": segment.bounds,
                "low": segment.low,
                "high": segment.high,
                "queries": len(segment.queries),
                "gain": _mean_gain(segment.queries, old, new),
                "gain_elsewhere": _mean_gain(_others(segment, known), old, new),
                "interval": None if comparison is None else [comparison.low, comparison.high],
                "p": None if comparison is None else comparison.p,
                "p_corrected": p_corrected,
                "effect": _effect(comparison, p_corrected),
            }
        )
    return {
        "system": system,
        "baseline": baseline,
        "measure": measure,
        "fewest": fewest,
        "level": LEVEL,
        "correction": f"Holm over {len(compared)} segments",
        "segments": rows,
    }


def _effect(comparison: Comparison | None, p_corrected: float | None) -> str:
    if comparison is None or p_corrected is None:
        return TOO_FEW
    if p_corrected < LEVEL and comparison.low > 0:
        return HELPS
    if p_corrected < LEVEL and comparison.high < 0:
        return HARMS
    return NO_EVIDENCE


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
    parts = []
    if low is not None:
        parts.append(f"above {low:{feature.form}}")
    if high is not None:
        parts.append(f"at most {high:{feature.form}}")
    return f"{feature.what} {', '.join(parts)}"


def _others(segment: Segment, found: Features) -> list[str]:
    inside = set(segment.queries)
    key = "nqc" if segment.feature == "ambiguity" else segment.feature
    return [query_id for query_id in _values(found, key) if query_id not in inside]


def _mean_gain(query_ids: Sequence[str], old: Mapping[str, float], new: Mapping[str, float]) -> float | None:
    return float(np.mean([new[query_id] - old[query_id] for query_id in query_ids])) if query_ids else None
