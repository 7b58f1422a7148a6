"""
The inner loops of BM25, compiled by numba: counting terms into postings, adding up scores, selecting the best.

Arrays in, arrays out; nothing here knows what a term or a document is. All signatures are explicit and read-only, so
that arrays mapped from a file need no second compilation. Importing this module compiles the loops, which takes
seconds; numba caches them on disk. So `postings.py` imports it only at the first build or search.
"""

import numpy as np
from numba import types

from haystack_ce_ranker.compiling import compiled, read_only

_I32 = read_only(types.int32)
_I64 = read_only(types.int64)
_F32 = read_only(types.float32)
_U8 = read_only(types.uint8)
_U16 = read_only(types.uint16)
_U32 = read_only(types.uint32)
_OUT_I32, _OUT_F32 = types.int32[::1], types.float32[::1]
_OUT_I64, _OUT_U32 = types.int64[::1], types.uint32[::1]

UNTOUCHED = np.float32(-1.0)  # stands for "no score yet": contributions are never negative


@compiled(types.void(_I32, _I64, _OUT_I64, _OUT_I32))
def count_documents(numbers, starts, document_counts, lengths):  # type: ignore[no-untyped-def]
    """
    Count the documents of each term and the terms of each document.

    A number below 0 does not count in a document's length: -1 stands for no term, -2 - t for the term t.
    """
    last = np.full(len(document_counts), -1, np.int32)
    for document in range(len(starts) - 1):
        length = 0
        for i in range(starts[document], starts[document + 1]):
            term = numbers[i]
            if term >= 0:
                length += 1
            elif term == -1:
                continue
            else:
                term = -2 - term
            if last[term] != document:
                last[term] = document
                document_counts[term] += 1
        lengths[document] = length


@compiled(types.void(_I32, _I64, _I64, types.int32, _OUT_I32, _OUT_U32))
def fill_postings(numbers, starts, indptr, first, documents, counts):  # type: ignore[no-untyped-def]
    """
    Write the documents of each term, ascending and numbered from `first`, and how often the term occurs in each.

    See `count_documents` for numbers below 0.
    """
    n_terms = len(indptr) - 1
    head = indptr[:n_terms].copy()
    last = np.full(n_terms, -1, np.int32)
    for document in range(len(starts) - 1):
        for i in range(starts[document], starts[document + 1]):
            term = numbers[i]
            if term == -1:
                continue
            if term < 0:
                term = -2 - term
            if last[term] == document:
                counts[head[term] - 1] += 1
            else:
                last[term] = document
                documents[head[term]] = document + first
                counts[head[term]] = 1
                head[term] += 1


@compiled(types.int64(types.int64, types.int64, _I32, _I32))
def count_present(start, end, documents, positions):  # type: ignore[no-untyped-def]
    """Count the postings of one term whose document is still there: its position is not below 0."""
    found = 0
    for i in range(start, end):
        if positions[documents[i]] >= 0:
            found += 1
    return found


@compiled(types.void(_I64, _I32, _I32, _OUT_I64))
def count_all_present(indptr, documents, positions, present_counts):  # type: ignore[no-untyped-def]
    """Do for all terms what `count_present` does for one."""
    for term in range(len(present_counts)):
        for i in range(indptr[term], indptr[term + 1]):
            if positions[documents[i]] >= 0:
                present_counts[term] += 1


def _merge(indptr, documents, counts, terms, positions, head, merged_documents, merged_counts):  # type: ignore[no-untyped-def]
    """Append a block's postings of documents still there, under their positions, to those of the merged terms."""
    for term in range(len(indptr) - 1):
        target = terms[term]
        for i in range(indptr[term], indptr[term + 1]):
            position = positions[documents[i]]
            if position >= 0:
                merged_documents[head[target]] = position
                merged_counts[head[target]] = counts[i]
                head[target] += 1


