"""
`BM25Retriever`: BM25 over the documents of any Haystack document store, as a component.

Finds out whether the index still fits the store (`freshness.py`), turns filters into masks, hands the query to the
index (`haystack_ce_ranker.bm25`) or to the store's own engine (`native.py`), and notes the scores. No arithmetic of its
own.
"""

import asyncio
import copy
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from haystack import Document, component, default_from_dict, default_to_dict, logging
from haystack.document_stores.types import DocumentStore, FilterPolicy
from haystack.document_stores.types.filter_policy import apply_filter_policy

from haystack_ce_ranker import provenance
from haystack_ce_ranker.bm25.analysis import DEFAULT_TOKENIZATION_REGEX, Analysis
from haystack_ce_ranker.bm25.files import IndexFilesError
from haystack_ce_ranker.bm25.index import Allowed, BM25Index
from haystack_ce_ranker.bm25.scoring import Scoring
from haystack_integrations.components.retrievers.ce_ranker import freshness, native

logger = logging.getLogger(__name__)

RECORD = "bm25"
_SCALING = 8.0  # as Haystack's in-memory, Elasticsearch and OpenSearch stores scale BM25 scores
_ENGINES = ("auto", "bm25s", "native")
_REFRESH = ("auto", "every_run", "manual")
_MAX_MASKS = 64
_FINGERPRINTS = "fingerprints"
_PLAIN = (str, int, float, bool, type(None), datetime, date)


