"""
Which scale a list's scores are on, and how `auto` brings lists of several scales together.

Logits are the common scale: a cross-encoder's logit is a log-odds of relevance by training, and log-odds add. What is
not on it is brought to it:

================  ==========================================================  ======================================
scale             which lists                                                 how `auto` counts them
================  ==========================================================  ======================================
`logits`          a CrossEncoderRanker's; other lists that look like logits   as they are
`probabilities`   between 0 and 1, and taken back through the sigmoid they    by their logit
                  spread like logits
`bm25`            a BM25Retriever's; other lists at an input named `bm25`     `log` beside logits, else `z_score`
`own`             all others: cosines, dot products, `ts_rank_cd`, ...        `z_score`: a deviation counts as a logit
================  ==========================================================  ======================================

A list that is alone has nothing to be compared with: BM25 then has `log`, and a scale of its own is kept as it is.

Scores *spread like logits* if they span at least two logits without the highest and the lowest tenth, or if half of
them are within 0.001 of 0 or 1. Near that span a list's deviation is about one logit, so that both ways of counting
come to the same, and nothing hangs on a narrow decision. A few duplicates of the query, with cosines of 1, are in the
tenth that is left out. Lists that lie beyond 0 and 1 *look like logits* if they span as much and lie between -12 and
12, where the logits of cross-encoders are, or on both sides of 0. `benchmarks/fusion.py` measures these rules on
each half of the queries of five collections.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from haystack_ce_ranker.fusion.normalizers import AUTO, NONE, FloatArray, Normalization, parse_normalization

Scale = Literal["logits", "probabilities", "bm25", "own"]

SPAN = 2.0
"""Logits that a list must span to count as logits; from `benchmarks/fusion.py`."""

_ENOUGH_TO_CUT = 5
_HIGHEST_LOGIT = 12.0
_SATURATED = 0.001
_LEAST_MARGIN, _LARGEST_MARGIN = 1e-7, 1e-3

_KEEP_LOGITS = (AUTO.name, NONE.name, "logit")
_LOG = parse_normalization("log")
_Z_SCORE = parse_normalization("z_score")


class Assumed(NamedTuple):
    """
    What an input's scores were taken for.

    :ivar scale: None where nothing had to be assumed: the normalizer was given, or there is no score.
    :ivar normalization: How they are counted.
    """

    scale: Scale | None
    normalization: Normalization


def assume(
    names: Sequence[str],
    known: Sequence[FloatArray],
    scales: Sequence[Scale | None],
    normalizations: Mapping[str, Normalization],
) -> list[Assumed]:
    """
    Return how each list of one query is counted.

    :param names: The inputs that take part.
    :param known: Each list's finite scores.
    :param scales: What is known of each list; None if nothing is.
    :param normalizations: By input; `auto` is resolved. An input that is not named keeps its scores.
    """
    given = [normalizations.get(name, NONE) for name in names]
    if AUTO not in given:
        return [Assumed(None, wanted) for wanted in given]
    found = [
        scale_of(name, scores, scale) if scores.size else None
        for name, scores, scale in zip(names, known, scales, strict=True)
    ]
    alone = sum(scores.size > 0 for scores in known) < 2
    beside_logits = any(
        scale in ("logits", "probabilities") and wanted.name in _KEEP_LOGITS
        for scale, wanted in zip(found, given, strict=True)
    )
    by_scale: dict[Scale | None, Normalization] = {
        None: NONE,
        "logits": NONE,
        "bm25": _LOG if beside_logits or alone else _Z_SCORE,
        "own": NONE if alone else _Z_SCORE,
    }
    return [
        Assumed(None, wanted)
        if wanted != AUTO
        else Assumed(scale, undone(scores) if scale == "probabilities" else by_scale[scale])
        for scale, scores, wanted in zip(found, known, given, strict=True)
    ]


def scale_of(name: str, scores: FloatArray, known: Scale | None = None) -> Scale:
    """
    Return the scale of one list.

    :param name: The input's name: `bm25` is taken at its word.
    :param scores: The list's finite scores, at least one.
    :param known: What is known of them.
    """
    if known is not None:
        return known
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        return "bm25" if name == "bm25" and high > 1.0 else "own"  # equal scores say nothing, whatever they are
    if low >= 0.0 and high <= 1.0:  # also of bm25: other retrievers scale it
        saturated = np.minimum(scores, 1.0 - scores) <= _SATURATED
        logits = undone(scores).apply(scores, scores)
        return "probabilities" if _span(logits) >= SPAN or saturated.mean() >= 0.5 else "own"
    if name == "bm25":
        return "bm25"
    possible = low < 0.0 < high or max(-low, high) <= _HIGHEST_LOGIT
    return "logits" if possible and _span(scores) >= SPAN else "own"


def _span(scores: FloatArray) -> float:
    """Return what the scores span without the highest and the lowest tenth, from five scores on at least one each."""
    ordered = np.sort(scores)
    if ordered.size >= _ENOUGH_TO_CUT:
        cut = max(1, ordered.size // 10)
        ordered = ordered[cut:-cut]
    return float(ordered[-1] - ordered[0])


def undone(scores: FloatArray) -> Normalization:
    """
    Return the `logit` for a list of probabilities.

    An exact 0 or 1 says only that the score was rounded to it. It counts as half as far from there as the list's
    nearest other score, which shows how finely the list is rounded.
    """
    distances = np.minimum(scores, 1.0 - scores)
    nearest = distances[distances > 0.0].min(initial=1.0)
    margin = min(max(float(nearest) / 2.0, _LEAST_MARGIN), _LARGEST_MARGIN)
    return Normalization("logit", {"margin": margin})
