"""
BM25Retriever: BM25 over the documents of any Haystack document store, in process.

Thin: fetches documents, keeps an index of them up to date, and turns hits into documents. How texts are analysed and
scored is in `haystack_ce_ranker.bm25` and `bm25_tokens`.
"""

import asyncio
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from haystack import Document, component, default_from_dict, default_to_dict
from haystack.document_stores.types import DocumentStore, FilterPolicy, apply_filter_policy

from haystack_ce_ranker.bm25 import Allowed, BM25Index, Scoring
from haystack_ce_ranker.bm25_tokens import Analysis
from haystack_ce_ranker.provenance import with_record

NAME = "bm25"
"""The key of this retriever's record under `meta["ce_ranker"]`."""

_SCALE = 8.0  # as Haystack's in-memory store scales BM25 scores to 0..1
_KEPT_FILTERS = 32
_REFRESH = threading.Lock()  # of the module: a lock on the instance would make copy.deepcopy(component) fail


@dataclass(frozen=True)
class _Generation:
    """The documents of one moment and their index, which belong together; a refresh makes another one."""

    documents: Sequence[Document]
    index: BM25Index
    allowed: dict[str, Allowed] = field(default_factory=dict)


@component
class BM25Retriever:
    """
    Retrieves documents by BM25, from any document store, with an index of its own.

    The index is built by `warm_up` or the first run, and brought up to date by the next run after the store's documents
    have changed; only new texts are analysed. Follows Haystack's `TextRetriever` protocol.

    What it costs: each run asks the store for its documents, to see whether they have changed. The in-memory store
    hands over the objects it has, which costs next to nothing; any other store sends all of its documents.

    ```python
    from haystack import Document
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack_ce_ranker import BM25Retriever

    store = InMemoryDocumentStore()
    store.write_documents([Document(content="Paris is in France."), Document(content="Berlin is in Germany.")])
    BM25Retriever(store).run(query="Where is Berlin?")["documents"][0].content
    ```
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
        method: Literal["lucene", "robertson", "atire", "bm25l", "bm25plus"] = "lucene",
        k1: float = 1.2,
        b: float = 0.75,
        delta: float | None = None,
    ) -> None:
        """
        Create the retriever; the index is built by `warm_up`, or by the first run.

        :param document_store: Any Haystack document store; only `filter_documents` is asked of it.
        :param filters: Haystack filters; they mean what they mean in the store.
        :param filter_policy: `replace` or `merge`: what filters of a run do with these.
        :param top_k: The most documents to return.
        :param scale_score: Whether `Document.score` is scaled to 0..1 as Haystack's in-memory store does it; the BM25
            score itself is in the meta either way.
        :param language: Whose stemmer and stop words to use (PyStemmer's names); None for neither.
        :param method: The variant of BM25.
        :param k1: How slowly repetitions of a term saturate.
        :param b: How much a document's length counts, 0 to 1.
        :param delta: The bound of `bm25l` and `bm25plus`; None for their defaults.
        :raises ValueError: If a value is out of range.
        """
        _check_top_k(top_k)
        self._analysis = Analysis(language=language)
        self._scoring = Scoring(method=method, k1=k1, b=b, delta=delta)
        self.document_store = document_store
        self.filters = filters
        self.filter_policy = (
            filter_policy if isinstance(filter_policy, FilterPolicy) else FilterPolicy.from_str(filter_policy)
        )
        self.top_k = top_k
        self.scale_score = scale_score
        self.language = language
        self.method = method
        self.k1 = k1
        self.b = b
        self.delta = delta
        self._generation: _Generation | None = None

    def _get_telemetry_data(self) -> dict[str, Any]:
        return {"document_store": type(self.document_store).__name__}

    def to_dict(self) -> dict[str, Any]:
        """Serialize to plain values."""
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            filter_policy=self.filter_policy.value,
            top_k=self.top_k,
            scale_score=self.scale_score,
            language=self.language,
            method=self.method,
            k1=self.k1,
            b=self.b,
            delta=self.delta,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "BM25Retriever":
        """Deserialize; `data` stays as it is."""
        retriever: BM25Retriever = default_from_dict(
            cls, {**data, "init_parameters": dict(data.get("init_parameters", {}))}
        )
        return retriever

    def warm_up(self) -> None:
        """Build the index, or bring it up to date; safe from several threads."""
        self._fresh()

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        scale_score: bool | None = None,
    ) -> dict[str, Any]:
        """
        Retrieve the best documents of a query.

        Only documents that have one of the query's terms are returned: a query of stop words, or of words that no
        document has, finds none. Equal scores come in the store's order.

        :param query: The query.
        :param filters: Replaces the filters of `__init__`, or is merged with them; see `filter_policy`.
        :param top_k: Overrides the value of `__init__`.
        :param scale_score: Overrides the value of `__init__`.
        :returns: `documents`, best first, each with its `score` and a record of score and rank under
            `meta["ce_ranker"]["bm25"]`.
        :raises ValueError: If `top_k` is not positive or `query` is not a text.
        """
        if not isinstance(query, str):
            raise ValueError(f"query must be a text, but got {query!r}.")
        if top_k is not None:
            _check_top_k(top_k)
        top_k = self.top_k if top_k is None else top_k
        scale_score = self.scale_score if scale_score is None else scale_score
        filters = apply_filter_policy(self.filter_policy, self.filters, filters)
        generation = self._fresh()
        allowed = self._allowed(generation, filters) if filters else None
        hits = generation.index.search(query, top_k, allowed=allowed)
        without_embedding = getattr(self.document_store, "return_embedding", True) is False
        found = []
        for rank, (position, value) in enumerate(zip(hits.positions, hits.scores, strict=True), start=1):
            document, score = generation.documents[position], float(value)
            meta = with_record(document.meta, NAME, {"score": score, "rank": rank})
            shown = 1.0 / (1.0 + math.exp(-score / _SCALE)) if scale_score else score
            embedding = None if without_embedding else document.embedding
            found.append(replace(document, score=shown, meta=meta, embedding=embedding))
        return {"documents": found}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        scale_score: bool | None = None,
    ) -> dict[str, Any]:
        """Do what `run` does, in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.run, query, filters, top_k, scale_score)

    def _fresh(self) -> _Generation:
        """Return an index of the documents that the store has now. A run goes on with the generation it began with."""
        documents = self._stored()
        current = self._generation
        if current is not None and _same(current.documents, documents):
            return current
        with _REFRESH:
            current = self._generation
            if current is not None and _same(current.documents, documents):
                return current
            self._generation = fresh = self._next(current, documents)
        return fresh

    def _stored(self) -> list[Document]:
        storage = getattr(self.document_store, "storage", None)
        if isinstance(storage, dict):  # the in-memory store's own objects, without the copies filter_documents makes
            return list(storage.values())
        return self.document_store.filter_documents()

    def _next(self, current: _Generation | None, documents: list[Document]) -> _Generation:
        if current is None:
            texts = (_content(document) for document in documents)
            return _Generation(documents, BM25Index.build(texts, analysis=self._analysis, scoring=self._scoring))
        known = {document.id: place for place, document in enumerate(current.documents)}
        previous = []
        for document in documents:
            place = known.get(document.id, -1)
            same_text = place >= 0 and _content(current.documents[place]) == _content(document)
            previous.append(place if same_text else -1)
        new = [_content(doc) for doc, place in zip(documents, previous, strict=True) if place < 0]
        return _Generation(documents, current.index.update(previous, new))

    def _allowed(self, generation: _Generation, filters: dict[str, Any]) -> Allowed:
        """Return the documents that the store's own filter lets through; kept for the next run with the same filter."""
        key = json.dumps(filters, sort_keys=True, default=repr)
        allowed = generation.allowed.get(key)
        if allowed is None:
            ids = {document.id for document in self.document_store.filter_documents(filters)}
            allowed = generation.index.allow(np.array([document.id in ids for document in generation.documents], bool))
            if len(generation.allowed) >= _KEPT_FILTERS:
                generation.allowed.clear()
            generation.allowed[key] = allowed
        return allowed


def _check_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k <= 0:
        raise ValueError(f"top_k must be > 0, but got {top_k}")


def _content(document: Document) -> str:
    return document.content if document.content is not None else ""


def _same(before: Sequence[Document], now: Sequence[Document]) -> bool:
    """Tell whether two states of a store are the same; objects that are the same ones need no look inside."""
    return len(before) == len(now) and all(
        old is new or (old.id == new.id and old.content == new.content and old.meta == new.meta)
        for old, new in zip(before, now, strict=True)
    )
