"""
A teacher that needs no labels: a cross-encoder's logits, moved by what BM25 and a bi-encoder say of the same documents.

A model cannot learn from its own scores. On texts unlike those that it was trained on, though, the three together rank
better than each of them; where the cross-encoder is at home, it ranks best alone. How many of a query's documents it
finds relevant tells the two apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.checks import number

FloatArray = NDArray[np.float64]

BM25, DENSE = "bm25", "dense"
"""The kinds of evidence, by name."""

_FLAT = 1e-9


@dataclass(frozen=True)
class Blend:
    """
    How much other evidence counts beside a logit.

    Added to a logit is `weight * z` of each evidence: how many standard deviations a document stands above the mean of
    what a first stage found for the query. The sum is multiplied by how unsure the cross-encoder is: 1 if at most a
    share `unsure` of the documents has a positive logit, 0 from a share `sure` on, and in a straight line between. The
    defaults were chosen on five collections; `benchmarks/training_adapt.py teacher` has the figures.

    :ivar bm25: The weight of BM25 beside a bi-encoder.
    :ivar dense: The weight of the bi-encoder.
    :ivar bm25_alone: The weight of BM25 without a bi-encoder.
    :raises ValueError: If a weight is negative, or the shares do not ascend within 0 and 1.
    """

    bm25: float = 0.5
    dense: float = 2.0
    bm25_alone: float = 0.25
    unsure: float = 0.3
    sure: float = 0.5

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("bm25", "dense", "bm25_alone"):
            object.__setattr__(self, name, float(number(name, getattr(self, name), least=0)))
        unsure = float(number("unsure", self.unsure, least=0, most=1))
        sure = float(number("sure", self.sure, above=unsure, most=1))
        object.__setattr__(self, "unsure", unsure)
        object.__setattr__(self, "sure", sure)

    def doubt(self, logits: FloatArray) -> float:
        """
        Return how unsure a cross-encoder is of a query, from 0 to 1.

        :param logits: Of the query's documents; shape (documents,).
        """
        if not logits.size:
            return 0.0
        share = float(np.mean(logits > 0))
        return float(np.clip((self.sure - share) / (self.sure - self.unsure), 0.0, 1.0))

    def weights(self, evidence: Mapping[str, FloatArray]) -> dict[str, float]:
        """Return the weight of each evidence that there is."""
        weights = {BM25: self.bm25, DENSE: self.dense} if DENSE in evidence else {BM25: self.bm25_alone}
        return {name: weights[name] for name in evidence}

    def __call__(
        self, logits: FloatArray, evidence: Mapping[str, FloatArray], places: Sequence[int] | None = None
    ) -> FloatArray:
        """
        Return the target of each document: its logit and what the evidence adds.

        :param logits: Of one query's documents.
        :param evidence: By name, scores of all that the first stage found for the query.
        :param places: Where in those lists the documents with logits stand; None if the lists hold just these.
        """
        where = np.arange(len(logits)) if places is None else np.asarray(places, np.int64)
        doubt = self.doubt(logits)
        target = np.array(logits, np.float64)
        for name, weight in self.weights(evidence).items():
            target += doubt * weight * standardised(evidence[name])[where]
        return target


def standardised(scores: FloatArray) -> FloatArray:
    """Return how many standard deviations each score stands above the mean; zeros if all are alike."""
    spread = float(scores.std()) if scores.size else 0.0
    if spread <= _FLAT * max(1.0, float(np.abs(scores).max(initial=0.0))):
        return np.zeros(scores.shape)
    return np.asarray((scores - scores.mean()) / spread, np.float64)
