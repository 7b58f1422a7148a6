"""
The inner loops of BM25, compiled by numba: counting terms into postings, adding up scores, selecting the best.

Arrays in, arrays out; nothing here knows what a term or a document is. All signatures are explicit and read-only, so
that arrays mapped from a file need no second compilation. Importing this module compiles the loops, which takes
seconds; numba caches them on disk. So `postings.py` imports it only at the first build or search.
"""

from collections.abc import Callable
from typing import Any

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
_OUT_I64, _OUT_U32, _OUT_U8 = types.int64[::1], types.uint32[::1], types.uint8[::1]

UNTOUCHED = np.float32(-1.0)  # stands for "no score yet": contributions are never negative
# When a search stops to read all postings (`add_scores`), chosen by the time of queries over a million passages.
LOOKED_AT = 10_000  # among how many documents, at least, the k-th best score is looked for
ROUNDING = np.float32(1e-4)  # what share of the highest sum is left for the rounding of sums
FEW = 16  # candidates are looked up one by one if so many postings are left for each of them
LEFT = 2000  # postings that must be left to look for candidates in a list of documents
LEFT_SHARE = 0.2  # the same for each document of the index, where all documents are looked through
SURE = np.float32(0.3)  # and what share of the k-th best score candidates must have by then
STRETCH = 128  # documents that are looked through as one


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


@compiled(types.void(_I32, _U32, _U16, types.int32, _OUT_I64))
def find_most(documents, counts, places, first, most):  # type: ignore[no-untyped-def]
    """
    Write for each different length the most often that a document of this length has a term.

    :param places: For each document, numbered from `first`, the place of its length among the different ones.
    """
    for i in range(len(documents)):
        place = places[documents[i] - first]
        if counts[i] > most[place]:
            most[place] = counts[i]


@compiled(types.void(_I32, _U16, types.int32, _I64, _OUT_U32))
def number_impacts(documents, places, first, starts, counts):  # type: ignore[no-untyped-def]
    """Replace each count by `starts[place] + count - 1`, which is one number for each pair of a length and a count."""
    for i in range(len(documents)):
        counts[i] += starts[places[documents[i] - first]] - 1


@compiled(types.void(_U32, _OUT_U8))
def mark(codes, used):  # type: ignore[no-untyped-def]
    """Set `used` to 1 for each code."""
    for i in range(len(codes)):
        used[codes[i]] = 1


@compiled(types.void(_U32, _OUT_U32))
def recode(numbers, codes):  # type: ignore[no-untyped-def]
    """Replace each code by its number."""
    for i in range(len(codes)):
        codes[i] = numbers[codes[i]]


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


def for_codes(result: Any, *arguments: Any) -> Callable[[Any], Any]:
    """Return a compiler for functions of these arguments, of which `None` stands for the codes of either width."""
    return compiled(*(result(*(codes if one is None else one for one in arguments)) for codes in (_U16, _U32)))


@for_codes(types.void, _I64, _I32, None, _U32, _I64, _I32, _OUT_I64, _OUT_I32, _OUT_U32)
def merge_postings(  # type: ignore[no-untyped-def]
    indptr, documents, codes, numbers, terms, positions, head, merged_documents, merged_codes
):
    """
    Append a block's postings of documents still there, under their positions, to those of the merged terms.

    :param numbers: For each code of the block, that of the merged postings.
    """
    for term in range(len(indptr) - 1):
        target = terms[term]
        for i in range(indptr[term], indptr[term + 1]):
            position = positions[documents[i]]
            if position >= 0:
                merged_documents[head[target]] = position
                merged_codes[head[target]] = numbers[codes[i]]
                head[target] += 1


@compiled(types.void(_I64, _OUT_I32, _OUT_U32))
def sort_postings(indptr, documents, codes):  # type: ignore[no-untyped-def]
    """Put the documents of each term in ascending order, and their codes with them."""
    for term in range(len(indptr) - 1):
        start, end = indptr[term], indptr[term + 1]
        ascends = True
        for i in range(start + 1, end):
            if documents[i] < documents[i - 1]:
                ascends = False
                break
        if not ascends:
            order = np.argsort(documents[start:end])
            documents[start:end] = documents[start:end][order]
            codes[start:end] = codes[start:end][order]


