"""
`StoreIndex`: a BM25 index of the documents of a store, built or opened when it is first needed, and kept in step.

`freshness.py` tells whether the store has changed, `snapshots.py` what has changed, and `refreshing.py` has the thread
for what is done in the background. The index itself is `haystack_ce_ranker.bm25.index`.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from haystack import Document, logging

from haystack_ce_ranker import forking
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.files import IndexFilesError
from haystack_ce_ranker.bm25.index import Allowed, BM25Index
from haystack_ce_ranker.bm25.scoring import Scoring
from haystack_integrations.components.retrievers.ce_ranker import filters as filtering
from haystack_integrations.components.retrievers.ce_ranker import freshness, listing, snapshots
from haystack_integrations.components.retrievers.ce_ranker.filters import Mask, Search
from haystack_integrations.components.retrievers.ce_ranker.refreshing import Background, Stopped
from haystack_integrations.components.retrievers.ce_ranker.snapshots import Change, FieldValues, Keep, StoreSnapshot

logger = logging.getLogger(__name__)

_MAX_MASKS = 64
_FINGERPRINTS = "fingerprints"
_ROUNDS = 3
"""How often more hits are fetched in place of documents that the store no longer has."""
_PATIENCE = 10.0
"""Seconds that `close` waits for a thread that reads the store."""
_LONG = 600.0
"""Seconds after which a reading in the background counts as one that may never end."""


class Indexed(NamedTuple):
    """An index and the documents it was made of. A run keeps the one it began with, even if another is made."""

    bm25: BM25Index
    snapshot: StoreSnapshot
    masks: dict[str, Mask]


class Hit(NamedTuple):
    """A document that was found, as the store has it, and its raw score."""

    document: Document
    score: float


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
    :param refresh_seconds: With `"auto"`, the least time between two readings of a store that cannot tell of changes.
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
        refresh_seconds: float = 60.0,
    ) -> None:
        self._store = document_store
        self._analysis = analysis
        self._scoring = scoring
        self._meta_fields = meta_fields
        self._path = path
        self._refresh = refresh
        self._refresh_seconds = refresh_seconds
        self._labels = {"meta_fields_to_index": list(meta_fields)}
        self._probe = freshness.probe_of(document_store)
        self._indexed: Indexed | None = None
        self._said: dict[str, str] = {}
        self._failure: str | None = None
        self._renew()
        forking.renewed(self)

    def after_fork(self) -> None:
        """Make what belongs to this object in this process alone; see `forking`."""
        self._renew()

    def _renew(self) -> None:
        """Make locks and the thread anew; whoever has the old ones is left alone."""
        self._lock = threading.RLock()  # held while the index is made
        self._mask_lock = threading.Lock()
        self._background = Background(self._read_again, self._refresh_seconds)

    def __deepcopy__(self, memo: dict[int, Any]) -> "StoreIndex":
        """Return an index of the same store that shares what is built so far and is refreshed on its own."""
        clone = copy.copy(self)
        memo[id(self)] = clone
        indexed = self._indexed
        clone._indexed = None if indexed is None else indexed._replace(masks=dict(indexed.masks))
        clone._said = dict(self._said)
        return clone

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the index: a copy in another process opens or builds its own."""
        return {name: value for name, value in vars(self).items() if name not in _OF_A_PROCESS} | {"_indexed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._renew()
        forking.renewed(self)

    @property
    def is_built(self) -> bool:
        """Whether the index is in memory."""
        return self._indexed is not None

    @property
    def failure(self) -> str | None:
        """Why the store could not be looked at again in the background; None if it could."""
        return _never_ending() if self._background.seconds > _LONG else self._failure

    def current(self) -> Indexed:
        """Return an index that fits the store as well as `refresh` asks for."""
        indexed = self._indexed
        if indexed is not None and self._serves(indexed):
            return indexed
        lock = self._lock
        with lock:
            indexed = self._indexed
            if indexed is None:
                indexed = self._first()
            elif not self._serves(indexed):  # else another thread was faster
                indexed = self._next(indexed, trust_identity=self._refresh == "auto")
            if lock is self._lock:  # else it was closed meanwhile
                self._indexed = indexed
            return indexed

    def bring_up_to_date(self) -> None:
        """Read the store and update the index, whatever `refresh` says; all texts are compared."""
        lock = self._lock
        with lock:
            indexed = self._first() if self._indexed is None else self._next(self._indexed)
            if lock is self._lock:  # else it was closed meanwhile
                self._indexed = indexed._replace(masks={})

    def close(self) -> None:
        """
        Let go of the index and the documents, and wait until nobody reads the store.

        A running search keeps its own; the next call builds them again. A thread that waits for a store that does not
        answer is left alone after a while: nothing of it counts any longer.
        """
        stopped = self._background.stop(_PATIENCE)
        if stopped and self._lock.acquire(timeout=_PATIENCE):
            self._indexed = None
            self._lock.release()
            return
        self._renew()
        self._indexed = None
        logger.warning(
            "A thread was still reading {store} after {seconds:g} s, and close() has left it behind: what it finds no "
            "longer counts. Set a timeout in the store's client if it hangs.",
            store=type(self._store).__name__,
            seconds=_PATIENCE,
        )

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
        snapshot, probe = indexed.snapshot, self._probe
        key = filtering.key_of(filters)
        kept = indexed.masks.get(key) if key is not None else None
        if kept is not None and (self._refresh == "manual" or kept.still_holds(indexed.bm25, snapshot, search)):
            return kept.allowed
        values: list[FieldValues] = []
        if probe.shares and key is not None and self._refresh != "manual":
            values = [FieldValues.of(snapshot.documents or (), name) for name in sorted(filtering.fields_of(filters))]
        store = self._store if probe.view is None else probe.view(self._store, snapshot.documents)
        passing = set(probe.passing(store, filters))
        mask = np.fromiter((name in passing for name in snapshot.names()), np.bool_, len(snapshot.fingerprints))
        allowed = indexed.bm25.allow(mask)
        if key is not None:
            with self._mask_lock:
                while len(indexed.masks) >= _MAX_MASKS:
                    del indexed.masks[next(iter(indexed.masks))]
                indexed.masks[key] = Mask(allowed, values)
        return allowed

    def search(self, indexed: Indexed, query: str, top_k: int, allowed: Allowed | None) -> list[Hit]:
        """
        Return the best documents.

        Documents that are not kept are fetched. Those that the store no longer has are left out, and the next best ones
        take their places.
        """
        found: list[Hit] = []
        asked, wanted = 0, top_k
        for _ in range(_ROUNDS):
            hits = indexed.bm25.search(query, wanted, allowed=allowed)
            positions = hits.positions[asked:].tolist()
            documents = self._documents(indexed.snapshot, positions)
            scores = hits.scores[asked:].tolist()
            pairs = zip(documents, scores, strict=True)
            found += [Hit(document, score) for document, score in pairs if document is not None]
            asked += len(positions)
            if len(found) >= top_k or asked < wanted:
                break
            wanted *= 2
        return found[:top_k]

    def _documents(self, snapshot: StoreSnapshot, positions: list[int]) -> Sequence[Document | None]:
        """Return the documents at these positions; None for each that the store no longer has."""
        if snapshot.documents is not None:
            return [snapshot.documents[position] for position in positions]
        names = [snapshot.ids[position] for position in positions]
        fetch = self._probe.fetch
        fetched = fetch(self._store, names) if fetch is not None and names else []
        by_name = {document.id: document for document in listing.documents_of(self._store, fetched)}
        return [by_name.get(name) for name in names]

    def _serves(self, indexed: Indexed) -> bool:
        """Tell whether a run may use the index; begin to read the store in the background where that is due."""
        if self._refresh != "auto":
            return self._refresh == "manual"
        probe, known = self._probe, indexed.snapshot
        if probe.exact:
            return probe.same(known.state, probe.state(self._store)) and known.indexed_meta_holds()
        try:
            changed = not probe.same(known.state, probe.state(self._store))
        except Exception as error:
            self._failed(error)
            changed = False
        if changed and not len(indexed.bm25):
            return False  # there is nothing to go on with
        reading = self._background.start_if_due()
        if self._background.seconds > _LONG:
            self._say(
                "reading",
                f"{type(self._store).__name__}: {_never_ending()}. Runs go on with the old index. If the store does "
                "not answer, close() ends the waiting: set a timeout in the store's client.",
            )
        if not reading and changed:
            self._say(
                "changed",
                f"{type(self._store).__name__} has other documents than this BM25Retriever has indexed. Runs go on "
                f"with the old index until the store is read again, at most every {self._refresh_seconds:g} s. Call "
                "refresh_index() after a write to see it at once, or use refresh='every_run'.",
            )
        return True

    def _read_again(self, check: Callable[[], None]) -> None:
        """Bring the index up to date, in the background."""
        try:
            with self._lock:
                if self._indexed is not None:
                    indexed = self._next(self._indexed, check=check)
                    check()
                    self._indexed = indexed
        except Stopped:
            raise
        except Exception as error:
            check()
            self._failed(error)
        else:
            self._failure = None
            for kind in ("failed", "reading"):
                self._said.pop(kind, None)

    def _failed(self, error: Exception) -> None:
        self._failure = f"{type(error).__name__}: {error}"
        self._say(
            "failed",
            f"{type(self._store).__name__} could not be looked at again. Runs go on with the old index, and this is "
            f"tried again every {self._refresh_seconds:g} s: {self._failure}",
        )

    def _say(self, kind: str, message: str) -> None:
        """Warn, unless this was the last warning of its kind."""
        if self._said.get(kind) != message:
            self._said[kind] = message
            logger.warning("{warning}", warning=message)

    def _changes(
        self, before: StoreSnapshot, *, trust_identity: bool = False, check: Callable[[], None] | None = None
    ) -> Change:
        """Read the store and compare it with what it held before; the lock is held."""
        probe = self._probe
        keep = Keep.SHARED if probe.shares else Keep.COPY if probe.fetch is None else Keep.ID
        state = probe.state(self._store)  # first, so that a change while the store is read is not missed
        source = probe.read(self._store)
        change = snapshots.changes_since(
            before,
            source if check is None else _checked(source, check),
            self._meta_fields,
            state=state,
            keep=keep,
            trust_identity=trust_identity and before.indexed_meta_holds(),
        )
        self._background.ended()
        self._look_for_doubles(change.snapshot)
        return change

    def _first_changes(self, before: StoreSnapshot) -> Change:
        """
        Read the store, and once more to keep the documents if it does not find them by the ids that it lists.

        An index that another program wrote need not have the ids of Haystack's documents.
        """
        change = self._changes(before)
        ids, fetch = change.snapshot.ids[:1], self._probe.fetch
        if fetch is None or not ids:
            return change
        if any(document.id == ids[0] for document in listing.documents_of(self._store, fetch(self._store, ids))):
            return change
        self._probe = self._probe._replace(fetch=None)
        return self._changes(before)

    def _look_for_doubles(self, snapshot: StoreSnapshot) -> None:
        """Warn if documents share an id: they are found more than once, and others may have been left out for them."""
        if self._probe.shares:
            return
        listed, distinct = len(snapshot.fingerprints), len(set(snapshot.names()))
        if distinct < listed:
            self._say(
                "doubles",
                f"{type(self._store).__name__} lists {listed:,} documents under {distinct:,} ids. Documents with the "
                "same id are found more than once; write them again under ids of their own.",
            )

    def _first(self) -> Indexed:
        """Open the index in `path`, or build one, for what the store holds; the lock is held."""
        opened = self._open()
        if opened is None:
            change = self._first_changes(snapshots.NOTHING)
            index = BM25Index.build(change.texts, analysis=self._analysis, scoring=self._scoring)
        else:
            change = self._first_changes(snapshots.NOTHING._replace(fingerprints=opened.extra[_FINGERPRINTS]))
            index = opened
            gone = change.gone(len(opened))
            if change.texts or gone:
                self._say(
                    "stale",
                    f"The BM25 index in {self._path} is stale: {len(change.texts)} texts are new, {gone} of its "
                    f"{len(opened)} are gone. It is brought up to date.",
                )
            if not change.is_none(len(opened)):
                index = opened.update(change.previous, change.texts)
        if index is not opened:
            self._save(index, change.snapshot)
        return Indexed(index, change.snapshot, {})

    def _next(
        self, indexed: Indexed, *, trust_identity: bool = False, check: Callable[[], None] | None = None
    ) -> Indexed:
        """Return what fits the documents that the store holds now; the lock is held."""
        change = self._changes(indexed.snapshot, trust_identity=trust_identity, check=check)
        if change.is_none(len(indexed.bm25)):
            masks = indexed.masks if change.snapshot.meta == indexed.snapshot.meta else {}
            return indexed._replace(snapshot=change.snapshot, masks=masks)
        index = indexed.bm25.update(change.previous, change.texts)
        self._save(index, change.snapshot)
        return Indexed(index, change.snapshot, {})

    def _open(self) -> BM25Index | None:
        """Return the index in `path` if it can be used."""
        if self._path is None:
            return None
        try:
            if not Path(self._path).exists():
                return None
            index = BM25Index.open(self._path, analysis=self._analysis, scoring=self._scoring)
            prints = index.extra.get(_FINGERPRINTS)
            fit = prints is not None and prints.dtype == np.uint64 and len(prints) == len(index)
            if index.labels != self._labels or not fit:
                raise IndexFilesError(f"it was made with {index.labels}, but {self._labels} is needed")
        except (IndexFilesError, OSError) as error:  # a folder around it may be closed to this user
            self._say("opened", f"The BM25 index in {self._path} cannot be used and is built again: {error}")
            return None
        return index

    def _save(self, index: BM25Index, snapshot: StoreSnapshot) -> None:
        if self._path is None:
            return
        try:
            index.save(self._path, extra={_FINGERPRINTS: snapshot.fingerprints}, labels=self._labels)
        except OSError as error:
            message = "could not be saved in {0}, so the next start builds it again: {1}"
            self._say("saved", f"The BM25 index {message.format(self._path, error)}")
        else:
            self._said.pop("saved", None)
            self._said.pop("opened", None)


def _never_ending() -> str:
    return f"the store has been read for more than {_LONG:g} s"


_OF_A_PROCESS = ("_lock", "_mask_lock", "_background")


def _checked(documents: Iterable[Document], check: Callable[[], None]) -> Iterator[Document]:
    for document in documents:
        check()
        yield document
