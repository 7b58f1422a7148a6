"""Fits a gate on judged queries: its predictor and threshold, and what they save and lose on queries they never saw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from haystack_ce_ranker.checks import number, require_queries, whole_number
from haystack_ce_ranker.gating.decision import PREDICTORS, FloatArray, predict

TOLERANCE = 0.005
"""nDCG@10 that a gate may give up, on average over all queries."""

LEAST_SAVED = 0.2
"""Share of the queries below which a gate is not worth having."""

_ONE_SIDED_95 = 1.645
CAUTION = _ONE_SIDED_95
"""
Standard errors by which the loss on the queries seen must stay below the tolerance. A threshold that only just keeps to
the tolerance is the luckiest of many, and gives up twice as much on other queries (`benchmarks/gate.py --caution 0`).
"""

DRAWS = 100


@dataclass(frozen=True)
class GateQuery:
    """One judged query: its first stage's scores, and nDCG@10 of the first stage's order and after re-ranking."""

    id: str
    scores: Sequence[float | None]
    kept: float
    reranked: float


@dataclass(frozen=True, kw_only=True)
class GateAdvice:
    """
    Whether to use a gate, and which.

    It is measured on queries it has not seen, as a mean over random halves of the queries: one half chooses the
    predictor and the threshold, and the other half counts.

    :ivar predictor: The one that spares most of all queries.
    :ivar threshold: The one to use, found on all queries. Infinite if none keeps within the tolerance.
    :ivar saved: Share of the held-out queries that are spared.
    :ivar lost: nDCG@10 given up on them against re-ranking all; negative where the gate gains.
    :ivar lost_error: Standard error of `lost` over the queries.
    :ivar lost_by_chance: What sparing as many of them at random would give up.
    :ivar gain: What re-ranking every query gains, in nDCG@10.
    :ivar name: The pipeline's name, if there is one.
    """

    queries: int
    gain: float
    tolerance: float
    draws: int
    predictor: str
    threshold: float
    saved: float
    lost: float
    lost_error: float
    lost_by_chance: float
    name: str = ""

    @property
    def recommended(self) -> bool:
        """Whether it is worth having: see `fit_gate`."""
        worth = self.saved >= LEAST_SAVED and self.lost < min(self.tolerance, self.lost_by_chance)
        return self.gain > self.tolerance and worth and math.isfinite(self.threshold)

    @property
    def reason(self) -> str:
        """The verdict in words."""
        if self.gain <= self.tolerance:
            return (
                f"No gate: re-ranking every query gains {self.gain:+.4f} nDCG@10, which is not more than the "
                f"{self.tolerance:g} that a gate may give up. Leave re-ranking out, or use another model."
            )
        figures = (
            f"spares {self.saved:.0%} of held-out queries and gives up {self.lost:+.4f} nDCG@10 of the "
            f"{self.gain:+.4f} that re-ranking gains (as many spared at random: {self.lost_by_chance:+.4f})"
        )
        if not self.recommended:
            return (
                f"No gate: the predictor chosen on one half of the queries {figures}; it would have to spare "
                f"{LEAST_SAVED:.0%} for less than {self.tolerance:g} and for less than at random. Re-rank every query."
            )
        worst = self.lost + _ONE_SIDED_95 * self.lost_error
        return (
            f"A gate by {self.predictor} at {self.threshold:.4g}: chosen so on one half of the queries, it {figures}. "
            f"With {self.queries} queries to go by, it may on others give up as much as {worst:+.4f} (95 %)."
        )


def fit_gate(
    queries: Sequence[GateQuery],
    *,
    tolerance: float = TOLERANCE,
    caution: float = CAUTION,
    predictors: Sequence[str] = tuple(PREDICTORS),
    draws: int = DRAWS,
    seed: int = 0,
) -> GateAdvice:
    """
    Choose a predictor and its threshold, and measure that choice on queries it has not seen.

    A gate is recommended only if re-ranking is worth anything at all, and if on held-out queries it spares
    `LEAST_SAVED` of them, gives up less than `tolerance`, and less than as many spared at random.

    :param tolerance: nDCG@10 that a gate may give up, on average over all queries.
    :param caution: See `find_threshold`.
    :param draws: How many times the queries are halved at random.
    :raises ValueError: If there are fewer than ten queries, or a value is out of range.
    """
    require_queries("a gate", len(queries))
    draws = whole_number("draws", draws)
    tolerance, caution = number("tolerance", tolerance, least=0.0), number("caution", caution, least=0.0)
    losses = np.asarray([query.reranked - query.kept for query in queries], dtype=np.float64)
    values = {name: np.asarray([_value(name, query) for query in queries], dtype=np.float64) for name in predictors}
    random = np.random.default_rng(seed)
    held_out = np.ones((draws, len(queries)), dtype=np.bool_)
    spared = np.zeros(held_out.shape)
    for row in range(draws):
        held_out[row, random.permutation(len(queries))[: len(queries) // 2]] = False
        seen = ~held_out[row]
        name, threshold = _choose({n: each[seen] for n, each in values.items()}, losses[seen], tolerance, caution)
        spared[row] = held_out[row] & (values[name] >= threshold)
    name, threshold = _choose(values, losses, tolerance, caution)
    count = held_out.sum(axis=1)
    saved = spared.sum(axis=1) / count
    by_query = losses * spared.sum(axis=0) / np.maximum(held_out.sum(axis=0), 1)
    return GateAdvice(
        queries=len(queries),
        gain=float(losses.mean()),
        tolerance=tolerance,
        draws=draws,
        predictor=name,
        threshold=threshold,
        saved=float(saved.mean()),
        lost=float(((spared * losses).sum(axis=1) / count).mean()),
        lost_error=float(by_query.std(ddof=1) / math.sqrt(len(losses))),
        lost_by_chance=float((saved * (held_out * losses).sum(axis=1) / count).mean()),
    )


def find_threshold(values: FloatArray, losses: FloatArray, tolerance: float, caution: float = CAUTION) -> float:
    """
    Return the threshold that spares the most queries and still gives up no more than `tolerance` on average.

    :param values: The predictor's value of each query; -inf where it has none.
    :param losses: nDCG that each query gives up if it is not re-ranked.
    :param tolerance: Mean loss over all queries, spared or not.
    :param caution: Standard errors of that mean to add to it before it is compared.
    :returns: Half way between the last value that is spared and the next; infinity if sparing any costs too much.
    """
    order = np.argsort(-values, kind="stable")
    ranked, count = values[order], len(values)
    mean = np.cumsum(losses[order]) / count
    variance = np.maximum(np.cumsum(losses[order] ** 2) / count - mean**2, 0.0)
    bound = mean + caution * np.sqrt(variance / count)
    last_of_equals = np.append(ranked[:-1] > ranked[1:], True)
    allowed = last_of_equals & np.isfinite(ranked) & (bound <= tolerance + 1e-12)
    if not allowed.any():
        return math.inf
    last = int(np.flatnonzero(allowed)[-1])
    lower = ranked[last + 1] if last + 1 < len(ranked) and math.isfinite(ranked[last + 1]) else ranked[last]
    return float((ranked[last] + lower) / 2.0)


def _value(name: str, query: GateQuery) -> float:
    """Return the predictor's value. It is infinite if the gate decides without one."""
    value = predict(name, query.scores)
    return math.inf if len(query.scores) < 2 else -math.inf if value is None else value


def _choose(
    values: Mapping[str, FloatArray], losses: FloatArray, tolerance: float, caution: float
) -> tuple[str, float]:
    """Return the predictor that spares most of these queries, with its threshold."""
    found = {name: find_threshold(each, losses, tolerance, caution) for name, each in values.items()}
    best = max(found, key=lambda name: int((values[name] >= found[name]).sum()))
    return best, found[best]
