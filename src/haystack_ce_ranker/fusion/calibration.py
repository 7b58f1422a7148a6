"""Joined scores as probabilities of relevance: a logistic fit by input, how true it is, and score thresholds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

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

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""What `kept_above` tries."""

PROBABILITIES = (0.1, 0.25, 0.5)
"""The probabilities of relevance for which users are told a score threshold."""


@dataclass(frozen=True)
class Calibrated:
    """
    Joined scores as probabilities of relevance.

    :param setting: Fitted on all queries.
    :param held_out: nDCG@10 by query, fitted and weighed without the query's fold.
    :param probabilities: Held out, for every ranked document of every query.
    :param labels: 1 relevant, 0 not (or unjudged), for each of them.
    """

    setting: Setting
    held_out: FloatArray
    probabilities: FloatArray
    labels: FloatArray


def calibrate(
    queries: Sequence[JudgedQuery], default: Setting, *, steps: int | None = None, folds: int = 5, seed: int = 0
) -> Calibrated:
    """
    Fit every input's `logistic` and the weights in that frame. Predict each query by a fit that has not seen it.

    :param default: Its weights win where several are equally good; its frame plays no part.
    """
    everything = np.arange(len(queries))
    held_out = np.zeros(len(queries))
    found = []
    for fold in split(len(queries), folds, seed):
        setting = _logistic_setting([queries[i] for i in np.setdiff1d(everything, fold)], default, steps)
        unseen = [queries[i] for i in fold]
        held_out[fold] = measure(unseen, setting)
        found.append(joined_scores(unseen, setting))
    setting = _logistic_setting(queries, default, steps)
    probabilities, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Calibrated(setting, held_out, probabilities, labels)


def logistic_frame(queries: Sequence[JudgedQuery], names: Sequence[str]) -> Frame:
    """
    Return the frame in which every score is its probability of relevance, fitted per input on these queries.

    Joined scores are then probabilities, too (a weighted mean). So one `score_threshold` means the same on every query.
    """
    normalizations = {}
    for name in names:
        slope, intercept = fit_logistic(*labelled_scores(queries, name))
        normalizations[name] = Normalization("logistic", {"slope": slope, "intercept": intercept})
    return Frame("logistic", normalizations)


def labelled_scores(queries: Sequence[JudgedQuery], name: str) -> tuple[FloatArray, FloatArray]:
    """Return one input's finite scores over all queries, and 1 or 0 for relevant or not (unjudged: not)."""
    scores: list[float] = []
    labels: list[float] = []
    for query in queries:
        listed = query.lists.get(name)
        if listed is None:
            continue
        for identifier, score in zip(listed.ids, listed.scores, strict=True):
            if score is not None and math.isfinite(score):
                scores.append(float(score))
                labels.append(1.0 if query.judgments.get(identifier, 0) > 0 else 0.0)
    return np.array(scores), np.array(labels)


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
    positive = float(labels.sum())
    negative = labels.size - positive
    prior = (positive + 1.0) / (labels.size + 2.0)
    constant = (0.0, math.log(prior / (1.0 - prior)))
    center, scale = (float(scores.mean()), float(scores.std())) if scores.size else (0.0, 0.0)
    if scale == 0.0 or positive == 0.0 or negative == 0.0:
        return constant
    x = (scores - center) / scale
    target = np.where(labels > 0, (positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0))
    beta = np.array([0.0, constant[1]])

    def loss(candidate: FloatArray) -> float:
        z = candidate[0] * x + candidate[1]
        return float((np.logaddexp(0.0, z) - target * z).sum())

    current = loss(beta)
    for _ in range(100):
        p = sigmoid(beta[0] * x + beta[1])
        error, spread = p - target, p * (1.0 - p)
        gradient = np.array([(error * x).sum(), error.sum()])
        if float(np.abs(gradient).max()) < 1e-9 * labels.size:
            break
        hessian = np.array([[(spread * x * x).sum(), (spread * x).sum()], [(spread * x).sum(), spread.sum()]])
        step = np.linalg.solve(hessian + 1e-12 * np.eye(2), gradient)
        size = 1.0
        while size > 1e-10 and loss(beta - size * step) > current:
            size /= 2.0
        if size <= 1e-10:
            break
        beta = beta - size * step
        current = loss(beta)
    slope = float(beta[0]) / scale
    return (slope, float(beta[1]) - slope * center) if slope > 0.0 else constant


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
    places = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            observed, count = float(labels[inside].mean()), int(inside.sum())
            interval = binomtest(int(labels[inside].sum()), count).proportion_ci(method="wilson")
            found.append(Bin(float(probabilities[inside].mean()), observed, count, interval.low, interval.high))
    total = max(labels.size, 1)
    return found, math.fsum(abs(entry.predicted - entry.observed) * entry.count for entry in found) / total


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


def _logistic_setting(queries: Sequence[JudgedQuery], default: Setting, steps: int | None) -> Setting:
    grid = WeightGrid.around(default.weights, steps)
    frame = logistic_frame(queries, grid.names)
    return Setting(frame, grid.weights(grid.best(ndcg(queries, grid.names, frame, grid.rows))))
