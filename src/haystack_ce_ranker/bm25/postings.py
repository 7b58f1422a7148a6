"""
Postings: which documents have a term, and how often. Numbered words are sorted into blocks, and blocks are merged.

Documents are *slots* here: numbers that stay the same when others come and go. `index.py` knows where a slot stands in
the collection. What a posting counts in a score depends on how often the document has the term and on how long it is.
A block lists the different pairs of these, and each posting has the place of its pair in that list. So a search looks
up a finished number where it would have to compute one, and no posting takes more room than for its count.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.bm25.analysis import Analysis, number_terms
from haystack_ce_ranker.data_files import parse_json


class Impacts(NamedTuple):
    """
    Different pairs, each once: how often a document has a term, and the document's length.

    The word is Lucene's, whose `Impact` is such a pair.
    """

    counts: NDArray[np.uint32]
    lengths: NDArray[np.int32]


class Block(NamedTuple):
    """
    Postings by term: those of term `t` are `documents[indptr[t] : indptr[t + 1]]`, with `codes` beside them.

    A code is the place of the posting's pair in `impacts`; it has two bytes, or four where there are too many pairs.
    """

    terms: dict[str, int]
    indptr: NDArray[np.int64]
    documents: NDArray[np.int32]
    codes: NDArray[np.uint16] | NDArray[np.uint32]
    impacts: Impacts

    def range_of(self, term: str) -> tuple[int, int]:
        """Return where the postings of `term` begin and end."""
        number = self.terms.get(term, -1)
        return (int(self.indptr[number]), int(self.indptr[number + 1])) if number >= 0 else (0, 0)


class Recent(NamedTuple):
    """
    Documents as numbered words, from which their block can be made again together with more documents.

    :param terms: Term -> number.
    :param numbers: The words of all documents, as `analysis.number_terms` numbers them.
    :param starts: Where each document begins, with one more entry for the end.
    """

    terms: dict[str, int]
    numbers: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, texts: Iterable[str], analysis: Analysis, terms: dict[str, int]) -> "Recent":
        """
        Analyse texts.

        :param texts: One per document. Read once, not kept.
        :param terms: Term -> number; new terms are added to it.
        """
        numbers, starts = number_terms(texts, analysis, terms)
        return cls(terms, _as_array(numbers, np.int32), _as_array(starts, np.int64))

    def followed_by(self, more: "Recent") -> "Recent":
        """Return these documents and `more`, whose terms continue the numbers of these."""
        starts = np.concatenate([self.starts, more.starts[1:] + len(self.numbers)])
        return Recent(more.terms, np.concatenate([self.numbers, more.numbers]), starts)

    def lengths(self) -> NDArray[np.int32]:
        """Return how many terms each document has that count in its length."""
        if not len(self.numbers):
            return np.zeros(len(self), np.int32)
        terms = np.concatenate([[0], np.cumsum(self.numbers >= 0)])
        return np.diff(terms[self.starts]).astype(np.int32)


NO_IMPACTS = Impacts(np.zeros(0, np.uint32), np.zeros(0, np.int32))
_IN_TWO_BYTES = 2**16  # so many pairs have codes of two bytes
EMPTY_BLOCK = Block({}, np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint16), NO_IMPACTS)
NO_RECENT = Recent({}, np.zeros(0, np.int32), np.zeros(1, np.int64))


@forking.cached
def kernels() -> ModuleType:
    """Return the compiled loops; the first call in a process loads numba, the first on a machine compiles."""
    with forking.uninterrupted():
        from haystack_ce_ranker.bm25 import kernels as compiled

    return compiled


def block_of(documents: Recent, first_slot: int) -> tuple[Block, NDArray[np.int32]]:
    """
    Sort numbered words by term.

    :param first_slot: The slot of the first document; the others follow.
    :returns: The block, and how many terms each document has.
    """
    if not len(documents):
        return EMPTY_BLOCK, np.zeros(0, np.int32)
    loops = kernels()
    document_counts = np.zeros(len(documents.terms), np.int64)
    lengths = np.zeros(len(documents), np.int32)
    loops.count_documents(documents.numbers, documents.starts, document_counts, lengths)
    indptr = _indptr(document_counts)
    slots, counts = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.uint32)
    loops.fill_postings(documents.numbers, documents.starts, indptr, np.int32(first_slot), slots, counts)
    codes, impacts = _coded(slots, counts, lengths, first_slot)
    return Block(documents.terms, indptr, slots, codes, impacts), lengths


def _coded(
    slots: NDArray[np.int32], counts: NDArray[np.uint32], lengths: NDArray[np.int32], first_slot: int
) -> tuple[NDArray[np.uint16] | NDArray[np.uint32], Impacts]:
    """Return each posting's code, and what the codes stand for. `counts` is used up."""
    loops, first = kernels(), np.int32(first_slot)
    different = np.flatnonzero(np.bincount(lengths))
    places = np.zeros(int(different[-1]) + 1, np.uint16)  # more lengths than this counts would need two billion words
    places[different] = np.arange(len(different))
    most = np.zeros(len(different), np.int64)
    loops.find_most(slots, counts, places[lengths], first, most)
    starts = _indptr(most)
    loops.number_impacts(slots, places[lengths], first, starts, counts)
    every = Impacts(
        (np.arange(starts[-1]) - np.repeat(starts[:-1], most) + 1).astype(np.uint32),
        np.repeat(different, most).astype(np.int32),
    )
    return _compact(counts, every)