merge_postings = compiled(
    *(types.void(_I64, _I32, counts, _I64, _I32, _OUT_I64, _OUT_I32, _OUT_U32) for counts in (_U16, _U32))
)(_merge)


def _add(  # type: ignore[no-untyped-def]
    starts, ends, weights, bonuses, p, q, documents, counts, norms, allowed, scores, touched, found
):
    """
    Add the contributions of a query's terms to the scores of the documents that have them.

    A term that occurs `f` times in a document of norm `n` contributes `weight * (f + p n) / (f + q n) + bonus`: every
    variant of BM25 has this form. Documents that had no score before are appended to `touched`.

    :param allowed: One byte per document, 0 for a document to omit; empty if all count.
    :returns: How many documents are in `touched` now.
    """
    some = len(allowed) > 0
    for term in range(len(starts)):
        weight, bonus = weights[term], bonuses[term]
        for i in range(starts[term], ends[term]):
            document = documents[i]
            if some and allowed[document] == 0:
                continue
            norm = norms[document]
            count = np.float32(counts[i])
            contribution = weight * ((count + p * norm) / (count + q * norm)) + bonus
            score = scores[document]
            if score < np.float32(0.0):
                touched[found] = document
                found += 1
                scores[document] = contribution
            else:
                scores[document] = score + contribution
    return found


add_scores = compiled(
    *(
        types.int64(
            _I64,
            _I64,
            _F32,
            _F32,
            types.float32,
            types.float32,
            _I32,
            counts,
            _F32,
            _U8,
            _OUT_F32,
            _OUT_I32,
            types.int64,
        )
        for counts in (_U16, _U32)
    )
)(_add)


@compiled(types.boolean(types.float32, types.int32, types.float32, types.int32))
def _worse(score, position, other_score, other_position):  # type: ignore[no-untyped-def]
    return score < other_score or (score == other_score and position > other_position)


@compiled(types.void(_OUT_F32, _OUT_I32, types.int64, types.int64))
def _sift_down(scores, positions, size, parent):  # type: ignore[no-untyped-def]
    score, position = scores[parent], positions[parent]
    child = 2 * parent + 1
    while child < size:
        if child + 1 < size and _worse(scores[child + 1], positions[child + 1], scores[child], positions[child]):
            child += 1
        if not _worse(scores[child], positions[child], score, position):
            break
        scores[parent], positions[parent] = scores[child], positions[child]
        parent, child = child, 2 * child + 1
    scores[parent], positions[parent] = score, position


@compiled(types.int64(_OUT_F32, _I32, types.int64, _I32, _OUT_F32, _OUT_I32))
def select_best(scores, touched, found, positions, best_scores, best_positions):  # type: ignore[no-untyped-def]
    """
    Take the best of the touched documents, best first, equal scores in the order of their positions.

    Afterwards `scores` is untouched everywhere, as before the query.

    :param positions: Where each document stands in the collection; below 0 where it has been removed.
    :returns: How many entries of `best_scores` and `best_positions` were written.
    """
    k, size = len(best_scores), 0
    for i in range(found):
        document = touched[i]
        score = scores[document]
        scores[document] = UNTOUCHED
        position = positions[document]
        if position < 0:
            continue
        if size < k:
            best_scores[size], best_positions[size] = score, position
            size += 1
            if size == k:
                for parent in range(k // 2 - 1, -1, -1):
                    _sift_down(best_scores, best_positions, k, parent)
        elif _worse(best_scores[0], best_positions[0], score, position):
            best_scores[0], best_positions[0] = score, position
            _sift_down(best_scores, best_positions, k, 0)
    if size < k:
        for parent in range(size // 2 - 1, -1, -1):
            _sift_down(best_scores, best_positions, size, parent)
    for last in range(size - 1, 0, -1):  # heap sort: the worst goes to the end
        best_scores[0], best_scores[last] = best_scores[last], best_scores[0]
        best_positions[0], best_positions[last] = best_positions[last], best_positions[0]
        _sift_down(best_scores, best_positions, last, 0)
    return size
