"""Fits the risk of a `DepthRule` on judged queries, and measures it on queries that it has not seen. Runs no model."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.checks import number, require_queries
from haystack_ce_ranker.scoring.depth import CPU_STEP, Depth, DepthRule, DepthSearch
from haystack_ce_ranker.scoring.prospects import Prospects, similarity

RISKS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0)
"""The risks that are tried, from the deepest on."""

CAUTION = 1.645
"""Standard errors by which the loss on the queries seen must stay below the tolerance (95 %, one-sided)."""

_CUTOFF, _FREQUENT = 10, 1000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class DepthQuery:
    """
    A judged query whose candidates were all scored.

    :ivar text: The query.
    :ivar texts: The candidates' texts, in the order they came.
    :ivar logits: Their scores, of which only the order counts; None for a candidate without one.
    :ivar grades: Their grades.
    :ivar judged: All grades of the query, also of documents that are no candidates.
    """

    text: str
    texts: Sequence[str]
    logits: Sequence[float | None]
    grades: Sequence[int]
    judged: Sequence[int]

    @cached_property
    def ideal(self) -> float:
        """The DCG of a perfect first page."""
        return _dcg(sorted(self.judged, reverse=True))

    def ndcg(self, scored: Sequence[int]) -> float:
        """Return nDCG@10 if only some candidates are scored, and the others follow in their order."""
        logits = np.full(len(self.logits), -np.inf)
        for place in scored:
            logit = self.logits[place]
            logits[place] = -np.inf if logit is None else logit
        order = np.argsort(-logits, kind="stable")[:_CUTOFF]
        return _dcg([self.grades[place] for place in order]) / self.ideal if self.ideal > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class DepthAdvice:
    """
    Which risk to take.

    It is measured on queries that it has not seen, as a mean over random halves of the queries: one half chooses the
    risk, and the other half counts.

    :ivar risk: The largest one within the tolerance, found on all queries; None if there is none.
    :ivar share: Share of the held-out queries' candidates that are scored.
    :ivar lost: nDCG@10 given up on them against scoring all; negative where stopping gains.
    """

    queries: int
    tolerance: float
    risk: float | None
    share: float
    lost: float

    @property
    def reason(self) -> str:
        """The verdict in words."""
        held = f"it scores {self.share:.0%} of the candidates of held-out queries and gives up {self.lost:+.4f} nDCG@10"
        if self.risk is None or self.lost > self.tolerance:
            return (
                f"Score all candidates: chosen on one half of the {self.queries} queries, {held}, and no risk is sure "
                f"to stay within {self.tolerance:g}."
            )
        return f"A risk of {self.risk:g}: chosen so on one half of the {self.queries} queries, {held}."

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of the ranker that say this; none if all candidates are to be scored."""
        found = self.risk is not None and self.lost <= self.tolerance
        return {"depth": {"risk": self.risk}, "screen": True} if found else {}


class _Stop(NamedTuple):
    missing: float
    scored: int
    ndcg: float


