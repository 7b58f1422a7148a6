"""
The variants of BM25: how much a term counts, and how its repetitions and a document's length change that.

The formulas are those of bm25s (Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020). In all variants a term that
occurs `f` times in a document of norm `n` contributes `weight * share + bonus`, where the share is
`(f + p n) / (f + q n)` with `p` at most `q`; the loop that adds this up is `kernels.add_scores`.

To add a variant, write its inverse document frequency and add its line to `VARIANTS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import checks


class Variant(NamedTuple):
    """
    One variant of BM25.

    :param idf: The inverse document frequency, given how many documents there are and how many of them have the term.
    :param default_delta: The bound (Lv & Zhai, CIKM 2011) below which long documents are not punished; None if it has
        none.
    :param times_k1: Whether a term's weight is multiplied by `k1 + 1`.
    :param delta_is_added: Whether the bound is added to a term's score rather than to its frequency.
    """

    idf: Callable[[int, int], float]
    default_delta: float | None = None
    times_k1: bool = True
    delta_is_added: bool = False


def _idf_lucene(total: int, having: int) -> float:
    return math.log(1.0 + (total - having + 0.5) / (having + 0.5))


def _idf_robertson(total: int, having: int) -> float:
    return math.log(max(1.0, (total - having + 0.5) / (having + 0.5)))


def _idf_atire(total: int, having: int) -> float:
    return math.log(total / having)


def _idf_bm25l(total: int, having: int) -> float:
    return math.log((total + 1.0) / (having + 0.5))


def _idf_bm25plus(total: int, having: int) -> float:
    return math.log((total + 1.0) / having)


VARIANTS = {
    "lucene": Variant(_idf_lucene, times_k1=False),
    "robertson": Variant(_idf_robertson, times_k1=False),
    "atire": Variant(_idf_atire),
    "bm25l": Variant(_idf_bm25l, default_delta=0.5),
    "bm25plus": Variant(_idf_bm25plus, default_delta=1.0, delta_is_added=True),
}
"""The variants by name; `Scoring.method` takes these names."""


@dataclass(frozen=True)
class Scoring:
    """
    A variant of BM25 and its parameters.

    :param method: `"lucene"` (the inverse document frequency is never negative), `"robertson"` (it is cut at 0, so
        a term that half of the documents have counts nothing), `"atire"`, `"bm25l"` or `"bm25plus"` (Lv & Zhai, CIKM
        2011: long documents are not punished below a bound; a term that a document lacks adds nothing).
    :param k1: How slowly repetitions saturate, at least 0.
    :param b: How much a document's length counts, 0 to 1.
    :param delta: The bound of `bm25l` and `bm25plus`, at least 0; None for 0.5 and 1.0. The others have none.
    :raises ValueError: If a value is out of range.
    """

    method: str = "lucene"
    k1: float = 1.2
    b: float = 0.75
    delta: float | None = None

    def __post_init__(self) -> None:
        plain = {
            "method": checks.choice("method", self.method, VARIANTS),
            "k1": checks.number("k1", self.k1, least=0),
            "b": checks.number("b", self.b, least=0, most=1),
            "delta": checks.number("delta", self.delta, least=0, optional=True),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.delta is not None and VARIANTS[self.method].default_delta is None:
            bounded = " and ".join(name for name, variant in VARIANTS.items() if variant.default_delta is not None)
            raise ValueError(f"delta is a parameter of {bounded}, but method is {self.method!r}: omit delta.")

    @cached_property
    def _variant(self) -> Variant:
        return VARIANTS[self.method]

    @cached_property
    def bound(self) -> float:
        """`delta`, or the method's default for it; 0 where it has none."""
        given = self._variant.default_delta if self.delta is None else self.delta
        return 0.0 if given is None else given

    def idf(self, document_count: int, n_documents: int) -> float:
        """
        Return the inverse document frequency.

        :param document_count: Documents that have the term, at least 1.
        :param n_documents: Documents of the collection.
        """
        return self._variant.idf(n_documents, document_count)

    @cached_property
    def _term_factors(self) -> tuple[float, float]:
        weight = self.k1 + 1.0 if self._variant.times_k1 else 1.0
        return weight, self.bound if self._variant.delta_is_added else 0.0

    def weight_and_bonus(self, document_count: int, n_documents: int) -> tuple[float, float]:
        """Return `weight` and `bonus` of `kernels.add_scores` for a term; see `idf` for the parameters."""
        idf = self._variant.idf(n_documents, document_count)
        weight, bonus = self._term_factors
        return idf * weight, idf * bonus

    @cached_property
    def norm_factors(self) -> tuple[float, float]:
        """`p` and `q` of a term's share."""
        shift = 0.0 if self._variant.delta_is_added else self.bound
        return shift, self.k1 + shift

    def norms(self, lengths: NDArray[np.int32], average: float) -> NDArray[np.float32]:
        """
        Return how much each document's length counts; 1 stands for the average length.

        :param lengths: Terms of each document.
        :param average: The mean of the lengths; 0 for a collection without terms.
        """
        relative: NDArray[Any] = lengths / average if average else np.zeros(len(lengths))
        return (1.0 - self.b + self.b * relative).astype(np.float32)

    def shares(self, counts: NDArray[np.uint32], lengths: NDArray[np.int32], average: float) -> NDArray[np.float32]:
        """
        Return the shares of terms that occur so often in documents of these lengths.

        :param counts: How often a term occurs.
        :param lengths: Terms of its document.
        :param average: The mean of all documents' lengths.
        """
        p, q = (np.float32(factor) for factor in self.norm_factors)
        frequencies, norms = counts.astype(np.float32), self.norms(lengths, average)
        found: NDArray[Any] = (frequencies + p * norms) / (frequencies + q * norms)
        return found
