"""
Fits a gate on judged queries: which predictor, which threshold, what that saves and gives up on queries it never saw.

Numbers in, numbers and a verdict out. The predictors are those of `gating`; running the pipelines, and where the nDCG
of each query comes from, is the business of `experiments`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from haystack_ce_ranker.evaluation.measures import ndcg_at_10
from haystack_ce_ranker.gating import PREDICTORS, FloatArray, check_predictor, count_words, predict

FORMAT = 1
"""Raised when a key of `as_json` changes its meaning."""

TOLERANCE = 0.005
"""nDCG@10 that a gate may give up, on average over all queries."""

LEAST_SAVED = 0.2
"""Share of the queries below which a gate is not worth having."""

CAUTION = 1.0
"""
Standard errors by which the loss on the queries seen must stay below the tolerance. The threshold that just keeps to it
there is the luckiest of many, and gives up twice as much on other queries (`benchmarks/gate.py --caution 0`).
"""

DRAWS = 100
_SETTINGS = ("queries", "gain", "tolerance", "caution", "least_saved", "draws", "reason")
_ONE_SIDED_95 = 1.645
_FEWEST = 10  # queries; halves of fewer say nothing


@dataclass(frozen=True)
class GateQuery:
    """
    One judged query.

    :ivar scores: Of the first stage's documents.
    :ivar words: Of the query.
    :ivar kept: nDCG@10 of the first stage's own order.
    :ivar reranked: nDCG@10 after re-ranking.
    """

    id: str
    scores: Sequence[float | None]
    words: int
    kept: float
    reranked: float


@dataclass(frozen=True)
class GateFit:
    """
    What one predictor is worth. Means over random halves: the threshold of each is found on one half, and what it saves
    and gives up is counted on the other.

    :ivar threshold: Found on all queries: the one to use. Infinite if none keeps within the tolerance.
    :ivar saved: Share of the held-out queries that are not re-ranked.
    :ivar lost: nDCG@10 given up on the held-out queries against re-ranking them all; negative where it gains.
    :ivar lost_error: Standard error of `lost` over the queries: how much another sample of them might differ.
    :ivar lost_by_chance: What sparing as many of the same held-out queries at random would give up.
    :ivar kept_promise: Share of the halves whose held-out loss is below the tolerance.
    :ivar saved_seen: `saved` on all queries with `threshold`, thus on those it was found on: what not to believe.
    :ivar lost_seen: `lost` on the same.
    """

    predictor: str
    threshold: float
    saved: float
    lost: float
    lost_error: float
    lost_by_chance: float
    kept_promise: float
    saved_seen: float
    lost_seen: float


@dataclass(frozen=True)
class GateAdvice:
    """
    Whether to use a gate.

    :ivar fits: One for each predictor, the one that saves most within the tolerance first.
    :ivar gain: What re-ranking every query gains, in nDCG@10.
    :ivar recommended: The fit to use; None for no gate.
    :ivar reason: The verdict in words.
    """

    fits: tuple[GateFit, ...]
    queries: int
    gain: float
    tolerance: float
    caution: float
    least_saved: float
    draws: int
    recommended: GateFit | None
    reason: str


def gate_queries(
    first: Mapping[str, Mapping[str, float]],
    reranked: Mapping[str, Mapping[str, float]],
    queries: Mapping[str, str],
    judgments: Mapping[str, Mapping[str, int]],
) -> list[GateQuery]:
    """
    Make what `fit_gate` needs of two runs: the first stage's, and the one after re-ranking.

    :param first: For each query id, document ids with the first stage's scores, as many as the gate will see.
    :param reranked: The same after re-ranking (and joining, where the pipeline joins).
    :param queries: Texts by id; only these queries are taken.
    :raises ImportError: If ir_measures is missing.
    """
    asked = {query_id: judgments.get(query_id, {}) for query_id in queries}
    kept, after = ndcg_at_10(first, asked), ndcg_at_10(reranked, asked)
    return [
        GateQuery(query_id, list(first.get(query_id, {}).values()), count_words(text), kept[query_id], after[query_id])
        for query_id, text in queries.items()
    ]


def fit_gate(
    queries: Sequence[GateQuery],
    *,
    tolerance: float = TOLERANCE,
    caution: float = CAUTION,
    least_saved: float = LEAST_SAVED,
    predictors: Sequence[str] = tuple(PREDICTORS),
    draws: int = DRAWS,
    seed: int = 0,
) -> GateAdvice:
    """
    Fit every predictor on halves of the queries, measure it on the other halves, and say whether to use one.

    One is recommended only if re-ranking is worth anything at all, and if on held-out queries the predictor spares
    `least_saved` of them, gives up less than `tolerance`, and less than sparing as many at random would.

    :param tolerance: nDCG@10 that a gate may give up, on average over all queries.
    :param caution: See `find_threshold`.
    :param draws: How many times the queries are halved at random.
    :raises ValueError: If there are fewer than ten queries, or a value is out of range.
    """
    if len(queries) < _FEWEST:
        raise ValueError(f"a gate needs at least {_FEWEST} judged queries to be fitted, but got {len(queries)}.")
    if draws < 1:
        raise ValueError(f"draws must be >= 1, but got {draws}.")
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance must be >= 0, but got {tolerance}.")
    if not caution >= 0.0:
        raise ValueError(f"caution must be >= 0, but got {caution}.")
    losses = np.asarray([query.reranked - query.kept for query in queries], dtype=np.float64)
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(queries)) for _ in range(draws)]
    fits = [_fit(check_predictor(name), queries, losses, orders, tolerance, caution) for name in predictors]
    fits.sort(key=lambda fit: (not fit.lost < tolerance, -fit.saved, fit.predictor))
    gain = float(losses.mean())
    recommended, reason = _advice(fits, len(queries), gain, tolerance, least_saved)
    return GateAdvice(tuple(fits), len(queries), gain, tolerance, caution, least_saved, draws, recommended, reason)


def find_threshold(values: FloatArray, losses: FloatArray, tolerance: float, caution: float = CAUTION) -> float:
    """
    Return the threshold that spares the most queries and still gives up no more than `tolerance` on average.

    :param values: The predictor's value of each query; -inf where it says nothing.
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