@compiled(types.float32(_OUT_F32, _I32, types.int64, _I32, types.int64))
def kth_best(scores, touched, found, positions, k):  # type: ignore[no-untyped-def]
    """Return the `k`-th best score of the touched documents that are still there; -1 if there are fewer."""
    best = np.full(k, UNTOUCHED, np.float32)  # a heap: the worst of them is the first
    for i in range(found):
        document = touched[i]
        score = scores[document]
        if score <= best[0] or positions[document] < 0:
            continue
        parent, child = 0, 1
        while child < k:
            if child + 1 < k and best[child + 1] < best[child]:
                child += 1
            if best[child] >= score:
                break
            best[parent] = best[child]
            parent, child = child, 2 * child + 1
        best[parent] = score
    return best[0]


@compiled(types.int64(types.float32, _OUT_F32, _OUT_I32, types.int64))
def count_at_least(least, scores, touched, found):  # type: ignore[no-untyped-def]
    """Count the touched documents with at least this score."""
    size = 0
    for i in range(found):
        if scores[touched[i]] >= least:
            size += 1
    return size


@compiled(types.int32[::1](types.float32, _OUT_F32, _OUT_I32, types.int64))
def _at_least(least, scores, touched, found):  # type: ignore[no-untyped-def]
    """Return the touched documents with at least this score, ascending."""
    chosen, size = np.empty(found, np.int32), 0
    for i in range(found):
        if scores[touched[i]] >= least:
            chosen[size] = touched[i]
            size += 1
    chosen = chosen[:size].copy()
    chosen.sort()
    return chosen


@compiled(types.int64(types.float32, _OUT_F32, _OUT_I32))
def gather(least, scores, touched):  # type: ignore[no-untyped-def]
    """List all documents with at least this score in `touched`, ascending, and return how many they are."""
    found = 0
    for start in range(0, len(scores), STRETCH):
        part = scores[start : start + STRETCH]
        high = np.int32(0)
        for i in range(len(part)):  # this loop compares many at a time
            high += np.int32(part[i] >= least)
        if high:
            for i in range(len(part)):
                if part[i] >= least:
                    touched[found] = start + i
                    found += 1
    return found


@compiled(types.int64(_I32, types.int64, types.int64, types.int32))
def _skip_to(documents, place, end, wanted):  # type: ignore[no-untyped-def]
    """Return the first place from `place` on, below `end`, whose document is at least `wanted`; else `end`."""
    step = 1
    while place + step < end and documents[place + step] < wanted:
        place += step
        step *= 2
    high = min(place + step, end)
    while place < high:
        middle = (place + high) // 2
        if documents[middle] < wanted:
            place = middle + 1
        else:
            high = middle
    return place


@compiled(types.Tuple((types.float32, types.int64))(_I64, _I64, _F32, _F32, _OUT_F32))
def _in_all(starts, ends, weights, bonuses, peaks):  # type: ignore[no-untyped-def]
    """Return the most that all terms together can add to a score, and how many postings they have."""
    rest, postings = np.float32(0.0), 0
    for term in range(len(starts)):
        rest += weights[term] * peaks[term] + bonuses[term]
        postings += ends[term] - starts[term]
    return rest, postings


_TERM = (types.int64, types.int64, types.float32, types.float32, _I32, None, _F32)


@for_codes(types.void, *_TERM, _I32, types.int64, _OUT_F32)
def look_up(place, end, weight, bonus, documents, codes, shares, wanted, size, scores):  # type: ignore[no-untyped-def]
    """Add what a term counts in the first `size` wanted documents, which ascend."""
    for i in range(size):
        document = wanted[i]
        place = _skip_to(documents, place, end, document)
        if place == end:
            break
        if documents[place] == document:
            scores[document] += weight * shares[codes[place]] + bonus


@for_codes(types.float32, *_TERM, _OUT_F32)
def read_densely(place, end, weight, bonus, documents, codes, shares, scores):  # type: ignore[no-untyped-def]
    """Add what a term counts in all its postings, and return its greatest share."""
    peak = np.float32(0.0)
    for i in range(place, end):
        document, share = documents[i], shares[codes[i]]
        peak = share if share > peak else peak
        score = scores[document]
        scores[document] = (score if score > np.float32(0.0) else np.float32(0.0)) + (weight * share + bonus)
    return peak


_FOUND = types.Tuple((types.int64, types.float32))


@for_codes(_FOUND, *_TERM, _U8, types.float32, _OUT_F32, _OUT_I32, types.int64)
def read_some(  # type: ignore[no-untyped-def]
    place, end, weight, bonus, documents, codes, shares, allowed, least, scores, touched, found
):
    """Do the same for documents that are allowed and have at least a score; list those that had none in `touched`."""
    some, peak = len(allowed) > 0, np.float32(0.0)
    for i in range(place, end):
        document = documents[i]
        score = scores[document]
        if score < least or (some and allowed[document] == 0):
            continue
        share = shares[codes[i]]
        peak = share if share > peak else peak
        contribution = weight * share + bonus
        if score < np.float32(0.0):
            touched[found] = document
            found += 1
            scores[document] = contribution
        else:
            scores[document] = score + contribution
    return found, peak


