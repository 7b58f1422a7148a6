"""
BM25 over texts: build an index, search it, update it in proportion to the change, save it and open it by memory map.

bm25s stores the finished score of every posting. One document more or fewer changes the average length and every
inverse document frequency, so there every change means a new index. This index stores what does not change, how often
a term occurs in a document, and finishes the score while it reads the postings of the query's terms: updates stay
exact, `method`, `k1` and `b` may differ between two uses of the same postings, and nothing but those is touched. The
formulas are those of bm25s (Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020) and its stop words are used; a test
compares the scores with bm25s's.

How a text becomes terms is in `analysis.py`, the loops are in `kernels.py`, the files in `files.py`.
"""

import json
import math
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.bm25 import files
from haystack_ce_ranker.bm25.analysis import Analysis, number_terms
from haystack_ce_ranker.bm25.files import IndexFilesError

METHODS = ("lucene", "robertson", "atire", "bm25l", "bm25plus")
_DEFAULT_DELTA = {"bm25l": 0.5, "bm25plus": 1.0}

# A small segment of new documents beside the large one, and documents marked as removed, cost every search a little.
# When they are more than this share of the index (and this many), all is merged into one segment; no text is read.
_MERGE_SHARE, _MERGE_DOCUMENTS = 0.1, 1000
_NO_MASK: NDArray[np.uint8] = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Scoring:
    """
    A variant of BM25 and its parameters.

    :param method: `"lucene"` (the inverse document frequency is never negative), `"robertson"` (it is cut at 0, so
        a term that half of the documents have counts nothing), `"atire"`, `"bm25l"` or `"bm25plus"` (Lv & Zhai, CIKM
        2011: long documents are not punished below a bound; a term that a document lacks adds nothing).
    :param k1: How slowly repetitions saturate, not negative.
    :param b: How much a document's length counts, 0 to 1.
    :param delta: The bound of `bm25l` and `bm25plus`, not negative; None for 0.5 and 1.0. The others have none.
    :raises ValueError: If a value is out of range.
    """

    method: str = "lucene"
    k1: float = 1.2
    b: float = 0.75
    delta: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, but got {self.method!r}")
        for name, value, highest in (("k1", self.k1, math.inf), ("b", self.b, 1.0), ("delta", self.delta, math.inf)):
            if value is None and name == "delta":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= highest:
                limits = "between 0 and 1" if name == "b" else "not negative"
                raise ValueError(f"{name} must be a number, {limits}, but got {value!r}")
            if math.isinf(value):
                raise ValueError(f"{name} must be finite, but got {value!r}")
        if self.delta is not None and self.method not in _DEFAULT_DELTA:
            raise ValueError(
                f"delta is a parameter of {' and '.join(_DEFAULT_DELTA)}, but method is {self.method!r}: leave it out"
            )

    @property
    def bound(self) -> float:
        """`delta`, or the method's default for it; 0 where it has none."""
        return self.delta if self.delta is not None else _DEFAULT_DELTA.get(self.method, 0.0)

    def idf(self, document_count: int, n_documents: int) -> float:
        """
        Return the inverse document frequency.

        :param document_count: Documents that have the term, at least 1.
        :param n_documents: Documents of the collection.
        """
        rest = n_documents - document_count
        if self.method == "lucene":
            return math.log(1.0 + (rest + 0.5) / (document_count + 0.5))
        if self.method == "robertson":
            return math.log(max(1.0, (rest + 0.5) / (document_count + 0.5)))
        if self.method == "atire":
            return math.log(n_documents / document_count)
        if self.method == "bm25l":
            return math.log((n_documents + 1.0) / (document_count + 0.5))
        return math.log((n_documents + 1.0) / document_count)

    def weight_and_bonus(self, idf: float) -> tuple[float, float]:
        """Return `weight` and `bonus` of `kernels.add_scores` for a term."""
        if self.method in ("lucene", "robertson"):
            return idf, 0.0
        return idf * (self.k1 + 1.0), idf * self.bound if self.method == "bm25plus" else 0.0

    @property
    def norm_factors(self) -> tuple[float, float]:
        """`p` and `q` of `kernels.add_scores`."""
        return (self.bound, self.k1 + self.bound) if self.method == "bm25l" else (0.0, self.k1)


