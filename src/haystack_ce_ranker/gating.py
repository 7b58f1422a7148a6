"""
Predicts from a first stage's scores whether re-ranking can be spared: scores in, one number out, and the rule for it.

Every predictor is a published one of query performance, computed after retrieval from the scores alone: the higher, the
surer the first stage, the less a re-ranker is expected to change. What they are worth is measured in
`benchmarks/gate.py`; which threshold to use is fitted in `evaluation/gate.py`.

The corpus' own score, by which some of them are normalised in the literature, is known to language models but not to a
list of candidates. The mean of the candidates' scores stands for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

WIG_DOCUMENTS = 5
"""The k of WIG: Zhou & Croft 2007 found 5 to do well for ad-hoc queries."""

_HIGH_SHARE = 0.5  # of the highest score: Cummins et al. 2011


def _margin(scores: FloatArray, _words: int) -> float | None:
    return float(scores[0] - scores[1])


def _relative_margin(scores: FloatArray, _words: int) -> float | None:
    return float((scores[0] - scores[1]) / scores[0]) if scores[0] > 0 else None


def _deviation(scores: FloatArray, words: int) -> float | None:
    high = scores[scores >= _HIGH_SHARE * scores[0]] if scores[0] > 0 else scores
    return float(high.std()) / math.sqrt(words)


def _nqc(scores: FloatArray, _words: int) -> float | None:
    mean = abs(float(scores.mean()))
    return float(scores.std()) / mean if mean > 0 else None


def _wig(scores: FloatArray, words: int) -> float | None:
    return float(scores[:WIG_DOCUMENTS].mean() - scores.mean()) / math.sqrt(words)


def _smv(scores: FloatArray, _words: int) -> float | None:
    if scores[-1] <= 0:
        return None
    mean = float(scores.mean())
    return float((scores * np.abs(np.log(scores / mean))).mean()) / mean


PREDICTORS: Mapping[str, Callable[[FloatArray, int], float | None]] = {
    "margin": _margin,
    "relative_margin": _relative_margin,
    "deviation": _deviation,
    "nqc": _nqc,
    "wig": _wig,
    "smv": _smv,
}
"""
Every predictor: `(scores, words) -> value`, with the scores finite, highest first, not all equal, and the words of the
query. None where it is not defined for such scores. s: scores, mu: their mean, k: how many.

=================  ==============================================  ====================================================
name               value                                           source
=================  ==============================================  ====================================================
`margin`           s1 - s2                                         Scheffer, Decomain & Wrobel 2001, "Active Hidden
                                                                   Markov Models": the margin of the best two
`relative_margin`  (s1 - s2) / s1; needs s1 > 0                    the same, free of the scores' scale
`deviation`        deviation of the scores >= s1 / 2, over         Cummins, Jose & O'Riordan 2011, "Improved Query
                   sqrt(words)                                     Performance Prediction Using Standard Deviation"
`nqc`              deviation / abs(mu); needs mu != 0              Shtok et al. 2012, "Predicting Query Performance by
                                                                   Query-Drift Estimation": NQC
`wig`              (mean of the best 5 - mu) / sqrt(words)         Zhou & Croft 2007, "Query Performance Prediction in
                                                                   Web Search Environments": WIG
`smv`              mean of s * abs(ln(s / mu)), over mu; needs     Tao & Wu 2014, "Query Performance Prediction by
                   every s > 0                                     Considering Score Magnitude and Variance Together"
=================  ==============================================  ====================================================
"""


class Decision(NamedTuple):
    """
    What becomes of one query.

    :ivar rerank: Whether to re-rank it.
    :ivar value: What the predictor says; None where it says nothing.
    :ivar reason: Why, in words.
    :ivar usable: How many of the scores were numbers.
    """

    rerank: bool
    value: float | None
    reason: str
    usable: int


def check_predictor(predictor: str) -> str:
    """
    Return the name of a predictor if there is one of it.

    :raises ValueError: If there is none.
    """
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor must be one of {', '.join(map(repr, PREDICTORS))}, but got {predictor!r}.")
    return predictor


def check_threshold(threshold: float) -> float:
    """
    Return a threshold if it is a number; infinity is one, and means that every query is re-ranked.

    :raises ValueError: If it is none.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or math.isnan(threshold):
        raise ValueError(f"threshold must be a number, but got {threshold!r}.")
    return float(threshold)


def predict(predictor: str, scores: Sequence[float | None], *, words: int = 1) -> float | None:
    """
    Return what a predictor says about a first stage's scores: the higher, the surer the first stage.

    :param predictor: A name in `PREDICTORS`.
    :param scores: In any order; None, NaN and infinite ones are left out.
    :param words: Words of the query.
    :returns: None where it says nothing: fewer than two numbers, all of them equal, or scores that the predictor is not
        defined for.
    :raises ValueError: If there is no such predictor.
    """
    check_predictor(predictor)
    usable = _usable(scores)
    if usable.size < 2 or usable[0] == usable[-1]:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, and says nothing
        value = PREDICTORS[predictor](usable, max(words, 1))
    return value if value is not None and math.isfinite(value) else None


def decide(predictor: str, scores: Sequence[float | None], *, threshold: float, words: int = 1) -> Decision:
    """
    Decide whether to re-rank the documents with these scores.

    What is sure to change nothing is spared: no document, or one. What is not known is re-ranked: fewer than two scores
    that are numbers, all of them equal, or a predictor that is not defined for them.

    :param scores: One a document, in any order.
    :param threshold: Re-ranking is spared from this value of the predictor on.
    :param words: Words of the query.
    :raises ValueError: If there is no such predictor, or the threshold is not a number.
    """
    check_predictor(predictor)
    threshold = check_threshold(threshold)
    usable = _usable(scores)
    if len(scores) < 2:
        return Decision(False, None, f"{len(scores)} documents have one order only", usable.size)
    if usable.size < 2:
        return Decision(
            True, None, f"{usable.size} of {len(scores)} scores are numbers, which tells nothing", usable.size
        )
    if usable[0] == usable[-1]:
        return Decision(True, None, "all scores are equal, so the first stage has no order", usable.size)
    value = predict(predictor, scores, words=words)
    if value is None:
        return Decision(True, None, f"{predictor} is not defined for such scores", usable.size)
    spared = value >= threshold
    reason = f"{predictor} {value:.4g} is {'at least' if spared else 'below'} {threshold:.4g}"
    return Decision(not spared, value, reason, usable.size)


def count_words(query: str) -> int:
    """Return the words of a query, as white space parts them; at least 1."""
    return max(len(query.split()), 1)


def _usable(scores: Sequence[float | None]) -> FloatArray:
    """Return the scores that are numbers, highest first."""
    found = np.asarray([score for score in scores if score is not None and math.isfinite(score)], dtype=np.float64)
    return np.asarray(-np.sort(-found), dtype=np.float64)
