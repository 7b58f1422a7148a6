"""
Postings: which documents have a term, and how often. Numbered words are sorted into blocks, and blocks are merged.

Documents are *slots* here: numbers that stay the same when others come and go. `index.py` knows where a slot stands in
the collection, and what a posting counts in a score.
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


class Block(NamedTuple):
    """Postings by term: those of term `t` are `documents[indptr[t] : indptr[t + 1]]`, with `counts` beside them."""

    terms: dict[str, int]
    indptr: NDArray[np.int64]
    documents: NDArray[np.int32]
    counts: NDArray[np.uint16] | NDArray[np.uint32]

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


EMPTY_BLOCK = Block({}, np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint16))
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
    return Block(documents.terms, indptr, slots, _narrow(counts)), lengths


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
    documents, frequencies = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.uint32)
    for block, numbers in zip(blocks, targets, strict=True):
        loops.merge_postings(
            block.indptr, block.documents, block.counts, numbers, positions, head, documents, frequencies
        )
    loops.sort_postings(indptr, documents, frequencies)  # they do not ascend where documents have changed places
    return Block(terms, indptr, documents, _narrow(frequencies))


def coded(lengths: NDArray[np.int32]) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """
    Return for each document the place of its length among the different lengths, and these.

    Two bytes are enough: more different lengths than they can count would need two billion words.
    """
    different = np.flatnonzero(np.bincount(lengths)) if len(lengths) else np.zeros(0, np.int64)
    places = np.zeros(int(different[-1]) + 1 if len(different) else 1, np.uint16)
    places[different] = np.arange(len(different))
    return places[lengths], different.astype(np.int32)


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


def _narrow(counts: NDArray[np.uint32]) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Return the counts in two bytes each where they fit: no ordinary text repeats a word 65,536 times."""
    return counts.astype(np.uint16) if len(counts) == 0 or counts.max() < 2**16 else counts


def _as_array(values: "array[int]", dtype: Any) -> NDArray[Any]:
    return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)