class Hits(NamedTuple):
    """What a search found, best first: `positions` (`int32`) of documents, and their `scores` (`float32`)."""

    positions: NDArray[np.int32]
    scores: NDArray[np.float32]


class Allowed(NamedTuple):
    """Documents that a search may return, made by `BM25Index.allow`; valid for that index alone."""

    owner: "BM25Index"
    mask: NDArray[np.uint8]


class Segment(NamedTuple):
    """
    Postings by term: those of term `t` are `documents[indptr[t] : indptr[t + 1]]`, with `counts` beside them.

    Documents are *slots*: numbers that stay the same when others come and go.
    """

    terms: dict[str, int]
    indptr: NDArray[np.int64]
    documents: NDArray[np.int32]
    counts: NDArray[np.uint16] | NDArray[np.uint32]

    def range_of(self, term: str) -> tuple[int, int]:
        """Return where the postings of `term` begin and end."""
        number = self.terms.get(term, -1)
        return (int(self.indptr[number]), int(self.indptr[number + 1])) if number >= 0 else (0, 0)


class Recent(NamedTuple):
    """The documents since the last merge, as numbered words, so that their segment can be made again with more."""

    terms: dict[str, int]
    numbers: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1


class _Scratch(NamedTuple):
    """Room for one search at a time: a score per slot, -1 between searches, and the slots that have one."""

    scores: NDArray[np.float32]
    touched: NDArray[np.int32]


def _kernels() -> ModuleType:
    """Return the compiled loops; the first call in a process loads numba, the first on a machine compiles."""
    from haystack_ce_ranker.bm25 import kernels

    return kernels


