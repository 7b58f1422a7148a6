"""
What the candidates without a score can be expected to get, from those that have one: logits in, expectations out.

The logits of one query are taken for a Gaussian process over its candidates (Rasmussen and Williams 2006, chapter 2).
The mean falls with the logarithm of the rank in which they came, and candidates with similar texts have similar logits.
Only the order of the logits counts: each becomes the normal quantile of its rank among those seen, so that any model's
logits will do. A text is its tokens, as the model reads them; nothing here runs the model, and nothing was trained.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

FALL = 0.4
"""By how much the expected logit falls when the logarithm of the rank rises by its standard deviation."""

FALL_VARIANCE = 0.06
"""How far the fall of one query lies from `FALL`, as a variance."""

LEVEL_VARIANCE = 1.0
"""How far the level of all candidates may lie from that of those scored first."""

SHARED_VARIANCE = 0.35
"""The part of a logit's variance that candidates with equal texts share."""

OWN_VARIANCE = 0.25
"""The part that a text says nothing about. All of these are in units of the variance of the logits seen."""

_ROUNDING = 1e-6

Array = NDArray[np.float64]
Positions = NDArray[np.intp]


def similarity(texts: Sequence[NDArray[np.integer]], query: NDArray[np.integer]) -> Array:
    """
    Return how similar texts are, from -1 to 1: the cosine of their token counts around the mean of all texts.

    Counts are damped by a logarithm. Rare tokens count more than frequent ones: tokenizers number their tokens by
    falling frequency, or nearly so. Those of the query count twice. A token that only one text has says nothing of two
    texts, and does not count.

    :param texts: The tokens of each text.
    :param query: The tokens of the query.
    :returns: Shape (texts, texts); 0 for a text without tokens that count.
    """
    if not len(texts):
        return np.zeros((0, 0))
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    known, columns = np.unique(np.concatenate(texts), return_inverse=True)
    counts = csr_array((np.ones(len(owners)), (owners, columns)), shape=(len(texts), len(known)))  # sums equal places
    shared = np.bincount(counts.indices, minlength=len(known)) > 1
    rarity = np.log1p(known / 1000.0) * np.where(np.isin(known, query), 2.0, 1.0) * shared
    weighed = counts.log1p().multiply(rarity).tocsr()
    vectors = diags_array(_inverse(np.sqrt(weighed.multiply(weighed).sum(axis=1)))) @ weighed
    mean = vectors.mean(axis=0)
    to_mean = vectors @ mean
    # What stands here is the product of the vectors less their mean, without making those, which would not be sparse.
    products = (vectors @ vectors.T).toarray() - to_mean[:, None] - to_mean + mean @ mean
    lengths = _inverse(np.sqrt(np.maximum(np.diag(products), 0.0)))
    return np.asarray(products * np.outer(lengths, lengths))


class Prospects:
    """
    The candidates of one query: which have a logit, and what the others can be expected to have.

    :param count: How many candidates there are, in the order they came.
    :param alike: What `similarity` says of their texts; None if nothing is known of them but their order.
    """

    def __init__(self, count: int, alike: Array | None = None) -> None:
        ranks = -np.log(np.arange(1, count + 1, dtype=np.float64))
        ranks -= ranks.mean() if count else 0.0
        spread = float(ranks.std()) if count else 0.0
        height = ranks / spread if spread > 0 else ranks
        self._prior = FALL * height
        self._covariance = LEVEL_VARIANCE + FALL_VARIANCE * np.outer(height, height)
        if alike is not None:
            self._covariance += SHARED_VARIANCE * alike
        self._own = OWN_VARIANCE if alike is not None else OWN_VARIANCE + SHARED_VARIANCE
        self._waiting = np.ones(count, dtype=np.bool_)
        self._places: list[int] = []
        self._logits: list[float] = []
        self._expected: tuple[Array, Array] | None = None

    @property
    def waiting(self) -> Positions:
        """The candidates that are neither scored nor known to have no score, in their order."""
        return np.flatnonzero(self._waiting)

    def see(self, places: Sequence[int], logits: Sequence[float | None]) -> None:
        """Take note of logits; None for a candidate that gets none."""
        self._expected = None
        for place, logit in zip(places, logits, strict=True):
            self._waiting[place] = False
            if logit is not None:
                self._places.append(place)
                self._logits.append(logit)

    def expected(self) -> tuple[Array, Array]:
        """Return the expected standing of each waiting candidate, and its standard deviation; see `standings`."""
        if self._expected is None:
            self._expected = self._computed()
        return self._expected

    def _computed(self) -> tuple[Array, Array]:
        waiting, seen = self.waiting, np.asarray(self._places, dtype=np.intp)
        shared = self._covariance[np.ix_(waiting, seen)]
        among = self._covariance[np.ix_(seen, seen)] + self._own * np.eye(len(seen))
        solved = np.linalg.solve(among, np.column_stack([standings(self._logits) - self._prior[seen], shared.T]))
        mean = self._prior[waiting] + shared @ solved[:, 0]
        explained = np.einsum("ij,ji->i", shared, solved[:, 1:])
        variance = np.diag(self._covariance)[waiting] + self._own - explained
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def best(self, count: int) -> list[int]:
        """Return the waiting candidates with the highest expectations, the highest first."""
        mean, _ = self.expected()
        return [int(place) for place in self.waiting[np.argsort(-mean, kind="stable")[:count]]]

    def missing(self, top: int) -> float:
        """Return how many of the waiting candidates can be expected to be better than the best `top` so far."""
        if len(self._logits) < top:
            return float(min(len(self.waiting), top))
        mean, deviation = self.expected()
        bar = np.sort(standings(self._logits))[-top]
        return float(sum(math.erfc(z / math.sqrt(2.0)) / 2.0 for z in ((bar - mean) / deviation).tolist()))


def standings(logits: Sequence[float]) -> Array:
    """Return the normal quantile of each logit's rank among all; equal logits share the middle of their ranks."""
    ordered, given = np.sort(logits), np.asarray(logits, dtype=np.float64)
    middles = np.searchsorted(ordered, given, side="left") + np.searchsorted(ordered, given, side="right")
    return np.asarray([_quantile(int(middle), len(ordered)) for middle in middles], dtype=np.float64)


@lru_cache(maxsize=4096)
def _quantile(middle: int, count: int) -> float:
    return NormalDist().inv_cdf(middle / (2.0 * count))


def _inverse(lengths: Array) -> Array:
    """Return 1 by each length; 0 by one that is nothing but rounding."""
    return np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > _ROUNDING)
