"""Joined scores as probabilities of relevance: a logistic fit by input, how true it is, and score thresholds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from haystack_ce_ranker.fusion.abstention import Abstention, abstention, tops_of
from haystack_ce_ranker.fusion.fuse import IntArray
from haystack_ce_ranker.fusion.judged import (
    Frame,
    JudgedQuery,
    Setting,
    WeightGrid,
    fused,
    joined_scores,
    measure,
    ndcg,
    split,
)
from haystack_ce_ranker.fusion.normalizers import FloatArray, Normalization, sigmoid
from haystack_ce_ranker.significance import Interval, bootstrap

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""What `kept_above` tries."""

PROBABILITIES = (0.1, 0.25, 0.5)
"""The probabilities of relevance for which users are told a score threshold."""


class Labelled(NamedTuple):
    """Scores of one query with 1 or 0 for relevant or not; each of shape (documents,)."""

    scores: FloatArray
    labels: FloatArray


@dataclass(frozen=True)
class Calibrated:
    """
    Joined scores as probabilities of relevance.

    :param setting: Fitted on all queries.
    :param held_out: nDCG@10 by query, fitted and weighed without the query's fold.
    :param by_query: For every query its ranked documents' probabilities, held out, and whether they are relevant.
    :param abstention: When to say that nothing answers a query; None if there are too few to tell.
    """

    setting: Setting
    held_out: FloatArray
    by_query: tuple[Labelled, ...]
    abstention: Abstention | None = None

    @property
    def probabilities(self) -> FloatArray:
        """Those of all queries."""
        return together(self.by_query)[0]

    @property
    def labels(self) -> FloatArray:
        """Those of all queries: 1 relevant, 0 not (or unjudged)."""
        return together(self.by_query)[1]


def calibrate(
    queries: Sequence[JudgedQuery], default: Setting, *, steps: int | None = None, folds: int = 5, seed: int = 0
) -> Calibrated:
    """
    Fit every input's `logistic` and the weights in that frame. Predict each query by a fit that has not seen it.

    :param default: Its weights win where several are equally good; its frame plays no part.
    """
    everything = np.arange(len(queries))
    held_out = np.zeros(len(queries))
    found: list[Labelled] = []
    tops = []
    for fold in split(len(queries), folds, seed):
        setting = logistic_setting([queries[i] for i in np.setdiff1d(everything, fold)], default, steps)
        unseen = [queries[i] for i in fold]
        held_out[fold] = measure(unseen, setting)
        found += [Labelled(*joined_scores([query], setting)) for query in unseen]
        tops += [tops_of(query, setting) for query in unseen]
    known = abstention([one for one in tops if one is not None], seed=seed)
    return Calibrated(logistic_setting(queries, default, steps), held_out, tuple(found), known)


def logistic_frame(queries: Sequence[JudgedQuery], names: Sequence[str]) -> Frame:
    """
    Return the frame in which every score is its probability of relevance, fitted per input on these queries.

    Joined scores are then probabilities, too (a weighted mean). So one `score_threshold` means the same on every query.
    """
    fits = {name: fit_lists(labelled_lists(queries, name)) for name in names}
    return Frame(
        "logistic", {name: Normalization("logistic", fit, _scorer(queries, name)) for name, fit in fits.items()}
    )


def _scorer(queries: Sequence[JudgedQuery], name: str) -> str | None:
    """Return what scored all lists of an input, or None if that is not known or differs."""
    found = {query.lists[name].scored_by for query in queries if name in query.lists}
    return found.pop() if len(found) == 1 else None


def labelled_lists(queries: Sequence[JudgedQuery], name: str) -> list[Labelled]:
    """Return one input's finite scores with 1 or 0 for relevant or not (unjudged: not), by query; no empty list."""
    found = []
    for query in queries:
        listed = query.lists.get(name)
        if listed is not None:
            known = [
                (float(score), float(query.judgments.get(identifier, 0) > 0))
                for identifier, score in zip(listed.ids, listed.scores, strict=True)
                if score is not None and math.isfinite(score)
            ]
            if known:
                found.append(Labelled(*(np.array(column) for column in zip(*known, strict=True))))
    return found


def labelled_scores(queries: Sequence[JudgedQuery], name: str) -> tuple[FloatArray, FloatArray]:
    """Return the same over all queries."""
    return together(labelled_lists(queries, name))