class _Lock:
    """A lock that a copy of its owner does not share and that does not prevent the copy."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Lock":
        return _Lock()

    def __reduce__(self) -> tuple[type["_Lock"], tuple[()]]:
        return _Lock, ()


class _Mask(NamedTuple):
    """A filter that was evaluated, with the values of its fields at that time."""

    allowed: Allowed
    values: list[freshness.FieldValues]


class _State(NamedTuple):
    """An index and the documents it was made of: what one run uses throughout, whatever is refreshed meanwhile."""

    bm25: BM25Index
    reading: freshness.Reading
    masks: dict[str, _Mask]


@component
class BM25Retriever:
    """
    Retrieve documents by BM25 from any Haystack document store, fast: the index is in memory and reads only the
    postings of the query's words.

    ```python
    from haystack import Document
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

    store = InMemoryDocumentStore()
    store.write_documents([Document(content="Foxes jump over dogs."), Document(content="Dogs sleep.")])
    retriever = BM25Retriever(store, top_k=10)
    documents = retriever.run("a jumping fox")["documents"]
    ```

    Every document comes back as the store has it, with `score` and with
    `meta["ce_ranker"]["bm25"] = {"score": ..., "rank": ...}`: the raw score and the rank from 1. Equal scores keep the
    store's order. A query none of whose words is in the collection finds nothing, as does one of stop words alone.

    Single letters and digits of a query are ignored beside longer words, unless `language` is None or there is a
    `tokenization_regex`; see `Analysis.query_terms`.

    The index holds about 6 bytes per distinct word of each document. The documents stay with the store where that is
    in-memory: the component refers to them, 16 bytes each. Of any other store it keeps a copy of all documents in
    memory, embeddings included, because a search must not wait for the store.
    """

    def __init__(
        self,
        document_store: DocumentStore,
        *,
        filters: dict[str, Any] | None = None,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
        top_k: int = 50,
        scale_score: bool = False,
        language: str | None = "english",
        tokenization_regex: str | None = None,
        method: Literal["lucene", "robertson", "atire", "bm25l", "bm25plus"] = "lucene",
        k1: float = 1.2,
        b: float = 0.75,
        delta: float | None = None,
        meta_fields_to_index: list[str] | None = None,
        index_path: str | None = None,
        refresh: Literal["auto", "every_run", "manual"] = "auto",
        engine: Literal["auto", "bm25s", "native"] = "auto",
        native_parameters: dict[str, Any] | None = None,
    ) -> None:
        """
        Create the retriever; nothing is read before `warm_up` or the first run.

        :param document_store: Where the documents are.
        :param filters: Haystack filters that a document must pass.
        :param filter_policy: Whether filters given to `run` `"replace"` these or are `"merge"`d with them.
        :param top_k: The most documents to return.
        :param scale_score: Put `1 / (1 + exp(-score / 8))` into `Document.score`, as Haystack does, instead of the
            score.
        :param language: Whose stemmer and stop words to use; None for neither. See `bm25.analysis.languages()`.
        :param tokenization_regex: What a word looks like, in lower-case NFC text; None for words, and single characters
            of Chinese, Japanese and Korean, as in Haystack 3.
        :param method: The variant of BM25; see `haystack_ce_ranker.bm25.scoring.Scoring`, also for the next three.
        :param k1: How slowly repetitions saturate.
        :param b: How much a document's length counts.
        :param delta: The lower bound of `bm25l` and `bm25plus`.
        :param meta_fields_to_index: Meta fields that are searched with the content, as further lines of it.
        :param index_path: A folder to keep the index in, so that a restart opens it instead of building it. An index
            there that does not fit the store or these parameters, or is damaged, is replaced, with a warning.
        :param refresh: When to look for changes in the store: `"auto"` at every run, at the cost stated in
            `freshness.py`; `"every_run"` the same, comparing all texts; `"manual"` only when `refresh_index()` is
            called.
        :param engine: `"bm25s"` for the index of this package, `"native"` for the engine of the store, `"auto"` for the
            latter where the store has one. `language` to `refresh` do not apply to a native engine: its index says how
            it analyses and scores.
        :param native_parameters: Further init parameters of the store's own BM25 retriever, for example `fuzziness`.
        :raises ValueError: If a parameter has a value it cannot have.
        """
        for name, value, choices in (("refresh", refresh, _REFRESH), ("engine", engine, _ENGINES)):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, but got {value!r}")
        _check_top_k(top_k)
        if isinstance(meta_fields_to_index, str):
            raise ValueError(f"meta_fields_to_index must be a list of names, but got {meta_fields_to_index!r}")
        self.document_store = document_store
        self.filters = filters
        self.filter_policy = FilterPolicy.from_str(filter_policy) if isinstance(filter_policy, str) else filter_policy
        self.top_k = top_k
        self.scale_score = scale_score
        self.language = language
        self.tokenization_regex = tokenization_regex
        self.method = method
        self.k1 = k1
        self.b = b
        self.delta = delta
        self.meta_fields_to_index = list(meta_fields_to_index) if meta_fields_to_index is not None else None
        self.index_path = None if index_path is None else str(index_path)
        self.refresh = refresh
        self.engine = engine
        self.native_parameters = native_parameters

        self._analysis = Analysis(
            language, DEFAULT_TOKENIZATION_REGEX if tokenization_regex is None else tokenization_regex
        )
        self._scoring = Scoring(method=method, k1=k1, b=b, delta=delta)
        self._meta_fields: tuple[str, ...] = tuple(meta_fields_to_index or ())
        self._uses_native = engine == "native" or (engine == "auto" and native.has_engine(document_store))
        if self._uses_native and self._meta_fields:
            raise ValueError(
                "meta_fields_to_index does not apply to a store's own engine: map the fields in the store's index, "
                "pass a custom query in native_parameters, or use engine='bm25s'"
            )
        if native_parameters is not None and not self._uses_native:
            raise ValueError("native_parameters needs a store with its own engine, and engine='native' or 'auto'")
        self._native: Any = (
            native.make_retriever(document_store, native_parameters or {}) if self._uses_native else None
        )
        self._probe = freshness.probe_of(document_store)
        self._labels = {"meta_fields_to_index": list(self._meta_fields)}
        self._state: _State | None = None
        self._lock = _Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "BM25Retriever":
        """Copy the component; the copy reads the same document store, which is not copied."""
        shared = ("document_store", "_native", "_state", "_probe")
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        for name, value in self.__dict__.items():
            clone.__dict__[name] = value if name in shared else copy.deepcopy(value, memo)
        return clone

    def _get_telemetry_data(self) -> dict[str, Any]:
        return {"document_store": type(self.document_store).__name__}

    def to_dict(self) -> dict[str, Any]:
        """Serialize the component to plain values."""
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=copy.deepcopy(self.filters),
            filter_policy=self.filter_policy.value,
            top_k=self.top_k,
            scale_score=self.scale_score,
            language=self.language,
            tokenization_regex=self.tokenization_regex,
            method=self.method,
            k1=self.k1,
            b=self.b,
            delta=self.delta,
            meta_fields_to_index=copy.copy(self.meta_fields_to_index),
            index_path=self.index_path,
            refresh=self.refresh,
            engine=self.engine,
            native_parameters=copy.deepcopy(self.native_parameters),
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "BM25Retriever":
        """Make the component from what `to_dict` returned; `data` stays as it is."""
        return default_from_dict(cls, copy.deepcopy(data))

    def warm_up(self) -> None:
        """Build or open the index, once; the first run does it otherwise."""
        if not self._uses_native:
            self._ready()

    def refresh_index(self) -> None:
        """Read the store and bring the index up to date, whatever `refresh` says; all texts are compared."""
        if self._uses_native:
            return
        with self._lock:
            state = self._first_state() if self._state is None else self._next_state(self._state, trust_identity=False)
            self._state = state._replace(masks={})

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        scale_score: bool | None = None,
    ) -> dict[str, list[Document]]:
        """
        Retrieve the best documents of a query.

        :param query: The text to look for.
        :param filters: Haystack filters; see `filter_policy`.
        :param top_k: The most documents to return; None for the component's.
        :param scale_score: See the component's; None for that.
        :returns: `documents`, best first. Fewer than `top_k` only if no others have a word of the query and pass the
            filters.
        :raises ValueError: If `top_k` is not positive.
        """
        top_k, scale_score = self._resolve(query, top_k, scale_score)
        filters = apply_filter_policy(self.filter_policy, self.filters, filters)
        if not query.strip():
            return {"documents": []}
        if self._uses_native:
            found = self._native.run(query=query, filters=filters, top_k=top_k)["documents"]
            return {"documents": _noted_native(found, scale_score)}
        state = self._ready()
        allowed = self._allowed(state, filters, (query, top_k))
        return {"documents": self._search(state, query, allowed, top_k, scale_score)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        scale_score: bool | None = None,
    ) -> dict[str, list[Document]]:
        """
        Retrieve the best documents of a query without blocking the event loop; see `run`.

        :param query: The text to look for.
        :param filters: Haystack filters; see `filter_policy`.
        :param top_k: The most documents to return; None for the component's.
        :param scale_score: See the component's; None for that.
        :returns: `documents`, best first.
        """
        if not self._uses_native:
            result: dict[str, list[Document]] = await asyncio.to_thread(self.run, query, filters, top_k, scale_score)
            return result
        top_k, scale_score = self._resolve(query, top_k, scale_score)
        filters = apply_filter_policy(self.filter_policy, self.filters, filters)
        if not query.strip():
            return {"documents": []}
        found = (await self._native.run_async(query=query, filters=filters, top_k=top_k))["documents"]
        return {"documents": _noted_native(found, scale_score)}

    def run_batch(
        self,
        queries: Sequence[str],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        scale_score: bool | None = None,
    ) -> dict[str, list[list[Document]]]:
        """
        Retrieve for many queries, for evaluation: the store is looked at once, and all see the same index.

        :param queries: The texts to look for.
        :param filters: As in `run`, for all of them.
        :param top_k: As in `run`.
        :param scale_score: As in `run`.
        :returns: `documents`, one list per query in their order.
        """
        if self._uses_native:
            return {"documents": [self.run(query, filters, top_k, scale_score)["documents"] for query in queries]}
        limits = [self._resolve(query, top_k, scale_score) for query in queries]
        state = self._ready()
        allowed = self._allowed(state, apply_filter_policy(self.filter_policy, self.filters, filters))
        return {
            "documents": [
                self._search(state, query, allowed, *limit) for query, limit in zip(queries, limits, strict=True)
            ]
        }

    def _resolve(self, query: str, top_k: int | None, scale_score: bool | None) -> tuple[int, bool]:
        if not isinstance(query, str):
            raise ValueError(f"query must be a string, but got {type(query).__name__}")
        top_k = self.top_k if top_k is None else top_k
        _check_top_k(top_k)
        return top_k, self.scale_score if scale_score is None else scale_score

    def _search(
        self, state: _State, query: str, allowed: Allowed | None, top_k: int, scale_score: bool
    ) -> list[Document]:
        hits = state.bm25.search(query, top_k, allowed=allowed)
        documents = state.reading.documents
        found = (documents[position] for position in hits.positions.tolist())
        without_embedding = getattr(self.document_store, "return_embedding", True) is False
        return _noted(found, hits.scores.tolist(), scale_score, without_embedding)

    def _ready(self) -> _State:
        """Return an index that fits the store, as far as `refresh` asks for that."""
        state = self._state
        if state is not None and (self.refresh == "manual" or self._is_fresh(state)):
            return state
        with self._lock:
            state = self._state
            if state is None:
                state = self._first_state()
            elif self.refresh != "manual" and not self._is_fresh(state):  # else another thread was faster
                trust_identity = self._probe.keeps_identity and self.refresh == "auto"
                state = self._next_state(state, trust_identity=trust_identity)
            self._state = state
            return state

    def _is_fresh(self, state: _State) -> bool:
        if self.refresh == "every_run" or not self._probe.unchanged(self.document_store, state.reading.source):
            return False
        return self._indexed_meta_is(state.reading)

    def _indexed_meta_is(self, reading: freshness.Reading) -> bool:
        """Tell whether the indexed meta fields have the values that were read, for meta can be changed in place."""
        return all(values.still_hold(reading.documents) for values in reading.meta_values)

    def _first_state(self) -> _State:
        """Open the index in `index_path`, or build one, for what the store holds; the lock is held."""
        if self._probe.reads_all and self.refresh == "auto":
            logger.warning(
                "{store} cannot tell whether its documents have changed, so every run of this BM25Retriever reads all "
                "of them. Use refresh='manual' and call refresh_index() after a change, or register a probe.",
                store=type(self.document_store).__name__,
            )
        source = self._probe.read(self.document_store)
        opened = self._open()
        if opened is None:
            change = freshness.compare(freshness.NOTHING, source, self._meta_fields, trust_identity=False)
            index = BM25Index.build(change.texts, analysis=self._analysis, scoring=self._scoring)
        else:
            known = freshness.NOTHING._replace(fingerprints=opened.extra[_FINGERPRINTS])
            change = freshness.compare(known, source, self._meta_fields, trust_identity=False)
            index = opened
            if not change.is_none(len(opened)):
                kept = len(change.previous) - len(change.texts)
                logger.warning(
                    "The BM25 index in {path} is stale: {added} texts are new, {removed} of its {known} are gone. "
                    "It is brought up to date.",
                    path=self.index_path,
                    added=len(change.texts),
                    removed=len(opened) - kept,
                    known=len(opened),
                )
                index = opened.update(change.previous, change.texts)
        if index is not opened:
            self._save(index, change.reading)
        return _State(index, change.reading, {})

    def _next_state(self, state: _State, *, trust_identity: bool) -> _State:
        """Make the state that fits what the store holds now; the lock is held."""
        source = self._probe.read(self.document_store)
        trust_identity = trust_identity and self._indexed_meta_is(state.reading)
        change = freshness.compare(state.reading, source, self._meta_fields, trust_identity=trust_identity)
        if change.is_none(len(state.bm25)):
            return state._replace(reading=change.reading)
        index = state.bm25.update(change.previous, change.texts)
        self._save(index, change.reading)
        return _State(index, change.reading, {})

    def _open(self) -> BM25Index | None:
        """Return the index in `index_path` if it can be used."""
        if self.index_path is None or not Path(self.index_path).exists():
            return None
        try:
            index = BM25Index.open(self.index_path, analysis=self._analysis, scoring=self._scoring)
            if index.labels != self._labels or len(index.extra.get(_FINGERPRINTS, ())) != len(index):
                raise IndexFilesError(f"it was made with {index.labels}, but {self._labels} is needed")
        except IndexFilesError as error:
            logger.warning(
                "The BM25 index in {path} cannot be used and is built again: {error}", path=self.index_path, error=error
            )
            return None
        return index

    def _save(self, index: BM25Index, reading: freshness.Reading) -> None:
        if self.index_path is None:
            return
        try:
            index.save(self.index_path, extra={_FINGERPRINTS: reading.fingerprints}, labels=self._labels)
        except OSError as error:
            logger.warning(
                "The BM25 index could not be saved in {path}, so the next start builds it again: {error}",
                path=self.index_path,
                error=error,
            )

    def _allowed(
        self, state: _State, filters: dict[str, Any] | None, search: tuple[str, int] | None = None
    ) -> Allowed | None:
        """
        Turn filters into a mask. The store evaluates them, so they mean what they mean there; a mask is kept.

        :param search: The query and `top_k` that the mask is for: a kept mask need still be true only of the documents
            that decide this search. None for any search.
        """
        if not filters:
            return None
        documents = state.reading.documents
        key = repr(filters) if _is_plain(filters) else None
        kept = state.masks.get(key) if key is not None else None
        if kept is not None and (self.refresh == "manual" or _still_holds(kept, state, search)):
            return kept.allowed
        in_place = key is not None and self.refresh != "manual"
        values = [freshness.FieldValues.of(documents, name) for name in sorted(_fields(filters))] if in_place else []
        view = self._probe.view
        store = self.document_store if view is None else view(self.document_store, state.reading.source)
        passing = {document.id for document in store.filter_documents(filters)}
        mask = np.fromiter((document.id in passing for document in documents), np.bool_, len(documents))
        allowed = state.bm25.allow(mask)
        if key is not None:
            with self._lock:
                while len(state.masks) >= _MAX_MASKS:
                    del state.masks[next(iter(state.masks))]
                state.masks[key] = _Mask(allowed, values)
        return allowed


def _still_holds(mask: _Mask, state: _State, search: tuple[str, int] | None) -> bool:
    """Tell whether the fields that a filter looks at have the values they had, in all documents that decide."""
    documents = state.reading.documents
    if search is None:
        return all(values.still_hold(documents) for values in mask.values)
    query, top_k = search
    positions = state.bm25.decisive(query, top_k, mask.allowed).tolist()
    found = list(map(documents.__getitem__, positions))
    return all(values.at(positions).still_hold(found) for values in mask.values)


def _is_plain(value: Any) -> bool:
    """Tell whether `repr` of a filter says all there is to it, so that it can stand for the filter."""
    if type(value) is dict:
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def _fields(filters: dict[str, Any]) -> set[str]:
    """Return the names of the fields that a filter looks at."""
    if "field" in filters:
        return {str(filters["field"])}
    conditions = filters.get("conditions", [])
    return {name for condition in conditions if isinstance(condition, dict) for name in _fields(condition)}


def _check_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k <= 0:
        raise ValueError(f"top_k must be an integer > 0, but got {top_k!r}")


def _noted(
    documents: Iterable[Document], scores: Iterable[float], scale_score: bool, without_embedding: bool
) -> list[Document]:
    """Return copies of the documents with their scores and their records; the store's documents stay as they are."""
    noted = []
    for rank, (document, score) in enumerate(zip(documents, scores, strict=True), start=1):
        changes: dict[str, Any] = {"embedding": None} if without_embedding else {}
        noted.append(
            replace(
                document,
                score=1.0 / (1.0 + math.exp(-score / _SCALING)) if scale_score else score,
                meta=provenance.with_record(document.meta, RECORD, {"score": score, "rank": rank}),
                **changes,
            )
        )
    return noted


def _noted_native(documents: list[Document], scale_score: bool) -> list[Document]:
    scores = [0.0 if document.score is None else float(document.score) for document in documents]
    return _noted(documents, scores, scale_score, False)