def gate_table(advice: GateAdvice) -> Table:
    """Return what was found as a table for the terminal."""
    table = Table(
        title=f"A gate in front of the ranker: {advice.queries} queries, re-ranking gains {advice.gain:+.4f} nDCG@10",
        caption=f"fitted on one half of the queries, measured on the other, mean of {advice.draws} draws",
    )
    table.add_column("predictor")
    for heading in (
        "threshold",
        "not re-ranked",
        "nDCG@10 given up",
        "the same by chance",
        f"< {advice.tolerance:g} in",
    ):
        table.add_column(heading, justify="right")
    for fit in advice.fits:
        table.add_row(
            fit.predictor,
            f"{fit.threshold:.4g}",
            f"{fit.saved:.0%}",
            f"{fit.lost:+.4f} ± {fit.lost_error:.4f}",
            f"{fit.lost_by_chance:+.4f}",
            f"{fit.kept_promise:.0%}",
        )
    return table


def as_json(advice: GateAdvice) -> dict[str, Any]:
    """Return everything as plain values; an infinite threshold (no query is spared) as None."""
    fits = [
        {**asdict(fit), "threshold": fit.threshold if math.isfinite(fit.threshold) else None} for fit in advice.fits
    ]
    return {
        "format": FORMAT,
        **{name: getattr(advice, name) for name in _SETTINGS},
        "recommended": None if advice.recommended is None else advice.recommended.predictor,
        "fits": fits,
    }


def fragment(fit: GateFit) -> str:
    """Return the gate as a component of a pipeline's YAML."""
    return (
        "gate:\n"
        "  type: haystack_integrations.components.routers.ce_ranker.rerank_gate.RerankGate\n"
        "  init_parameters:\n"
        f"    predictor: {fit.predictor}\n"
        f"    threshold: {fit.threshold!r}\n".replace("inf", ".inf")
    )


def _fit(
    name: str, queries: Sequence[GateQuery], losses: FloatArray, orders: Sequence[Any], tolerance: float, caution: float
) -> GateFit:
    values = np.asarray([_value(name, query) for query in queries], dtype=np.float64)
    half = len(queries) // 2
    spared = np.zeros((len(orders), len(queries)))
    held_out = np.zeros((len(orders), len(queries)), dtype=np.bool_)
    for draw, order in enumerate(orders):
        seen, unseen = order[:half], order[half:]
        held_out[draw, unseen] = True
        spared[draw, unseen] = values[unseen] >= find_threshold(values[seen], losses[seen], tolerance, caution)
    count = len(queries) - half
    saved, lost = spared.sum(axis=1) / count, (spared * losses).sum(axis=1) / count
    by_chance = saved * (held_out * losses).sum(axis=1) / count
    by_query = losses * spared.sum(axis=0) / np.maximum(held_out.sum(axis=0), 1)
    threshold = find_threshold(values, losses, tolerance, caution)
    spared_seen = values >= threshold
    return GateFit(
        predictor=name,
        threshold=threshold,
        saved=float(saved.mean()),
        lost=float(lost.mean()),
        lost_error=float(by_query.std(ddof=1) / math.sqrt(len(queries))),
        lost_by_chance=float(by_chance.mean()),
        kept_promise=float((lost < tolerance).mean()),
        saved_seen=float(spared_seen.mean()),
        lost_seen=float(np.where(spared_seen, losses, 0.0).mean()),
    )


def _value(name: str, query: GateQuery) -> float:
    """The predictor's value; infinite where the gate decides without one: no two documents, or nothing known."""
    if len(query.scores) < 2:
        return math.inf
    value = predict(name, query.scores, words=query.words)
    return -math.inf if value is None else value


def _advice(
    fits: Sequence[GateFit], count: int, gain: float, tolerance: float, least_saved: float
) -> tuple[GateFit | None, str]:
    if gain <= tolerance:
        return None, (
            f"No gate: re-ranking every query gains {gain:+.4f} nDCG@10, which is not more than the {tolerance:g} that "
            "a gate may give up. Leave re-ranking out, or use another model."
        )
    good = [
        fit
        for fit in fits
        if fit.saved >= least_saved and fit.lost < min(tolerance, fit.lost_by_chance) and math.isfinite(fit.threshold)
    ]
    if not good:
        return None, (
            f"No gate: no predictor spares {least_saved:.0%} of held-out queries for less than {tolerance:g} nDCG@10 "
            "and less than chance would give up. Re-rank every query."
        )
    best = good[0]
    worst = best.lost + _ONE_SIDED_95 * best.lost_error
    return best, (
        f"A gate by {best.predictor} at {best.threshold:.4g} spares {best.saved:.0%} of held-out queries and gives up "
        f"{best.lost:+.4f} nDCG@10 of the {gain:+.4f} that re-ranking gains (as many spared at random: "
        f"{best.lost_by_chance:+.4f}). It is the best of {len(fits)} predictors on {count} queries: on others it may "
        f"give up as much as {worst:+.4f} (95 %)."
    )
