"""
Fits a gate on judged queries: which predictor, which threshold, what that saves and gives up on queries it never saw.

Numbers in, numbers and a verdict out. The predictors are those of `gating`; running the pipelines, and where the nDCG
of each query comes from, is the business of `experiments`.
"""

import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from haystack_ce_ranker.evaluation.data.collections import Collection
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10
from haystack_ce_ranker.gating import PREDICTORS, FloatArray, check_predictor, count_words, predict

Rankings = Mapping[str, Mapping[str, float]]

FORMAT = 2
"""Raised when a key of `as_json` changes its meaning."""

TOLERANCE = 0.005
"""nDCG@10 that a gate may give up, on average over all queries."""

LEAST_SAVED = 0.2
"""Share of the queries below which a gate is not worth having."""

CAUTION = 1.645
"""
Standard errors by which the loss on the queries seen must stay below the tolerance: a one-sided bound of 95 %. The
threshold that just keeps to it there is the luckiest of many, and gives up twice as much on other queries
(`benchmarks/gate.py --caution 0`).
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


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """
    What a gate is worth on queries it has not seen. Means over random halves: the threshold of each is found on one
    half, and what it saves and gives up is counted on the other.

    :ivar saved: Share of the held-out queries that are not re-ranked.
    :ivar lost: nDCG@10 given up on the held-out queries against re-ranking them all; negative where it gains.
    :ivar lost_error: Standard error of `lost` over the queries: how much another sample of them might differ.
    :ivar lost_by_chance: What sparing as many of the same held-out queries at random would give up.
    :ivar kept_promise: Share of the halves whose held-out loss is below the tolerance.
    """

    saved: float
    lost: float
    lost_error: float
    lost_by_chance: float
    kept_promise: float


@dataclass(frozen=True, kw_only=True)
class GateFit(HeldOut):
    """
    What one predictor is worth.

    :ivar threshold: Found on all queries: the one to use. Infinite if none keeps within the tolerance.
    :ivar saved_seen: `saved` on all queries with `threshold`, thus on those it was found on: what not to believe.
    :ivar lost_seen: `lost` on the same.
    """

    predictor: str
    threshold: float
    saved_seen: float
    lost_seen: float


@dataclass(frozen=True)
class GateAdvice:
    """
    Whether to use a gate.

    :ivar fits: One for each predictor, the one that saves most within the tolerance first.
    :ivar chosen: What choosing among them is worth: in each half the predictor that spares most there is taken, and
        counted on the other half. The best of `fits` is better than this by luck alone.
    :ivar gain: What re-ranking every query gains, in nDCG@10.
    :ivar recommended: The fit that spares most of all queries, which is how `chosen` chooses; None for no gate.
    :ivar reason: The verdict in words.
    :ivar name: Of the pipeline, where there is one.
    """

    fits: tuple[GateFit, ...]
    chosen: HeldOut
    queries: int
    gain: float
    tolerance: float
    caution: float
    least_saved: float
    draws: int
    recommended: GateFit | None
    reason: str
    name: str = ""


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

    One is recommended only if re-ranking is worth anything at all, and if on held-out queries the predictor chosen on
    the others spares `least_saved` of them, gives up less than `tolerance`, and less than as many spared at random.

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
    held_out = np.ones((draws, len(queries)), dtype=np.bool_)
    for row in held_out:
        row[random.permutation(len(queries))[: len(queries) // 2]] = False
    trials = [_try(check_predictor(name), queries, losses, held_out, tolerance, caution) for name in predictors]
    fits = [_fit(trial, losses, held_out, tolerance, caution) for trial in trials]
    most = np.argmax([trial.share_seen for trial in trials], axis=0)
    best_seen = np.stack([trial.spared for trial in trials])[most, np.arange(draws)]
    chosen = HeldOut(**_worth(best_seen, losses, held_out, tolerance))
    gain = float(losses.mean())
    recommended, reason = _advice(fits, chosen, len(queries), gain, tolerance, least_saved)
    fits.sort(key=lambda fit: (not fit.lost < tolerance, -fit.saved, fit.predictor))
    return GateAdvice(
        tuple(fits), chosen, len(queries), gain, tolerance, caution, least_saved, draws, recommended, reason
    )


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


def fit_gates(
    stages: Mapping[str, tuple[Rankings, Rankings]], collection: Collection, *, tolerance: float = TOLERANCE
) -> list[GateAdvice]:
    """
    Fit a gate in front of each ranker, so that the result is the ranker's or that of its first stage.

    :param stages: For each name, the rankings of the first stage and those after re-ranking, by query id.
    :param tolerance: nDCG@10 that a gate may give up.
    :returns: One advice for each name.
    :raises ValueError: If there is no pair of stages, or there are too few queries.
    """
    if not stages:
        raise ValueError("a gate needs a first stage and a stage after it, but nothing that was measured has two.")
    return [
        replace(
            fit_gate(gate_queries(first, last, collection.queries, collection.judgments), tolerance=tolerance),
            name=name,
        )
        for name, (first, last) in stages.items()
    ]


def show(advice: GateAdvice, console: Console) -> None:
    """Print the table, the verdict, and the gate as YAML where one is recommended."""
    console.print(gate_table(advice))
    console.print(advice.reason, markup=False)
    if advice.recommended is not None:
        console.print(fragment(advice.recommended), markup=False, highlight=False)


def gate_table(advice: GateAdvice) -> Table:
    """Return what was found as a table for the terminal."""
    of = f" of {escape(advice.name)}" if advice.name else ""
    table = Table(
        title=f"A gate in front of the ranker{of}: {advice.queries} queries, re-ranking gains "
        f"{advice.gain:+.4f} nDCG@10",
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
    rows = [(fit.predictor, f"{fit.threshold:.4g}", fit) for fit in advice.fits]
    for name, threshold, fit in [*rows, ("chosen on the other half", "", advice.chosen)]:
        table.add_row(
            name,
            threshold,
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
        "chosen": asdict(advice.chosen),
        "recommended": None if advice.recommended is None else advice.recommended.predictor,
        "fits": fits,
    }


def save(advice: GateAdvice, folder: str | Path) -> list[Path]:
    """
    Write `gate.json`, all that was found, and `gate.yaml`, the gate for a pipeline below the verdict as a comment.

    Where no gate is recommended, gate.yaml holds the comment alone. The pipeline's name is in the files' names.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem = "-".join(["gate", *re.findall(r"[A-Za-z0-9._-]+", advice.name)])
    found, component = folder / f"{stem}.json", folder / f"{stem}.yaml"
    found.write_text(json.dumps(as_json(advice), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    comment = textwrap.fill(advice.reason, 118, initial_indent="# ", subsequent_indent="# ")
    gate = "" if advice.recommended is None else fragment(advice.recommended)
    component.write_text(f"{comment}\n{gate}", encoding="utf-8")
    return [found, component]


def fragment(fit: GateFit) -> str:
    """Return the gate as a component of a pipeline's YAML."""
    return (
        "gate:\n"
        "  type: haystack_integrations.components.routers.ce_ranker.rerank_gate.RerankGate\n"
        "  init_parameters:\n"
        f"    predictor: {fit.predictor}\n"
        f"    threshold: {fit.threshold!r}\n".replace("inf", ".inf")
    )


class _Trial(NamedTuple):
    """One predictor on the halves: which held-out queries are spared, and the share of the others that is."""

    predictor: str
    values: FloatArray
    spared: FloatArray
    share_seen: FloatArray


def _try(
    name: str, queries: Sequence[GateQuery], losses: FloatArray, held_out: Any, tolerance: float, caution: float
) -> _Trial:
    values = np.asarray([_value(name, query) for query in queries], dtype=np.float64)
    thresholds = [find_threshold(values[~row], losses[~row], tolerance, caution) for row in held_out]
    spared = values[None, :] >= np.asarray(thresholds)[:, None]
    return _Trial(name, values, (spared & held_out).astype(np.float64), (spared & ~held_out).mean(axis=1))


def _worth(spared: FloatArray, losses: FloatArray, held_out: Any, tolerance: float) -> dict[str, float]:
    count = held_out.sum(axis=1)
    saved, lost = spared.sum(axis=1) / count, (spared * losses).sum(axis=1) / count
    by_chance = saved * (held_out * losses).sum(axis=1) / count
    by_query = losses * spared.sum(axis=0) / np.maximum(held_out.sum(axis=0), 1)
    return {
        "saved": float(saved.mean()),
        "lost": float(lost.mean()),
        "lost_error": float(by_query.std(ddof=1) / math.sqrt(len(losses))),
        "lost_by_chance": float(by_chance.mean()),
        "kept_promise": float((lost < tolerance).mean()),
    }


def _fit(trial: _Trial, losses: FloatArray, held_out: Any, tolerance: float, caution: float) -> GateFit:
    threshold = find_threshold(trial.values, losses, tolerance, caution)
    spared_seen = trial.values >= threshold
    return GateFit(
        predictor=trial.predictor,
        threshold=threshold,
        saved_seen=float(spared_seen.mean()),
        lost_seen=float(np.where(spared_seen, losses, 0.0).mean()),
        **_worth(trial.spared, losses, held_out, tolerance),
    )


def _value(name: str, query: GateQuery) -> float:
    """The predictor's value; infinite where the gate decides without one: no two documents, or nothing known."""
    if len(query.scores) < 2:
        return math.inf
    value = predict(name, query.scores, words=query.words)
    return -math.inf if value is None else value


def _advice(
    fits: Sequence[GateFit], chosen: HeldOut, count: int, gain: float, tolerance: float, least_saved: float
) -> tuple[GateFit | None, str]:
    if gain <= tolerance:
        return None, (
            f"No gate: re-ranking every query gains {gain:+.4f} nDCG@10, which is not more than the {tolerance:g} that "
            "a gate may give up. Leave re-ranking out, or use another model."
        )
    figures = (
        f"spares {chosen.saved:.0%} of held-out queries and gives up {chosen.lost:+.4f} nDCG@10 of the {gain:+.4f} "
        f"that re-ranking gains (as many spared at random: {chosen.lost_by_chance:+.4f})"
    )
    best = max(fits, key=lambda fit: fit.saved_seen)
    worth_it = chosen.saved >= least_saved and chosen.lost < min(tolerance, chosen.lost_by_chance)
    if not worth_it or math.isinf(best.threshold):
        return None, (
            f"No gate: the predictor chosen on one half of the queries {figures}; it would have to spare "
            f"{least_saved:.0%} for less than {tolerance:g} and for less than at random. Re-rank every query."
        )
    worst = chosen.lost + _ONE_SIDED_95 * chosen.lost_error
    return best, (
        f"A gate by {best.predictor} at {best.threshold:.4g}: chosen so on one half of the queries, it {figures}. With "
        f"{count} queries to go by, it may on others give up as much as {worst:+.4f} (95 %)."
    )