def fit_lists(lists: Sequence[Labelled], *, folds: int = 5) -> dict[str, float]:
    """
    Fit the parameters of the normalizer `logistic`.

    `best` is among them only if it predicts queries that the fit has not seen significantly better (paired bootstrap of
    the log loss by query, 95 %): with few queries, a second slope fits their chance.
    """
    slope, intercept = fit_logistic(*together(lists))
    plain = {"slope": slope, "intercept": intercept}
    if slope == 0.0 or len(lists) < 2 * folds:
        return plain
    gains = np.zeros(len(lists))
    for fold in split(len(lists), folds):
        rest = [lists[i] for i in np.setdiff1d(np.arange(len(lists)), fold)]
        slope, intercept = fit_logistic(*together(rest))
        both = _with_best(rest)
        for i in fold:
            without = _log_loss(lists[i], {"slope": slope, "intercept": intercept})
            gains[i] = without - (without if both is None else _log_loss(lists[i], both))
    fitted = _with_best(lists) if bootstrap(gains).low > 0.0 else None
    return plain if fitted is None else fitted


def _with_best(lists: Sequence[Labelled]) -> dict[str, float] | None:
    """Fit `slope`, `best` and `intercept`; None if a higher score, or a higher best score, would not be likelier."""
    _, labels = together(lists)
    columns = np.concatenate(
        [np.stack([one.scores, np.full_like(one.scores, one.scores.max())]) for one in lists], axis=1
    )
    fitted = _fit(columns, labels)
    if fitted is None or fitted[0] <= 0.0 or fitted[0] + fitted[1] <= 0.0:
        return None
    return dict(zip(("slope", "best", "intercept"), fitted, strict=True))


def _log_loss(one: Labelled, params: dict[str, float]) -> float:
    p = np.clip(Normalization("logistic", params).apply(one.scores, one.scores), 1e-9, 1.0 - 1e-9)
    return float(-(one.labels * np.log(p) + (1.0 - one.labels) * np.log1p(-p)).sum())


def together(lists: Sequence[Labelled]) -> tuple[FloatArray, FloatArray]:
    """Return the scores and the labels of all queries."""
    if not lists:
        return np.zeros(0), np.zeros(0)
    return np.concatenate([one.scores for one in lists]), np.concatenate([one.labels for one in lists])


def fit_logistic(scores: FloatArray, labels: FloatArray) -> tuple[float, float]:
    """
    Fit P(relevant) = 1 / (1 + exp(-(slope score + intercept))) by maximum likelihood.

    Platt's smoothed targets (Platt 1999, "Probabilistic outputs for support vector machines") keep the fit finite if
    the scores separate the labels. The fit uses Newton's method with step halving, as in Lin, Lin & Weng 2007.

    :param scores: Finite.
    :param labels: 1 relevant, 0 not; as many as `scores`.
    :returns: Slope and intercept. The slope is never negative. If scores carry no information or mislead, it is 0, and
        every score gets the share of relevant ones as its probability.
    """
    if scores.size != labels.size:
        raise ValueError(f"scores and labels must have the same length, but got {scores.size} and {labels.size}")
    fitted = _fit(scores[None], labels)
    if fitted is not None and fitted[0] > 0.0:
        return fitted[0], fitted[1]
    prior = (float(labels.sum()) + 1.0) / (labels.size + 2.0)
    return 0.0, math.log(prior / (1.0 - prior))


def _fit(columns: FloatArray, labels: FloatArray) -> list[float] | None:
    """
    Return a slope for each column, and the intercept.

    :param columns: Shape (columns, scores).
    :returns: None if the first column or the labels are all the same.
    """
    positive = float(labels.sum())
    negative = labels.size - positive
    if positive == 0.0 or negative == 0.0 or columns[0].std() == 0.0:
        return None
    center, scale = columns.mean(axis=1), columns.std(axis=1)
    scale[scale == 0.0] = 1.0
    x = np.vstack([(columns - center[:, None]) / scale[:, None], np.ones(labels.size)])
    target = np.where(labels > 0, (positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0))
    prior = (positive + 1.0) / (labels.size + 2.0)
    beta = np.zeros(len(x))
    beta[-1] = math.log(prior / (1.0 - prior))

    def loss(candidate: FloatArray) -> float:
        z = candidate @ x
        return float((np.logaddexp(0.0, z) - target * z).sum())

    current = loss(beta)
    for _ in range(100):
        p = sigmoid(beta @ x)
        gradient = x @ (p - target)
        if float(np.abs(gradient).max()) < 1e-9 * labels.size:
            break
        step = np.linalg.solve((x * (p * (1.0 - p))) @ x.T + 1e-12 * np.eye(len(x)), gradient)
        size = 1.0
        while size > 1e-10 and loss(beta - size * step) > current:
            size /= 2.0
        if size <= 1e-10:
            break
        beta = beta - size * step
        current = loss(beta)
    slopes = beta[:-1] / scale
    return [*slopes.tolist(), float(beta[-1] - slopes @ center)]