def _compact(codes: NDArray[np.uint32], impacts: Impacts) -> tuple[NDArray[np.uint16] | NDArray[np.uint32], Impacts]:
    """Leave out the pairs that no posting has. `codes` is used up."""
    used = np.zeros(len(impacts.counts), np.uint8)
    kernels().mark(codes, used)
    kernels().recode((np.cumsum(used) - 1).astype(np.uint32), codes)
    kept = Impacts(*(array[used == 1] for array in impacts))
    return (codes.astype(np.uint16) if len(kept.counts) <= _IN_TWO_BYTES else codes), kept


def _joined(every: Sequence[Impacts]) -> tuple[Impacts, list[NDArray[np.uint32]]]:
    """Return the pairs of all, and for each of them where its own stand among those."""
    pairs = [one.lengths.astype(np.int64) << 32 | one.counts for one in every]
    different = np.unique(np.concatenate(pairs))
    joined = Impacts((different & 0xFFFFFFFF).astype(np.uint32), (different >> 32).astype(np.int32))
    return joined, [np.searchsorted(different, some).astype(np.uint32) for some in pairs]


def merge(blocks: Sequence[Block], positions: NDArray[np.int32]) -> Block:
    """
    Merge blocks into one. Each document's slot is then its position; removed documents and their terms are gone.

    :param positions: Where each slot stands in the collection, -1 when it was removed.
    """
    loops = kernels()
    terms: dict[str, int] = {}
    counts = np.zeros(sum(len(block.terms) for block in blocks), np.int64)
    targets: list[NDArray[np.int64]] = []  # for each term of a block, its number among the merged terms
    for block in blocks:
        present_counts = np.zeros(len(block.terms), np.int64)
        loops.count_all_present(block.indptr, block.documents, positions, present_counts)
        numbers = np.full(len(block.terms), -1, np.int64)
        for term, number in block.terms.items():
            if present_counts[number]:
                numbers[number] = terms.setdefault(term, len(terms))
        counts[numbers[numbers >= 0]] += present_counts[numbers >= 0]
        targets.append(numbers)
    indptr = _indptr(counts[: len(terms)])
    head = indptr[:-1].copy()
    documents, codes = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.uint32)
    impacts, recoded = _joined([block.impacts for block in blocks])
    for block, numbers, places in zip(blocks, targets, recoded, strict=True):
        loops.merge_postings(
            block.indptr, block.documents, block.codes, places, numbers, positions, head, documents, codes
        )
    loops.sort_postings(indptr, documents, codes)  # they do not ascend where documents have changed places
    return Block(terms, indptr, documents, *_compact(codes, impacts))


def pack_terms(terms: dict[str, int]) -> NDArray[np.uint8]:
    """Return the terms in the order of their numbers, which is that of the dictionary, as bytes of JSON."""
    return np.frombuffer(json.dumps(list(terms)).encode("ascii"), np.uint8)


def unpack_terms(packed: NDArray[np.uint8]) -> dict[str, int]:
    """
    Return what `pack_terms` was given.

    :raises ValueError: If it is something else.
    """
    terms = parse_json(packed.tobytes())
    if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
        raise ValueError("terms must be a list of texts")
    numbered = {term: number for number, term in enumerate(terms)}
    if len(numbered) < len(terms):
        raise ValueError("terms must not hold a text twice")
    return numbered


def _indptr(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the postings of each term begin, with one more entry for the end."""
    indptr = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    return indptr


def _as_array(values: "array[int]", dtype: Any) -> NDArray[Any]:
    return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)
