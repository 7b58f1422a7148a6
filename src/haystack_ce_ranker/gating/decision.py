"""
Decides from a first stage's scores whether to re-rank: scores in, one number and a decision out.

A predictor of query performance says how sure the first stage is. The surer it is, the less a re-ranker is expected to
change. `benchmarks/gate.py` measures what the predictors are worth; `fitting` finds a threshold.

The literature divides by the score of the whole corpus, which a list of candidates does not have. Here the mean of the
candidates' scores stands for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from haystack_ce_ranker.checks import choice, is_finite, number

FloatArray = npt.NDArray[np.float64]


def _nqc(scores: FloatArray) -> float | None:
    """Deviation over the absolute mean: Shtok et al. 2012, "Predicting Query Performance by Query-Drift Estimation"."""
    mean = abs(float(scores.mean()))
    return float(scores.std()) / mean if mean > 0 else None


def _smv(scores: FloatArray) -> float | None:
    """
    Mean of score * abs(ln(score / mean)), over the mean; for scores above 0.

    Tao & Wu 2014, "Query Performance Prediction by Considering Score Magnitude and Variance Together".
    """
    if scores[-1] <= 0:
        return None
    mean = float(scores.mean())
    return float((scores * np.abs(np.log(scores / mean))).mean()) / mean


PREDICTORS: Mapping[str, Callable[[FloatArray], float | None]] = {"nqc": _nqc, "smv": _smv}
"""By name. They take finite scores, highest first and not all equal, and return None where they are not defined."""


class Decision(NamedTuple):
    """
    Whether to re-rank one query, and why.

    :ivar rerank: Whether to re-rank it.
    :ivar value: The predictor's value; None where it is not defined.
    :ivar reason: Why, in words.
    :ivar usable: How many of the scores are numbers.
    """

    rerank: bool
    value: float | None
    reason: str
    usable: int


def predict(predictor: str, scores: Sequence[float | None]) -> float | None:
    """
    Return a predictor's value for a first stage's scores: the higher, the surer the first stage.

    :param predictor: A name in `PREDICTORS`.
    :param scores: In any order. None, NaN and infinite scores are ignored.
    :returns: None if fewer than two scores are numbers, if all are equal, or if the predictor is not defined.
    :raises ValueError: If there is no such predictor.
    """
    compute, usable = PREDICTORS[choice("predictor", predictor, PREDICTORS)], _usable(scores)
    if usable.size < 2 or usable[0] == usable[-1]:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # a value that overflows is not finite, and counts as none
        value = compute(usable)
    return value if value is not None and math.isfinite(value) else None


def decide(predictor: str, scores: Sequence[float | None], *, threshold: float) -> Decision:
    """
    Decide whether to re-rank the documents with these scores.

    A query with fewer than two documents is spared: re-ranking cannot change it. A query without a predicted value is
    re-ranked, because nothing is known about it.

    :param scores: One for each document, in any order.
    :param threshold: Re-ranking is spared from this value of the predictor on. Infinity re-ranks every query.
    :raises ValueError: If there is no such predictor, or the threshold is not a number.
    """
    threshold = number("threshold", threshold, infinite=True)
    usable, value = _usable(scores), predict(predictor, scores)
    if len(scores) < 2:
        return Decision(False, None, f"{len(scores)} documents have one order only", usable.size)
    if value is not None:
        spared = value >= threshold
        reason = f"{predictor} {value:.4g} is {'at least' if spared else 'below'} {threshold:.4g}"
        return Decision(not spared, value, reason, usable.size)
    if usable.size < 2:
        reason = f"only {usable.size} of {len(scores)} scores are numbers, which is too few"
    elif usable[0] == usable[-1]:
        reason = "all scores are equal, so the first stage has no order"
    else:
        reason = f"{predictor} is not defined for such scores"
    return Decision(True, None, reason, usable.size)


def _usable(scores: Sequence[float | None]) -> FloatArray:
    """Return the scores that are numbers, highest first."""
    found = np.asarray([score for score in scores if score is not None and is_finite(score)], dtype=np.float64)
    return np.asarray(-np.sort(-found), dtype=np.float64)
