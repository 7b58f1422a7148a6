"""
BM25 over texts: build an index, search it, update it in proportion to the change, save it and open it by memory map.

bm25s stores the finished score of every posting. One document more or fewer changes the average length and every
inverse document frequency, so bm25s needs a new index after every change. This index stores how often a term occurs in
a document, which does not change, and finishes the score while it reads the postings of the query's terms. So updates
are exact, the same postings serve any `method`, `k1` and `b`, and a search touches no other postings. A test compares
the scores with those of bm25s.

`analysis.py` turns a text into terms, `scoring.py` has the formulas, `postings.py` the postings, `kernels.py` the
loops, `files.py` the files.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import checks
from haystack_ce_ranker.bm25 import files
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.files import IndexFilesError
from haystack_ce_ranker.bm25.postings import (
    NO_RECENT,
    Block,
    Impacts,
    Recent,
    block_of,
    kernels,
    merge,
    pack_terms,
    unpack_terms,
)
from haystack_ce_ranker.bm25.scoring import Scoring
from haystack_ce_ranker.bm25.soundness import (
    require_codes,
    require_dtypes,
    require_postings,
    require_recent,
    require_slots,
)

# A small block of new documents beside the large one, and documents marked as removed, cost every search a little. When
# they are more than this share of the index (and this many), all are merged into one block, without reading a text.
_MERGE_SHARE, _MERGE_DOCUMENTS = 0.1, 1000
# From so many postings for each document on, all scores are looked through, and not only those of a list.
_DENSE_SHARE = 0.05
_NO_MASK: NDArray[np.uint8] = np.zeros(0, np.uint8)


class Hits(NamedTuple):
    """What a search found, best first: `positions` (`int32`) of documents, and their `scores` (`float32`)."""

    positions: NDArray[np.int32]
    scores: NDArray[np.float32]


class Allowed(NamedTuple):
    """Documents that a search may return, made by `BM25Index.allow`; valid for that index alone."""

    owner: "BM25Index"
    mask: NDArray[np.uint8]


class _Scratch(NamedTuple):
    """Room for one search: a score per slot, -1 between searches, and the slots that have a score."""

    scores: NDArray[np.float32]
    touched: NDArray[np.int32]


class BM25Index:
    """
    A collection of texts, searchable by BM25. It never changes: `update` returns another index that shares its
    postings.

    Safe to search from several threads at once, and while another thread updates it. The texts are not kept.
    Make one with `BM25Index.build(texts)` or `BM25Index.open(path)`.

    :param base: The postings of most documents.
    :param recent: The documents that came since the last merge.
    :param lengths: Terms of each slot that count (`Analysis.is_counted`), those of `base` first.
    :param positions: Where each slot stands in the collection, -1 when it was removed.
    """

    def __init__(
        self,
        *,
        analysis: Analysis,
        scoring: Scoring,
        base: Block,
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
        self._added, _ = block_of(recent, n_base)
        present = positions >= 0
        self._n_documents = int(np.count_nonzero(present))
        self._some_removed = self._n_documents < len(positions)
        total = int(lengths.sum(where=present, dtype=np.int64))
        self.average_length = total / self._n_documents if self._n_documents else 0.0
        self._shares = tuple(scoring.shares(*block.impacts, self.average_length) for block in (base, self._added))
        self._document_counts: dict[str, int] = {}
        self._scratch: deque[_Scratch] = deque()
        self._peaks: dict[tuple[bool, str], float] = {}
        self._base_files: tuple[Path, dict[str, files.Entry]] | None = None  # where the base is on disk already
        self.extra: dict[str, NDArray[Any]] = {}
        self.labels: dict[str, Any] = {}

    def __len__(self) -> int:
        return self._n_documents

    def __deepcopy__(self, memo: dict[int, Any]) -> "BM25Index":
        return self  # an index never changes, so a copy of a component may share it

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
        base, lengths = block_of(Recent.of(texts, analysis, {}), 0)
        return cls(
            analysis=analysis,
            scoring=Scoring() if scoring is None else scoring,
            base=base,
            recent=NO_RECENT,
            lengths=lengths,
            positions=np.arange(len(lengths), dtype=np.int32),
        )

    @classmethod
    def open(cls, path: str | Path, *, analysis: Analysis | None = None, scoring: Scoring | None = None) -> "BM25Index":
        """
        Open a saved index. Every byte is checked first.

        The postings are mapped into memory and come from disk as queries need them. `extra` and `labels` of the opened
        index are those given to `save`.

        :param path: The folder.
        :param analysis: How queries will be analysed. The index must have been built with the same. None for English.
        :param scoring: The variant, which may differ from the one it was built with; None for `Scoring()`, Lucene's.
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
            require_dtypes(contents.arrays)
            impacts = (contents.arrays[f"base-impact-{name}"] for name in ("counts", "lengths"))
            require_codes(files.stretches(folder, contents.entries["base-codes"]), *impacts)
            documents = files.stretches(folder, contents.entries["base-documents"])
            index = cls._from_arrays(contents.arrays, documents, analysis, Scoring() if scoring is None else scoring)
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
    def _from_arrays(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        documents: Iterable[NDArray[np.int32]],
        analysis: Analysis,
        scoring: Scoring,
    ) -> "BM25Index":
        base = Block(
            unpack_terms(arrays["base-terms"]),
            arrays["base-indptr"],
            arrays["base-documents"],
            arrays["base-codes"],
            Impacts(arrays["base-impact-counts"], arrays["base-impact-lengths"]),
        )
        recent = Recent(unpack_terms(arrays["recent-terms"]), arrays["recent-numbers"], arrays["recent-starts"])
        if (len(base.indptr) - len(base.terms), len(base.codes)) != (1, len(base.documents)):
            raise ValueError("their lengths do not agree")
        require_recent(len(recent.terms), recent.numbers, recent.starts)
        require_slots(arrays["lengths"], arrays["positions"])
        require_postings(base.indptr, len(base.documents), documents, len(arrays["lengths"]) - len(recent))
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
        Save the index in a folder, over the one that is there. If this is interrupted, one of the two is whole.

        After an update only the documents since the last merge are written, and the arrays with an entry per document.

        :param path: The folder; made if it is not there. It should hold nothing else.
        :param extra: One-dimensional arrays to keep with the index.
        :param labels: Plain values to keep with the index.
        :raises OSError: If it cannot be written.
        """
        folder = Path(path).resolve()
        base: dict[str, NDArray[Any]] = {
            "base-terms": pack_terms(self._base.terms),
            "base-indptr": self._base.indptr,
            "base-documents": self._base.documents,
            "base-codes": self._base.codes,
            "base-impact-counts": self._base.impacts.counts,
            "base-impact-lengths": self._base.impacts.lengths,
        }
        rest: dict[str, NDArray[Any]] = {
            "recent-terms": pack_terms(self._recent.terms),
            "recent-numbers": self._recent.numbers,
            "recent-starts": self._recent.starts,
            "lengths": self._lengths,
            "positions": self._positions,
            **{f"extra-{name}": array for name, array in ({} if extra is None else extra).items()},
        }
        values = {
            "analysis": self.analysis.fingerprint(),
            "documents": len(self),
            "labels": {} if labels is None else dict(labels),
        }
        known = self._base_files[1] if self._base_files is not None and self._base_files[0] == folder else {}
        entries = files.write(folder, {**base, **rest}, values, known)
        self._base_files = (folder, {name: entries[name] for name in base})

    def with_scoring(self, scoring: Scoring) -> "BM25Index":
        """Return the same index with other formulas or parameters; nothing is built again."""
        return self._with(scoring=scoring)

    def _with(self, **parts: Any) -> "BM25Index":
        """Return an index that differs from this one in some arguments of `__init__`."""
        own = {
            "analysis": self.analysis,
            "scoring": self.scoring,
            "base": self._base,
            "recent": self._recent,
            "lengths": self._lengths,
            "positions": self._positions,
        }
        index = BM25Index(**{**own, **parts})
        if index._base is self._base:
            index._base_files = self._base_files
        return index

    def update(self, previous: Sequence[int] | NDArray[np.integer[Any]], texts: Iterable[str]) -> "BM25Index":
        """
        Return the index of a changed collection; this one stays as it is.

        Only the new texts are analysed, but all documents since the last merge are sorted again, and a few arrays with
        an entry per document are made. When the documents since the last merge and the removed ones are more than a
        tenth of the index, all postings are merged into one block. The scores equal those of an index built anew from
        the texts.

        :param previous: For each document of the changed collection, in its order, the position it has in this index,
            or -1 for a new or changed text. Positions that are missing have been removed.
        :param texts: The texts of those with -1, in their order.
        :raises ValueError: If a position is out of range or occurs twice, or there are too many or too few texts.
        """
        before = np.asarray(previous, np.int64)
        kept, new_position = self._moved(before)
        words = Recent.of(texts, self.analysis, dict(self._recent.terms))
        expected = len(before) - int(np.count_nonzero(kept))
        if len(words) != expected:
            raise ValueError(f"texts must hold a text for each of the {expected} new documents, but holds {len(words)}")
        positions = np.concatenate([new_position[self._positions], np.flatnonzero(~kept).astype(np.int32)])
        index = self._with(
            recent=self._recent.followed_by(words),
            lengths=np.concatenate([self._lengths, words.lengths()]),
            positions=positions,
        )
        to_merge = len(index._recent) + len(positions) - len(index)
        return index.merged() if to_merge > max(_MERGE_DOCUMENTS, _MERGE_SHARE * len(index)) else index

    def _moved(self, before: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """
        Check what `update` was given.

        :param before: Its `previous`.
        :returns: For each document of the changed collection whether it was here before, and for each document here
            where it goes, -1 where it is removed; one more entry of -1 serves the slots without a document.
        """
        if before.ndim != 1:
            raise ValueError(f"previous must have one dimension, but has {before.ndim}")
        if len(before) and not -1 <= before.min() <= before.max() < self._n_documents:
            raise ValueError(
                f"previous must hold -1 or positions below {self._n_documents}, "
                f"but goes from {before.min()} to {before.max()}"
            )
        kept = before >= 0
        new_position = np.full(self._n_documents + 1, -1, np.int32)
        new_position[before[kept]] = np.flatnonzero(kept)
        if np.count_nonzero(new_position >= 0) != np.count_nonzero(kept):
            raise ValueError("previous must hold a position once, but holds one twice")
        return kept, new_position

    def merged(self) -> "BM25Index":
        """Return the same index in one block without removed documents; no text is analysed for it."""
        if not len(self._recent) and not self._some_removed:
            return self
        present = self._positions >= 0
        lengths = np.empty(self._n_documents, np.int32)
        lengths[self._positions[present]] = self._lengths[present]
        return self._with(
            base=merge((self._base, self._added), self._positions),
            recent=NO_RECENT,
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
        return self._count(term, self._base.range_of(term), self._added.range_of(term))

    def _count(self, term: str, base: tuple[int, int], added: tuple[int, int]) -> int:
        """Count the documents of a term, given where its postings begin and end in both blocks."""
        postings = base[1] - base[0] + added[1] - added[0]
        if not self._some_removed or not postings:
            return postings
        count = self._document_counts.get(term)
        if count is None:  # counted once per term; an index that never changed does not come here
            present = kernels().count_present
            count = int(
                present(*base, self._base.documents, self._positions)
                + present(*added, self._added.documents, self._positions)
            )
            self._document_counts[term] = count
        return count

    def search(self, query: str, top_k: int = 50, *, allowed: Allowed | None = None) -> Hits:
        """
        Return the best documents of a query.

        Only documents that have one of its terms are returned, so a query of unknown words finds none. A term counts
        as often as the query repeats it. Equal scores come in the order of the collection.

        :param query: Analysed as the texts were; see `Analysis.query_terms` for stop words and single letters.
        :param top_k: The most documents to return, at least 1.
        :param allowed: Return only the best `top_k` of these documents.
        :raises ValueError: If `top_k` is below 1 or `allowed` was made for another index.
        """
        return self.search_terms(self.analysis.query_terms(query), top_k, allowed=allowed)

    def search_terms(self, terms: Iterable[str], top_k: int = 50, *, allowed: Allowed | None = None) -> Hits:
        """Return the best documents of a query that is analysed already; see `search`."""
        top_k = min(checks.whole_number("top_k", top_k), max(1, self._n_documents))
        if allowed is not None and allowed.owner is not self:
            raise ValueError("allowed was made for another index: make it again with this index's allow()")
        weights: list[float] = []
        bonuses: list[float] = []
        base: list[tuple[int, int]] = []
        added: list[tuple[int, int]] = []
        names: list[str] = []
        for term, repeats in Counter(terms).items():
            base_range, added_range = self._base.range_of(term), self._added.range_of(term)
            document_count = self._count(term, base_range, added_range)
            if not document_count:
                continue
            weight, bonus = self.scoring.weight_and_bonus(document_count, self._n_documents)
            weights.append(repeats * weight)
            bonuses.append(repeats * bonus)
            base.append(base_range)
            added.append(added_range)
            names.append(term)
        if not weights:
            return Hits(np.zeros(0, np.int32), np.zeros(0, np.float32))

        return self._best(names, weights, bonuses, base, added, top_k, _NO_MASK if allowed is None else allowed.mask)

    def _best(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        bonuses: Sequence[float],
        base: Sequence[tuple[int, int]],
        added: Sequence[tuple[int, int]],
        top_k: int,
        mask: NDArray[np.uint8],
    ) -> Hits:
        """Add up what each term counts in its postings, and select the best documents."""
        loops = kernels()
        weight_array, bonus_array = np.array(weights, np.float32), np.array(bonuses, np.float32)
        order = np.argsort(-(weight_array + bonus_array), kind="stable")  # what tells most first
        weight_array, bonus_array = weight_array[order], bonus_array[order]
        scratch = self._borrow()
        postings = sum(end - start for start, end in base)
        dense = not len(mask) and postings > _DENSE_SHARE * len(self._lengths)
        found = 0
        own, of_added = self._shares
        for block, ranges, shares in ((self._added, added, of_added), (self._base, base, own)):
            if not len(block.documents):
                continue
            bounds = np.ascontiguousarray(np.array(ranges, np.int64)[order].T)
            keys = [(block is self._base, names[place]) for place in order.tolist()]
            peaks = np.array([self._peaks.get(key, 1.0) for key in keys], np.float32)
            terms = (*bounds, weight_array, bonus_array, peaks, block.documents, block.codes, shares)
            if dense and block is self._base:
                found = loops.add_densely(*terms, self._positions, top_k, scratch.scores, scratch.touched)
            else:
                given = (mask, self._positions, top_k, scratch.scores, scratch.touched, found)
                found = loops.add_scores(*terms, *given)
            self._peaks.update(zip(keys, peaks.tolist(), strict=True))
        size = min(top_k, found)
        scores, positions = np.empty(size, np.float32), np.empty(size, np.int32)
        if size:
            size = loops.select_best(scratch.scores, scratch.touched, found, self._positions, scores, positions)
        if dense:
            scratch.scores.fill(loops.UNTOUCHED)
        self._scratch.append(scratch)
        return Hits(positions[:size], scores[:size])

    def matching(self, query: str) -> NDArray[np.int64]:
        """Return the positions, ascending, of all documents that have a term of the query."""
        found = np.zeros(self._n_documents, np.bool_)
        for term in set(self.analysis.query_terms(query)):
            for block in (self._base, self._added):
                start, end = block.range_of(term)
                positions = self._positions[block.documents[start:end]]
                found[positions[positions >= 0]] = True
        return np.flatnonzero(found)

    def decisive(self, query: str, top_k: int, allowed: Allowed) -> NDArray[np.integer[Any]]:
        """
        Return the positions of the documents that decide what a filtered search finds.

        These are the documents, allowed or not, that score at least as high as the last one found. If fewer than
        `top_k` are found, these are all that match. A filter that passes the same of these documents finds the same.
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