_TERMS = (_I64, _I64, _F32, _F32, _OUT_F32, _I32, None, _F32)


@for_codes(types.int64, *_TERMS, _U8, _I32, types.int64, _OUT_F32, _OUT_I32, types.int64)
def add_scores(  # type: ignore[no-untyped-def]
    starts, ends, weights, bonuses, peaks, documents, codes, shares, allowed, positions, k, scores, touched, found
):
    """
    Add the contributions of a query's terms to the scores of the documents that have them.

    A term contributes `weight * share + bonus`; `scoring.py` says what the share is. Documents that had no score before
    are appended to `touched`.

    As soon as the terms that are left add less than the `k`-th best score so far, documents without the others cannot
    be among the best `k`, and are passed over. The best `k` are the same (MaxScore: Turtle & Flood, "Query
    evaluation: strategies and optimizations", Information Processing & Management 31, 1995).

    :param starts: Of the terms' postings, those of the greatest `weight + bonus` first.
    :param peaks: For each term the greatest share of its postings, or 1 where that is not known; it is written where
        all postings were read.
    :param documents: Ascending within a term. A posting's share is `shares[codes[i]]`.
    :param allowed: One byte per document, 0 for a document to omit; empty if all count.
    :param positions: Below 0 where a document has been removed.
    :returns: How many documents are in `touched` now.
    """
    rest, postings = _in_all(starts, ends, weights, bonuses, peaks)
    rounding, least = ROUNDING * rest, UNTOUCHED  # who has a lower score so far is passed over
    candidates, size = np.empty(0, np.int32), 0  # those who have not, ascending, once they are few
    for term in range(len(starts)):
        weight, bonus, place, end = weights[term], bonuses[term], starts[term], ends[term]
        rest -= weight * peaks[term] + bonus
        postings -= end - place
        if size:
            look_up(place, end, weight, bonus, documents, codes, shares, candidates, size, scores)
            continue
        found, peak = read_some(
            place, end, weight, bonus, documents, codes, shares, allowed, least, scores, touched, found
        )
        peaks[term] = peak if len(allowed) == 0 and least < np.float32(0.0) else peaks[term]
        if found >= k and postings > LEFT:
            # among the documents of the first terms, which have the best scores so far
            most = kth_best(scores, touched, min(found, max(LOOKED_AT, 4 * k)), positions, k) - rest - rounding
            if most > np.float32(0.0):
                least = max(least, most)
                if FEW * count_at_least(least, scores, touched, found) < postings:
                    candidates = _at_least(least, scores, touched, found)
                    size = len(candidates)
    return found


@for_codes(types.int64, *_TERMS, _I32, types.int64, _OUT_F32, _OUT_I32)
def add_densely(  # type: ignore[no-untyped-def]
    starts, ends, weights, bonuses, peaks, documents, codes, shares, positions, k, scores, touched
):
    """
    Do what `add_scores` does where a good part of all documents has one of the terms, and all documents are allowed.

    No list is kept of who has a score. In the end all scores are looked through, and those documents are in `touched`
    that may be among the best `k`.

    :returns: How many documents are in `touched`.
    """
    rest, postings = _in_all(starts, ends, weights, bonuses, peaks)
    rounding = ROUNDING * rest
    least, found, looks = np.float32(0.0), 0, 1
    first, size = starts[0], 0  # of the documents among which the k-th best score is looked for
    for term in range(len(starts)):
        weight, bonus, place, end = weights[term], bonuses[term], starts[term], ends[term]
        rest -= weight * peaks[term] + bonus
        postings -= end - place
        if found:
            look_up(place, end, weight, bonus, documents, codes, shares, touched, found, scores)
            continue
        peaks[term] = read_densely(place, end, weight, bonus, documents, codes, shares, scores)
        if size < LOOKED_AT and end - place > size:
            first, size = place, min(end - place, max(LOOKED_AT, 4 * k))
        is_last = term == len(starts) - 1
        if size >= k and (is_last or postings > LEFT_SHARE * looks * len(scores)):
            most = kth_best(scores, documents[first : first + size], size, positions, k)
            least = max(least, most - rest - rounding)
            if not is_last and least > SURE * most:
                looks += 1
                found = gather(least, scores, touched)
                if FEW * found >= postings:
                    found = 0
    return found if found else gather(least, scores, touched)


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
        if size == k and score < best_scores[0]:
            continue
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