@dataclass(frozen=True)
class Bin:
    """
    Predictions that lie close together: their mean, the share that came true, and their number.

    :param low: Lower bound of the 95 % interval of `observed` (Wilson), as if the predictions were independent.
    :param high: Its upper bound.
    """

    predicted: float
    observed: float
    count: int
    low: float
    high: float


def reliability(probabilities: FloatArray, labels: FloatArray, bins: int = 10) -> tuple[list[Bin], float]:
    """
    Compare predicted probabilities with what came true, in bins of equal width. Empty bins are omitted.

    :returns: The bins, and the expected calibration error: the mean distance of predicted and observed, weighed by
        count.
    """
    places = _bins(probabilities, bins)
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            observed, count = float(labels[inside].mean()), int(inside.sum())
            interval = binomtest(int(labels[inside].sum()), count).proportion_ci(method="wilson")
            found.append(Bin(float(probabilities[inside].mean()), observed, count, interval.low, interval.high))
    total = max(labels.size, 1)
    return found, math.fsum(abs(entry.predicted - entry.observed) * entry.count for entry in found) / total


def calibration_error(by_query: Sequence[Labelled], bins: int = 10, *, samples: int = 2000, seed: int = 0) -> Interval:
    """
    Return the expected calibration error of `reliability` with its 95 % bootstrap interval over queries.

    The documents of a query are drawn together, since they are wrong together. Drawing adds noise, and noise is error:
    the interval lies a little high, and can lie above the figure itself.
    """
    if not by_query:
        return Interval(math.nan, math.nan, math.nan)
    counts = np.array([one.labels.size for one in by_query])
    over = np.array([np.bincount(_bins(one.scores, bins), one.scores - one.labels, minlength=bins) for one in by_query])

    def errors(rows: IntArray) -> FloatArray:
        return np.asarray(np.abs(over[rows].sum(axis=-2)).sum(axis=-1) / np.maximum(counts[rows].sum(axis=-1), 1))

    drawn = errors(np.random.default_rng(seed).integers(0, len(by_query), (samples, len(by_query))))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(errors(np.arange(len(by_query)))), float(low), float(high))


def _bins(probabilities: FloatArray, bins: int) -> IntArray:
    return np.minimum((probabilities * bins).astype(np.int64), bins - 1)


class Kept(NamedTuple):
    """
    What a `score_threshold` on the joined probability keeps of all queries' candidates, held out.

    :ivar kept: Share of the candidates.
    :ivar precision: Share of those kept that is relevant.
    :ivar recall: Share of the relevant candidates that is kept.
    """

    threshold: float
    kept: float
    precision: float
    recall: float


def kept_above(calibrated: Calibrated, thresholds: Iterable[float] = THRESHOLDS) -> list[Kept]:
    """Return what each threshold keeps. A threshold that keeps nothing or everything is omitted."""
    relevant = max(float(calibrated.labels.sum()), 1.0)
    rows = []
    for threshold in thresholds:
        kept = calibrated.probabilities >= threshold
        if kept.any() and not kept.all():
            hits = float(calibrated.labels[kept].sum())
            rows.append(Kept(threshold, float(kept.mean()), hits / int(kept.sum()), hits / relevant))
    return rows


def score_thresholds(
    queries: Sequence[JudgedQuery], setting: Setting, probabilities: Iterable[float]
) -> dict[float, float]:
    """
    Return the joined score that stands for each probability of relevance, by a logistic fit to these queries.

    :param probabilities: Between 0 and 1, both excluded.
    :returns: Empty if a score does not mean the same on every query (a normalizer looks at the query's own list, or
        ranks are joined), or if the scores say nothing about relevance.
    """
    if setting.frame.method != "weighted_sum" or not _steady(queries, setting):
        return {}
    slope, intercept = fit_logistic(*joined_scores(queries, setting))
    if slope == 0.0:
        return {}
    return {wanted: (math.log(wanted / (1.0 - wanted)) - intercept) / slope for wanted in probabilities}


def _steady(queries: Sequence[JudgedQuery], setting: Setting) -> bool:
    """Tell whether every input is counted in the same way on all queries, by a normalizer that looks at no list."""
    counted: dict[str, Normalization] = {}
    for query in queries:
        for name, assumed in fused(query, setting).assumed.items():
            if (
                not assumed.normalization.steady
                or counted.setdefault(name, assumed.normalization) != assumed.normalization
            ):
                return False
    return True


def logistic_setting(queries: Sequence[JudgedQuery], default: Setting, steps: int | None = None) -> Setting:
    """Fit every input's `logistic` to these queries, and choose the weights that rank them best in that frame."""
    grid = WeightGrid.around(default.weights, steps)
    frame = logistic_frame(queries, grid.names)
    return Setting(frame, grid.weights(grid.best(ndcg(queries, grid.names, frame, grid.rows))))