def _narrow(counts: NDArray[np.uint32]) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Return the counts in two bytes each where they fit: no ordinary text repeats a word 65,536 times."""
    return counts.astype(np.uint16) if len(counts) == 0 or counts.max() < 2**16 else counts


def _segment(recent: Recent, first_slot: int) -> tuple[Segment, NDArray[np.int32]]:
    """Sort numbered words by term; returns the segment and the number of terms of each document."""
    kernels = _kernels()
    document_counts = np.zeros(len(recent.terms), np.int64)
    lengths = np.zeros(len(recent), np.int32)
    kernels.count_documents(recent.numbers, recent.starts, document_counts, lengths)
    indptr = np.zeros(len(recent.terms) + 1, np.int64)
    np.cumsum(document_counts, out=indptr[1:])
    documents, counts = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.uint32)
    kernels.fill_postings(recent.numbers, recent.starts, indptr, np.int32(first_slot), documents, counts)
    return Segment(recent.terms, indptr, documents, _narrow(counts)), lengths


def _numbered(texts: Iterable[str], analysis: Analysis, terms: dict[str, int]) -> Recent:
    numbers, starts = number_terms(texts, analysis, terms)
    return Recent(terms, _as_array(numbers, np.int32), _as_array(starts, np.int64))


def _as_array(values: "array[int]", dtype: Any) -> NDArray[Any]:
    return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)


_EMPTY_SEGMENT = Segment({}, np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint16))
_NO_RECENT = Recent({}, np.zeros(0, np.int32), np.zeros(1, np.int64))


class BM25Index:
    """
    A collection of texts, searchable by BM25. It never changes: `update` returns another index that shares its
    postings.

    Safe to search from several threads at once, and while another thread updates it. The texts are not kept.
    Make one with `BM25Index.build(texts)` or `BM25Index.open(path)`.

    :param base: The postings of most documents.
    :param recent: The documents that came since the last merge.
    :param lengths: Terms of each slot, those of `base` first.
    :param positions: Where each slot stands in the collection, -1 when it was removed.
    """

    def __init__(
        self,
        *,
        analysis: Analysis,
        scoring: Scoring,
        base: Segment,
        recent: Recent,
        lengths: NDArray[np.int32],
        positions: NDArray[np.int32],
    ) -> None:
        self.analysis = analysis
        self.scoring = scoring
        self._base = base
        self._recent = recent
        self._lengths = lengths
        self._positions = positions

        n_base = len(lengths) - len(recent)
        self._added = _segment(recent, n_base)[0] if len(recent) else _EMPTY_SEGMENT
        present = positions >= 0
        self._n_documents = int(np.count_nonzero(present))
        self._some_removed = self._n_documents < len(positions)
        total = int(lengths.sum(where=present, dtype=np.int64))
        self.average_length = total / self._n_documents if self._n_documents else 0.0
        relative = lengths / self.average_length if self.average_length else np.zeros(len(lengths))
        self._norms = (1.0 - scoring.b + scoring.b * relative).astype(np.float32)
        self._document_counts: dict[str, int] = {}
        self._scratch: deque[_Scratch] = deque()
        self._base_files: tuple[Path, dict[str, files.Entry]] | None = None  # where the base is on disk already
        self.extra: dict[str, NDArray[Any]] = {}
        self.labels: dict[str, Any] = {}

    def __len__(self) -> int:
        return self._n_documents

    def __deepcopy__(self, memo: dict[int, Any]) -> "BM25Index":
        return self  # it never changes, so a copy of a component may share it

    @classmethod
    def build(
        cls, texts: Iterable[str], *, analysis: Analysis | None = None, scoring: Scoring | None = None
    ) -> "BM25Index":
        """
        Index texts.

        :param texts: One per document, in the order in which equal scores are returned. Read once, not kept.
        :param analysis: How a text becomes terms; None for `Analysis()`, English.
        :param scoring: The variant; None for `Scoring()`, Lucene's.
        """
        analysis = Analysis() if analysis is None else analysis
        words = _numbered(texts, analysis, {})
        base, lengths = _segment(words, 0) if len(words) else (_EMPTY_SEGMENT, np.zeros(0, np.int32))
        return cls(
            analysis=analysis,
            scoring=Scoring() if scoring is None else scoring,
            base=base,
            recent=_NO_RECENT,
            lengths=lengths,
            positions=np.arange(len(lengths), dtype=np.int32),
        )

    @classmethod
    def open(cls, path: str | Path, *, analysis: Analysis | None = None, scoring: Scoring | None = None) -> "BM25Index":
        """
        Open a saved index: its postings are mapped into memory, and come from disk as queries need them.

        Every byte is checked first. `extra` and `labels` of the opened index are those given to `save`.

        :param path: The folder.
        :param analysis: How queries will be analysed; the index must have been built alike. None for English.
        :param scoring: The variant, which need not be the one it was built with; None for `Scoring()`, Lucene's.
        :raises IndexFilesError: If there is no index, or it is damaged, of another format, or of another analysis.
        """
        analysis = Analysis() if analysis is None else analysis
        folder = Path(path)
        contents = files.read(folder)
        try:
            if contents.values["analysis"] != analysis.fingerprint():
                raise IndexFilesError(
                    f"it was made with the analysis {contents.values['analysis']}, "
                    f"but {analysis.fingerprint()} is needed"
                )
            index = cls._from_arrays(contents.arrays, analysis, Scoring() if scoring is None else scoring)
            index.labels = dict(contents.values["labels"])
        except (KeyError, TypeError, ValueError) as error:
            raise IndexFilesError(f"its arrays do not make an index: {error!r}") from error
        prefix = "extra-"
        index.extra = {
            name.removeprefix(prefix): array for name, array in contents.arrays.items() if name.startswith(prefix)
        }
        base = {name: entry for name, entry in contents.entries.items() if name.startswith("base-")}
        index._base_files = (folder.resolve(), base)
        return index

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, NDArray[Any]], analysis: Analysis, scoring: Scoring) -> "BM25Index":
        base = Segment(
            _unpack_terms(arrays["base-terms"]), arrays["base-indptr"], arrays["base-documents"], arrays["base-counts"]
        )
        recent = Recent(_unpack_terms(arrays["recent-terms"]), arrays["recent-numbers"], arrays["recent-starts"])
        sizes = (len(base.indptr) - len(base.terms), len(base.counts), int(base.indptr[-1]), len(arrays["positions"]))
        if sizes != (1, len(base.documents), len(base.documents), len(arrays["lengths"])):
            raise ValueError("their lengths do not agree")
        return cls(
            analysis=analysis,
            scoring=scoring,
            base=base,
            recent=recent,
            lengths=arrays["lengths"],
            positions=arrays["positions"],
        )

    def save(
        self,
        path: str | Path,
        *,
        extra: Mapping[str, NDArray[Any]] | None = None,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Save the index in a folder, over the one that is there: whenever this is interrupted, one of both is whole.

        After an update only what came since the last merge is written, and the arrays with an entry per document.

        :param path: The folder; made if it is not there. It should hold nothing else.
        :param extra: One-dimensional arrays to keep with the index.
        :param labels: Plain values to keep with the index.
        :raises OSError: If it cannot be written.
        """
        folder = Path(path).resolve()
        base: dict[str, NDArray[Any]] = {
            "base-terms": _pack_terms(self._base.terms),
            "base-indptr": self._base.indptr,
            "base-documents": self._base.documents,
            "base-counts": self._base.counts,
        }
        rest: dict[str, NDArray[Any]] = {
            "recent-terms": _pack_terms(self._recent.terms),
            "recent-numbers": self._recent.numbers,
            "recent-starts": self._recent.starts,
            "lengths": self._lengths,
            "positions": self._positions,
            **{f"extra-{name}": array for name, array in (extra or {}).items()},
        }
        values = {"analysis": self.analysis.fingerprint(), "documents": len(self), "labels": dict(labels or {})}
        known = self._base_files[1] if self._base_files is not None and self._base_files[0] == folder else {}
        entries = files.write(folder, {**base, **rest}, values, known)
        self._base_files = (folder, {name: entries[name] for name in base})

    def with_scoring(self, scoring: Scoring) -> "BM25Index":
        """Return the same index with other formulas or parameters; nothing is built again."""
        index = BM25Index(
            analysis=self.analysis,
            scoring=scoring,
            base=self._base,
            recent=self._recent,
            lengths=self._lengths,
            positions=self._positions,
        )
        index._base_files = self._base_files
        return index

    def update(self, previous: Sequence[int] | NDArray[np.integer[Any]], texts: Iterable[str]) -> "BM25Index":
        """
        Return the index of a changed collection; this one stays as it is.

        Only the new texts are analysed. Then the documents that came since the last merge are sorted again, and when
        these and the removed ones are more than a tenth of the index, all postings are merged into one segment.
        Besides, a few arrays with an entry per document are made. The scores are those of an index built from the
        texts.

        :param previous: For each document of the changed collection, in its order, the position it has in this index,
            or -1 for a new or changed text. Positions that are missing have been removed.
        :param texts: The texts of those with -1, in their order.
        :raises ValueError: If a position is out of range or there twice, or the number of texts is another.
        """
        before = np.asarray(previous, np.int64)
        if before.ndim != 1:
            raise ValueError(f"previous must have one dimension, but has {before.ndim}")
        if len(before) and not -1 <= before.min() <= before.max() < self._n_documents:
            raise ValueError(
                f"previous must hold -1 or positions below {self._n_documents}, "
                f"but goes from {before.min()} to {before.max()}"
            )
        kept = before >= 0
        # One more, for the slots that are gone: -1 is the last.
        new_position = np.full(self._n_documents + 1, -1, np.int32)
        new_position[before[kept]] = np.flatnonzero(kept)
        if np.count_nonzero(new_position >= 0) != np.count_nonzero(kept):
            raise ValueError("previous must hold a position once, but holds one twice")

        n_known = len(self._recent.numbers)
        words = _numbered(texts, self.analysis, dict(self._recent.terms))
        expected = len(before) - int(np.count_nonzero(kept))
        if len(words) != expected:
            raise ValueError(f"texts must hold a text for each of the {expected} new documents, but holds {len(words)}")
        recent = Recent(
            words.terms,
            np.concatenate([self._recent.numbers, words.numbers]),
            np.concatenate([self._recent.starts, words.starts[1:] + n_known]),
        )
        positions = np.concatenate([new_position[self._positions], np.flatnonzero(~kept).astype(np.int32)])
        lengths = np.concatenate([self._lengths, _lengths(words)])
        index = BM25Index(
            analysis=self.analysis,
            scoring=self.scoring,
            base=self._base,
            recent=recent,
            lengths=lengths,
            positions=positions,
        )
        index._base_files = self._base_files
        removed = len(positions) - len(index)
        return index.merged() if len(recent) + removed > max(_MERGE_DOCUMENTS, _MERGE_SHARE * len(index)) else index

    def merged(self) -> "BM25Index":
        """Return the same index in one segment without removed documents; no text is analysed for it."""
        if not len(self._recent) and not self._some_removed:
            return self
        kernels = _kernels()
        segments = (self._base, self._added)
        terms: dict[str, int] = {}
        counts = np.zeros(len(self._base.terms) + len(self._added.terms), np.int64)
        targets: list[NDArray[np.int64]] = []  # for each term of a segment, its number among the merged terms
        for segment in segments:
            present_counts = np.zeros(len(segment.terms), np.int64)
            kernels.count_all_present(segment.indptr, segment.documents, self._positions, present_counts)
            numbers = np.full(len(segment.terms), -1, np.int64)
            for term, number in segment.terms.items():
                if present_counts[number]:
                    numbers[number] = terms.setdefault(term, len(terms))
            counts[numbers[numbers >= 0]] += present_counts[numbers >= 0]
            targets.append(numbers)
        indptr = np.zeros(len(terms) + 1, np.int64)
        np.cumsum(counts[: len(terms)], out=indptr[1:])
        head = indptr[:-1].copy()
        documents, frequencies = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.uint32)
        for segment, numbers in zip(segments, targets, strict=True):
            kernels.merge_postings(
                segment.indptr,
                segment.documents,
                segment.counts,
                numbers,
                self._positions,
                head,
                documents,
                frequencies,
            )
        present = self._positions >= 0
        lengths = np.empty(self._n_documents, np.int32)
        lengths[self._positions[present]] = self._lengths[present]
        return BM25Index(
            analysis=self.analysis,
            scoring=self.scoring,
            base=Segment(terms, indptr, documents, _narrow(frequencies)),
            recent=_NO_RECENT,
            lengths=lengths,
            positions=np.arange(self._n_documents, dtype=np.int32),
        )

    def allow(self, mask: NDArray[np.bool_]) -> Allowed:
        """
        Prepare a filter, to be used in many searches.

        :param mask: For each document of the collection, whether a search may return it.
        :raises ValueError: If it has another length than the collection.
        """
        mask = np.asarray(mask, np.bool_)
        if mask.shape != (self._n_documents,):
            raise ValueError(
                f"mask must have one entry for each of the {self._n_documents} documents, but has shape {mask.shape}"
            )
        slots = np.zeros(len(self._positions), np.uint8)
        present = self._positions >= 0
        slots[present] = mask[self._positions[present]]
        return Allowed(self, slots)

    def document_count(self, term: str) -> int:
        """Return how many documents of the collection have this term, as `analysis` makes it."""
        start, end = self._base.range_of(term)
        more_start, more_end = self._added.range_of(term)
        if not self._some_removed or (start == end and more_start == more_end):
            return end - start + more_end - more_start
        count = self._document_counts.get(term)
        if count is None:  # counted once per term; an index that never changed does not come here
            present = _kernels().count_present
            count = int(
                present(start, end, self._base.documents, self._positions)
                + present(more_start, more_end, self._added.documents, self._positions)
            )
            self._document_counts[term] = count
        return count

    def search(self, query: str, top_k: int = 50, *, allowed: Allowed | None = None) -> Hits:
        """
        Return the best documents of a query.

        Only documents that have one of its terms are returned, so a query of stop words or of unknown words finds
        none. A term that the query repeats counts as often. Equal scores come in the order of the collection.

        :param query: Analysed as the texts were; see `Analysis.query_terms` for single letters.
        :param top_k: The most documents to return, at least 1.
        :param allowed: Leave out all others; the best `top_k` of these are returned.
        :raises ValueError: If `top_k` is not positive or `allowed` was made for another index.
        """
        return self.search_terms(self.analysis.query_terms(query), top_k, allowed=allowed)

    def search_terms(self, terms: Iterable[str], top_k: int = 50, *, allowed: Allowed | None = None) -> Hits:
        """Return the best documents of a query that is analysed already; see `search`."""
        if top_k <= 0:
            raise ValueError(f"top_k must be > 0, but got {top_k}")
        if allowed is not None and allowed.owner is not self:
            raise ValueError("allowed was made for another index: make it again with this index's allow()")
        weights: list[float] = []
        bonuses: list[float] = []
        base: list[tuple[int, int]] = []
        added: list[tuple[int, int]] = []
        for term, repeats in Counter(terms).items():
            document_count = self.document_count(term)
            if not document_count:
                continue
            weight, bonus = self.scoring.weight_and_bonus(self.scoring.idf(document_count, self._n_documents))
            weights.append(repeats * weight)
            bonuses.append(repeats * bonus)
            base.append(self._base.range_of(term))
            added.append(self._added.range_of(term))
        if not weights:
            return Hits(np.zeros(0, np.int32), np.zeros(0, np.float32))

        kernels = _kernels()
        weight_array, bonus_array = np.array(weights, np.float32), np.array(bonuses, np.float32)
        p, q = self.scoring.norm_factors
        mask = _NO_MASK if allowed is None else allowed.mask
        scratch = self._borrow()
        found = 0
        for segment, ranges in ((self._base, base), (self._added, added)):
            if not len(segment.documents):
                continue
            bounds = np.array(ranges, np.int64)
            found = kernels.add_scores(
                np.ascontiguousarray(bounds[:, 0]),
                np.ascontiguousarray(bounds[:, 1]),
                weight_array,
                bonus_array,
                np.float32(p),
                np.float32(q),
                segment.documents,
                segment.counts,
                self._norms,
                mask,
                scratch.scores,
                scratch.touched,
                found,
            )
        size = min(top_k, found)
        scores, positions = np.empty(size, np.float32), np.empty(size, np.int32)
        size = (
            kernels.select_best(scratch.scores, scratch.touched, found, self._positions, scores, positions)
            if size
            else 0
        )
        self._scratch.append(scratch)
        return Hits(positions[:size], scores[:size])

    def matching(self, query: str) -> NDArray[np.int64]:
        """Return the positions, ascending, of all documents that have a term of the query: all it could ever find."""
        found = np.zeros(self._n_documents, np.bool_)
        for term in set(self.analysis.query_terms(query)):
            for segment in (self._base, self._added):
                start, end = segment.range_of(term)
                positions = self._positions[segment.documents[start:end]]
                found[positions[positions >= 0]] = True
        return np.flatnonzero(found)

    def decisive(self, query: str, top_k: int, allowed: Allowed) -> NDArray[np.integer[Any]]:
        """
        Return the positions of all documents that decide what a filtered search finds.

        Those are the documents, allowed or not, that score no less than the last one found; if fewer than `top_k` are
        found, all that match. As long as the filter lets the same ones of them through, the search finds the same.
        """
        found = self.search(query, top_k, allowed=allowed)
        if len(found.scores) < top_k:
            return self.matching(query)
        size = 4 * top_k
        while True:
            best = self.search(query, size)
            if len(best.scores) < size or best.scores[-1] < found.scores[-1]:
                return best.positions
            size *= 4

    def _borrow(self) -> _Scratch:
        try:
            return self._scratch.pop()  # deque's pop and append need no lock
        except IndexError:
            n_slots = len(self._lengths)
            return _Scratch(np.full(n_slots, -1.0, np.float32), np.empty(n_slots, np.int32))


def _lengths(words: Recent) -> NDArray[np.int32]:
    """Return how many terms each document has."""
    if not len(words.numbers):
        return np.zeros(len(words), np.int32)
    terms = np.concatenate([[0], np.cumsum(words.numbers >= 0)])
    return np.diff(terms[words.starts]).astype(np.int32)


def _pack_terms(terms: dict[str, int]) -> NDArray[np.uint8]:
    """Return the terms in the order of their numbers, which is that of the dictionary, as bytes of JSON."""
    return np.frombuffer(json.dumps(list(terms)).encode("ascii"), np.uint8)


def _unpack_terms(packed: NDArray[np.uint8]) -> dict[str, int]:
    return {term: number for number, term in enumerate(json.loads(packed.tobytes()))}
