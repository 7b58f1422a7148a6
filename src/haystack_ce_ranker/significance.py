"""
Whether a mean over queries could be chance: bootstrap interval, paired randomisation test, Holm's correction.

Numbers in, numbers out. The test is Fisher's paired randomisation test, which Smucker, Allan & Carterette recommend for
values per query ("A Comparison of Statistical Significance Tests for Information Retrieval Evaluation", 2007). We do
not use scipy's `permutation_test`, because it takes 30 times as long for such values.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

EXACT = 16
"""If at most this many queries differ, all ways to flip their signs are counted. Otherwise random ones are drawn."""

SAME = 1e-9
"""Values that differ by less than this are equal: they can be the same gains, added in another order."""

_ROWS = 256  # rows of signs at a time, which fit into the processor's cache


class Interval(NamedTuple):
    """A mean with the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float


def differences_of(values: FloatArray, base: FloatArray) -> FloatArray:
    """Return by how much each value is above its base. What only rounding can tell apart is the same."""
    found = values - base
    found[np.abs(found) < SAME] = 0.0
    return found


def bootstrap(differences: FloatArray, *, samples: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """
    Return the mean of per-query values with its percentile bootstrap interval over queries.

    Given per-query differences of two systems, this is the paired bootstrap: significant where the interval excludes 0.
    """
    if differences.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(0, differences.size, (samples, differences.size))
    means = differences[drawn].mean(axis=1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(differences.mean()), float(low), float(high))


def randomisation_test(differences: FloatArray, *, seed: int = 0, samples: int = 20_000) -> float:
    """
    Return the two-sided p of the paired randomisation test: how often flipping signs at random gives as large a sum.

    It is exact if at most `EXACT` differences are not 0. Otherwise signs are drawn at random. The observed signs count
    as one of the draws, so that p is never 0 (Phipson & Smyth 2010).

    :param differences: One for each query.
    """
    if samples < 1:
        raise ValueError(f"samples must be > 0, but got {samples}")
    moved = differences[differences != 0.0]
    if not moved.size:
        return 1.0
    least = abs(float(moved.sum())) - SAME * float(np.abs(moved).sum())
    if moved.size <= EXACT:
        sums = np.zeros(1)
        for value in moved:
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= least).mean())
    random = np.random.default_rng(seed)
    total, width, extreme = float(moved.sum()), -(-moved.size // 8), 0
    for start in range(0, samples, _ROWS):
        rows = min(_ROWS, samples - start)
        drawn = np.frombuffer(random.bytes(rows * width), dtype=np.uint8).reshape(rows, width)
        flipped = np.unpackbits(drawn, axis=1, count=moved.size).astype(np.float64)
        extreme += int((np.abs(total - 2.0 * (flipped @ moved)) >= least).sum())
    return (extreme + 1) / (samples + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """
    Correct for the number of comparisons by Holm's method: the chance of even one false finding stays below the level.

    :param p_values: By name.
    :returns: Corrected values by name, in the same order. None is lower than before, and none is above 1.
    """
    corrected: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(p_values[name] * (len(p_values) - place), 1.0))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}
