"""
`StoreIndex`: a BM25 index of the documents of a store, built or opened when it is first needed, and kept in step.

`freshness.py` tells whether the store has changed, and `snapshots.py` what has changed. The index itself is
`haystack_ce_ranker.bm25.index`.
"""

import copy
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from haystack import logging

from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.files import IndexFilesError
from haystack_ce_ranker.bm25.index import Allowed, BM25Index
from haystack_ce_ranker.bm25.scoring import Scoring
from haystack_integrations.components.retrievers.ce_ranker import filters as filtering
from haystack_integrations.components.retrievers.ce_ranker import freshness, snapshots
from haystack_integrations.components.retrievers.ce_ranker.filters import Mask, Search
from haystack_integrations.components.retrievers.ce_ranker.snapshots import FieldValues, StoreSnapshot

logger = logging.getLogger(__name__)

_MAX_MASKS = 64
_FINGERPRINTS = "fingerprints"


class Indexed(NamedTuple):
    """An index and the documents it was made of. A run keeps the one it began with, even if another is made."""

    bm25: BM25Index
    snapshot: StoreSnapshot
    masks: dict[str, Mask]


class StoreIndex:
    """
    A BM25 index of the documents of a store. Nothing is read before the first call.

    Safe to use from several threads at once. A thread that has called `current` keeps what it got, even if another
    thread refreshes or closes the index meanwhile.

    :param document_store: Where the documents are.
    :param analysis: How texts and queries become terms.
    :param scoring: The variant of BM25.
    :param meta_fields: Meta fields to index with the content.
    :param path: A folder to keep the index in; None keeps it in memory only.
    :param refresh: `"auto"`, `"every_run"` or `"manual"`; see `BM25Retriever`.
    """

    def __init__(
        self,
        document_store: Any,
        *,
        analysis: Analysis,
        scoring: Scoring,
        meta_fields: tuple[str, ...] = (),
        path: str | None = None,
        refresh: str = "auto",
    ) -> None:
        self._store = document_store
        self._analysis = analysis
        self._scoring = scoring
        self._meta_fields = meta_fields
        self._path = path
        self._refresh = refresh
        self._labels = {"meta_fields_to_index": list(meta_fields)}
        self._probe = freshness.probe_of(document_store)
        self._indexed: Indexed | None = None
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "StoreIndex":
        """Return an index of the same store that shares what is built so far and is refreshed on its own."""
        clone = copy.copy(self)
        memo[id(self)] = clone
        indexed = self._indexed
        clone._indexed = None if indexed is None else indexed._replace(masks=dict(indexed.masks))
        return clone

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()

    @property
    def is_built(self) -> bool:
        """Whether the index is in memory."""
        return self._indexed is not None

    def current(self) -> Indexed:
        """Return an index that fits the store, if `refresh` asks for that."""
        indexed = self._indexed
        if indexed is not None and (self._refresh == "manual" or self._is_fresh(indexed)):
            return indexed
        with self._lock:
            indexed = self._indexed
            if indexed is None:
                indexed = self._first()
            elif self._refresh != "manual" and not self._is_fresh(indexed):  # else another thread was faster
                trust_identity = self._probe.keeps_identity and self._refresh == "auto"
                indexed = self._next(indexed, trust_identity=trust_identity)
            self._indexed = indexed
            return indexed

    def bring_up_to_date(self) -> None:
        """Read the store and update the index, whatever `refresh` says; all texts are compared."""
        with self._lock:
            indexed = self._first() if self._indexed is None else self._next(self._indexed, trust_identity=False)
            self._indexed = indexed._replace(masks={})

    def close(self) -> None:
        """Let go of the index and the documents. A running search keeps its own; the next call builds them again."""
        with self._lock:
            self._indexed = None

    def allowed(self, indexed: Indexed, filters: dict[str, Any] | None, search: Search | None = None) -> Allowed | None:
        """
        Turn filters into a mask. The store evaluates them, so they mean what they mean there. A mask is kept.

        :param indexed: What `current` returned.
        :param search: The search that the mask is for. A kept mask need then hold only for the documents that decide
            this search. None for any search.
        :returns: None if there are no filters.
        """
        if not filters:
            return None
        documents = indexed.snapshot.documents
        key = filtering.key_of(filters)
        kept = indexed.masks.get(key) if key is not None else None
        if kept is not None and (self._refresh == "manual" or kept.still_holds(indexed.bm25, indexed.snapshot, search)):
            return kept.allowed
        compared = sorted(filtering.fields_of(filters)) if key is not None and self._refresh != "manual" else []
        values = [FieldValues.of(documents, name) for name in compared]
        view = self._probe.view
        store = self._store if view is None else view(self._store, indexed.snapshot.source)
        passing = {document.id for document in store.filter_documents(filters)}
        mask = np.fromiter((document.id in passing for document in documents), np.bool_, len(documents))
        allowed = indexed.bm25.allow(mask)
        if key is not None:
            with self._lock:
                while len(indexed.masks) >= _MAX_MASKS:
                    del indexed.masks[next(iter(indexed.masks))]
                indexed.masks[key] = Mask(allowed, values)
        return allowed

    def _is_fresh(self, indexed: Indexed) -> bool:
        if self._refresh == "every_run" or not self._probe.unchanged(self._store, indexed.snapshot.source):
            return False
        return indexed.snapshot.indexed_meta_holds()

    def _first(self) -> Indexed:
        """Open the index in `path`, or build one, for what the store holds; the lock is held."""
        if self._probe.reads_all and self._refresh == "auto":
            logger.warning(
                "{store} cannot tell whether its documents have changed, so every run of this BM25Retriever reads all "
                "of them. Use refresh='manual' and call refresh_index() after a change, or register a probe.",
                store=type(self._store).__name__,
            )
        source = self._probe.read(self._store)
        opened = self._open()
        if opened is None:
            change = snapshots.changes_since(snapshots.NOTHING, source, self._meta_fields, trust_identity=False)
            index = BM25Index.build(change.texts, analysis=self._analysis, scoring=self._scoring)
        else:
            known = snapshots.NOTHING._replace(fingerprints=opened.extra[_FINGERPRINTS])
            change = snapshots.changes_since(known, source, self._meta_fields, trust_identity=False)
            index = opened
            if not change.is_none(len(opened)):
                kept = len(change.previous) - len(change.texts)
                logger.warning(
                    "The BM25 index in {path} is stale: {added} texts are new, {removed} of its {known} are gone. "
                    "It is brought up to date.",
                    path=self._path,
                    added=len(change.texts),
                    removed=len(opened) - kept,
                    known=len(opened),
                )
                index = opened.update(change.previous, change.texts)
        if index is not opened:
            self._save(index, change.snapshot)
        return Indexed(index, change.snapshot, {})

    def _next(self, indexed: Indexed, *, trust_identity: bool) -> Indexed:
        """Return what fits the documents that the store holds now; the lock is held."""
        source = self._probe.read(self._store)
        trust_identity = trust_identity and indexed.snapshot.indexed_meta_holds()
        change = snapshots.changes_since(indexed.snapshot, source, self._meta_fields, trust_identity=trust_identity)
        if change.is_none(len(indexed.bm25)):
            return indexed._replace(snapshot=change.snapshot)
        index = indexed.bm25.update(change.previous, change.texts)
        self._save(index, change.snapshot)
        return Indexed(index, change.snapshot, {})

    def _open(self) -> BM25Index | None:
        """Return the index in `path` if it can be used."""
        if self._path is None or not Path(self._path).exists():
            return None
        try:
            index = BM25Index.open(self._path, analysis=self._analysis, scoring=self._scoring)
            if index.labels != self._labels or len(index.extra.get(_FINGERPRINTS, ())) != len(index):
                raise IndexFilesError(f"it was made with {index.labels}, but {self._labels} is needed")
        except IndexFilesError as error:
            logger.warning(
                "The BM25 index in {path} cannot be used and is built again: {error}", path=self._path, error=error
            )
            return None
        return index

    def _save(self, index: BM25Index, snapshot: StoreSnapshot) -> None:
        if self._path is None:
            return
        try:
            index.save(self._path, extra={_FINGERPRINTS: snapshot.fingerprints}, labels=self._labels)
        except OSError as error:
            logger.warning(
                "The BM25 index could not be saved in {path}, so the next start builds it again: {error}",
                path=self._path,
                error=error,
            )