def fit_depth(queries: Sequence[DepthQuery], *, tolerance: float, draws: int = 100, seed: int = 0) -> DepthAdvice:
    """
    Choose the largest risk that loses no more than a tolerance, and measure that choice on queries it has not seen.

    Texts are compared by their words, where the ranker compares them by the model's tokens.

    :param tolerance: nDCG@10 that may be given up, on average over all queries.
    :param draws: How many times the queries are halved at random.
    :raises ValueError: If there are fewer than ten queries, or a value is out of range.
    """
    require_queries("a depth", len(queries))
    tolerance = number("tolerance", tolerance, least=0.0)
    traces = [_trace(query) for query in queries]
    stops = [[_stop(trace, risk) for risk in RISKS] for trace in traces]
    lost = np.asarray([[trace[-1].ndcg - stop.ndcg for stop in row] for trace, row in zip(traces, stops, strict=True)])
    share = np.asarray(
        [[stop.scored / max(trace[-1].scored, 1) for stop in row] for trace, row in zip(traces, stops, strict=True)]
    )
    random = np.random.default_rng(seed)
    held = []
    for _ in range(draws):
        order = random.permutation(len(queries))
        seen, rest = order[: len(order) // 2], order[len(order) // 2 :]
        place = _largest(lost[seen], tolerance)
        held.append((0.0, 1.0) if place is None else (lost[rest, place].mean(), share[rest, place].mean()))
    place = _largest(lost, tolerance)
    return DepthAdvice(
        queries=len(queries),
        tolerance=tolerance,
        risk=None if place is None else RISKS[place],
        lost=float(np.mean([loss for loss, _ in held])),
        share=float(np.mean([scored for _, scored in held])),
    )


def depth_queries(
    queries: Mapping[str, str],
    texts: Mapping[str, str],
    judgments: Mapping[str, Mapping[str, int]],
    *,
    first: Mapping[str, Mapping[str, float]],
    reranked: Mapping[str, Mapping[str, float | None]],
) -> list[DepthQuery]:
    """
    Return what `fit_depth` needs of two runs.

    :param queries: Texts by query id; so the next two.
    :param texts: Of the documents, by id.
    :param judgments: Grades by document id.
    :param first: For each query the first stage's documents, best first.
    :param reranked: The same after scoring all of them.
    """
    found = []
    for query_id, query in queries.items():
        ids = list(first.get(query_id, {}))
        scores, grades = reranked.get(query_id, {}), judgments.get(query_id, {})
        given = [scores.get(one) for one in ids]
        of_ids = [grades.get(one, 0) for one in ids]
        found.append(DepthQuery(query, [texts[one] for one in ids], given, of_ids, list(grades.values())))
    return found


def _trace(query: DepthQuery) -> list[_Stop]:
    """Search to the end, and return what each step would have been worth as the last one."""
    texts, asked = _as_numbers(query.texts, query.text)
    prospects = Prospects(len(texts), similarity(texts, asked))
    rule = DepthRule(risk=min(RISKS) / 1e3)
    search, scored, trace = DepthSearch(prospects, Depth(rule=rule, screen=True), step=CPU_STEP), list[int](), []
    for places in search:
        scored += places
        search.see(places, [query.logits[place] for place in places])
        trace.append(_Stop(prospects.missing(rule.top), len(scored), query.ndcg(scored)))
    everything = range(len(query.texts))
    return [*trace, _Stop(0.0, len(everything), query.ndcg(everything))]


def _stop(trace: Sequence[_Stop], risk: float) -> _Stop:
    return next((stop for stop in trace if stop.missing < risk), trace[-1])


def _largest(lost: NDArray[np.float64], tolerance: float) -> int | None:
    """Return the place of the largest risk whose loss, with caution, stays within the tolerance; so do all below it."""
    bound = lost.mean(axis=0) + CAUTION * lost.std(axis=0) / math.sqrt(len(lost))
    too_much = np.flatnonzero(bound > tolerance + 1e-12)
    kept = int(too_much[0]) if len(too_much) else len(RISKS)
    return kept - 1 if kept else None


def _as_numbers(texts: Sequence[str], query: str) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return texts and a query as numbers of their words, frequent words first, as a tokenizer numbers its tokens."""
    words = [_WORD.findall(text.lower()) for text in texts]
    counts = Counter(word for text in words for word in text)
    numbers = {word: _FREQUENT + place for place, (word, _) in enumerate(counts.most_common())}
    found = [np.asarray([numbers[word] for word in text], dtype=np.int64) for text in words]
    asked = [numbers[word] for word in _WORD.findall(query.lower()) if word in numbers]
    return found, np.asarray(asked, dtype=np.int64)


def _dcg(grades: Sequence[int]) -> float:
    return math.fsum(max(grade, 0) / math.log2(place + 2) for place, grade in enumerate(grades[:_CUTOFF]))
