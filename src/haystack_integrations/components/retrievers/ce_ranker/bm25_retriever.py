"""
`BM25Retriever`: BM25 over the documents of any Haystack document store, as a component.

It checks parameters, hands the query to the index (`store_index.py`) or to the store's own engine (`native.py`), and
notes the scores. It has no arithmetic of its own.
"""

import asyncio
import copy
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any, Literal, NamedTuple

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.document_stores.types import DocumentStore, FilterPolicy
from haystack.document_stores.types.filter_policy import apply_filter_policy

from haystack_ce_ranker import checks, provenance
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.index import Allowed
from haystack_ce_ranker.bm25.scoring import Scoring
from haystack_ce_ranker.bm25.words import DEFAULT_TOKENIZATION_REGEX
from haystack_ce_ranker.observing import observed
from haystack_integrations.components.retrievers.ce_ranker import native
from haystack_integrations.components.retrievers.ce_ranker.filters import Search
from haystack_integrations.components.retrievers.ce_ranker.store_index import Hit, Indexed, StoreIndex
from haystack_integrations.components.retrievers.ce_ranker.stores import require_store_type

_ENGINES = ("auto", "bm25s", "native")
_FILTER_POLICIES = tuple(policy.value for policy in FilterPolicy)
_REFRESH = ("auto", "every_run", "manual")


class _Asked(NamedTuple):
    """A run's arguments, checked and joined with the component's own."""

    query: str
    filters: dict[str, Any] | None
    top_k: int
    scale_score: bool


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
    store's order. A query finds nothing if the collection has none of its words.
    If the store could not be looked at again, so that the index may be old, `refresh_error` in the record says why.

    Words of one letter or digit count like others. Stop words are looked for if a query has no other words; see
    `Analysis.query_terms`. The manual says what counts as a word.

    The index holds about 6 bytes per distinct word of each document. The documents of an in-memory store stay there:
    the component refers to them, 16 bytes each. Of a store that quickly finds documents by id (Qdrant, Chroma, Milvus,
    pgvector, OpenSearch, Elasticsearch) it keeps the ids. The hits are fetched, so they come back as they are in the
    store, with embeddings if the store is set to return them. Of any other store it keeps all documents without their
    embeddings, and returns them so.

    The collection is the whole store. A store that lists fewer documents than it counts is an error.

    :param document_store: Where the documents are.
    :param filters: Haystack filters that a document must pass.
    :param filter_policy: Whether filters given to `run` `"replace"` these or are `"merge"`d with them.
    :param top_k: The most documents to return.
    :param scale_score: Put `1 / (1 + exp(-score / 8))` into `Document.score`, as Haystack does, instead of the score.
    :param language: The language whose stemmer and stop words to use; None for neither. See
        `haystack_ce_ranker.bm25.analysis.languages()`.
    :param tokenization_regex: A pattern that words match, in lower-case NFC text. None for words, and single characters
        of Chinese, Japanese and Korean, as in Haystack 3.
    :param method: The variant of BM25; see `haystack_ce_ranker.bm25.scoring.Scoring`, also for the next three.
    :param k1: How slowly repetitions saturate.
    :param b: How much a document's length counts.
    :param delta: The lower bound of `bm25l` and `bm25plus`.
    :param meta_fields_to_index: Meta fields that are searched with the content, as further lines of it.
    :param index_path: A folder to keep the index in, so that a restart opens the index instead of building it. An index
        there that does not fit the store or these parameters, or is damaged, is replaced, with a warning.
    :param refresh: When to look for changes in the store. `"auto"`: at every run, at the cost that `freshness.py`
        states; see also `refresh_seconds`. `"every_run"`: every run reads the store and compares all texts. `"manual"`:
        only when `refresh_index()` is called.
    :param refresh_seconds: With `"auto"`, the seconds from one reading of the store to the next at least, for a store
        that can tell only how many documents it has: any but the in-memory one. It is read in the background, and runs
        go on with the old index and the filters evaluated on it. So a change is seen this much later, and the time that
        the reading takes. `refresh_index()` reads it at once.
    :param engine: `"bm25s"` for the index of this package, `"native"` for the engine of the store, `"auto"` for the
        store's engine if that ranks by BM25. The parameters from `language` to `refresh_seconds` do not apply to a
        native engine, whose own index defines how it analyses and scores; `haystack_ce_ranker.bm25.lucene` defines one
        that does as ours. Its records also hold `engine`, `kind` (what the scores are), and `query_words_left_out` if
        the query was too long for it. If they are no BM25, the records stand under `"keyword"`.
    :param native_parameters: Further init parameters of the store's own BM25 retriever, for example `fuzziness`.
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
        refresh_seconds: float = 60.0,
        engine: Literal["auto", "bm25s", "native"] = "auto",
        native_parameters: dict[str, Any] | None = None,
    ) -> None:
        """
        Create the retriever; nothing is read before `warm_up` or the first run. The class describes the parameters.

        :raises ValueError: If a parameter has a value it cannot have.
        """
        self.document_store = _store("document_store", document_store)
        self.filters = checks.options("filters", filters)
        self.filter_policy = FilterPolicy(
            checks.choice("filter_policy", getattr(filter_policy, "value", filter_policy), _FILTER_POLICIES)
        )
        self.top_k = checks.whole_number("top_k", top_k)
        self.scale_score = checks.flag("scale_score", scale_score)
        self.language = checks.text("language", language, optional=True)
        self.tokenization_regex = checks.text("tokenization_regex", tokenization_regex, empty=False, optional=True)
        scoring = Scoring(method=method, k1=k1, b=b, delta=delta)
        self.method, self.k1, self.b, self.delta = scoring.method, scoring.k1, scoring.b, scoring.delta
        self.meta_fields_to_index = checks.names("meta_fields_to_index", meta_fields_to_index)
        self.index_path = checks.path("index_path", index_path)
        self.refresh = checks.choice("refresh", refresh, _REFRESH)
        self.refresh_seconds = checks.number("refresh_seconds", refresh_seconds, least=0)
        self.engine = checks.choice("engine", engine, _ENGINES)
        self.native_parameters = checks.options("native_parameters", native_parameters)

        pattern = DEFAULT_TOKENIZATION_REGEX if self.tokenization_regex is None else self.tokenization_regex
        self._native = self._native_retriever()
        self._index = StoreIndex(
            document_store,
            analysis=Analysis(self.language, pattern),
            scoring=scoring,
            meta_fields=() if self.meta_fields_to_index is None else tuple(self.meta_fields_to_index),
            path=self.index_path,
            refresh=self.refresh,
            refresh_seconds=self.refresh_seconds,
        )

    def _native_retriever(self) -> native.NativeRetriever | None:
        """Return the retriever of the store's own engine, or None if the index of this package is to be used."""
        if self.engine == "bm25s" or (self.engine == "auto" and not native.ranks_by_bm25(self.document_store)):
            if self.native_parameters is not None:
                raise ValueError(
                    "native_parameters needs a store with its own engine, and engine='native' or 'auto', "
                    f"but got {self.native_parameters!r}: omit it"
                )
            return None
        if self.meta_fields_to_index:
            raise ValueError(
                f"meta_fields_to_index does not apply to a store's own engine, but got {self.meta_fields_to_index!r}: "
                "map the fields in the store's index, pass a custom query in native_parameters, or use engine='bm25s'"
            )
        parameters = {} if self.native_parameters is None else self.native_parameters
        return native.NativeRetriever(self.document_store, parameters)

    def __deepcopy__(self, memo: dict[int, Any]) -> "BM25Retriever":
        """Copy the component; the copy reads the same document store, which is not copied."""
        shared = ("document_store", "_native")
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        for name, value in self.__dict__.items():
            clone.__dict__[name] = value if name in shared else copy.deepcopy(value, memo)
        return clone

    def _get_telemetry_data(self) -> dict[str, Any]:
        return {"document_store": type(self.document_store).__name__}

    def to_dict(self) -> dict[str, Any]:
        """
        Serialize the component to plain values.

        :raises ValueError: If `filters` or `native_parameters` hold something that a YAML cannot; the error names it.
        """
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        values = {name: getattr(self, name) for name in names}
        values |= {"document_store": self.document_store.to_dict(), "filter_policy": self.filter_policy.value}
        return default_to_dict(
            self,
            **{
                name: copy.deepcopy(value) if name == "document_store" else checks.writable(name, value)
                for name, value in values.items()
            },
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "BM25Retriever":
        """
        Make the component from what `to_dict` returned; `data` stays as it is.

        :raises ValueError: If `document_store` names another class than a document store's, or another parameter one.
        """
        parameters = data.get("init_parameters", {})
        checks.require_plain(parameters, but=("document_store",))
        require_store_type("document_store", parameters.get("document_store"))
        return default_from_dict(cls, copy.deepcopy(data))

    def warm_up(self) -> None:
        """Build or open the index if it is not there yet; otherwise the first run does it."""
        if self._native is None and not self._index.is_built:
            self._index.current()

    async def warm_up_async(self) -> None:
        """Do what `warm_up` does without blocking the event loop."""
        if self._native is None and not self._index.is_built:
            await asyncio.to_thread(self.warm_up)

    def close(self) -> None:
        """
        Release the index, and what the document store holds if it can be closed.

        A search that is running ends undisturbed in the index of this package. A later run builds or opens the index
        again.
        """
        self._index.close()
        if hasattr(self.document_store, "close"):
            self.document_store.close()

    async def close_async(self) -> None:
        """Do what `close` does without blocking the event loop, and close the store's asynchronous client, too."""
        await asyncio.to_thread(self.close)
        if hasattr(self.document_store, "close_async"):
            await self.document_store.close_async()

    def refresh_index(self) -> None:
        """Read the store and bring the index up to date, whatever `refresh` says; all texts are compared."""
        if self._native is None:
            self._index.bring_up_to_date()

    @component.output_types(documents=list[Document])
    @observed("retrieve", lambda self, output: self._tags(output))
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
        :returns: `documents`, best first. There are fewer than `top_k` only if no others have a word of the query and
            pass the filters.
        :raises ValueError: If a value is not what its parameter takes.
        """
        asked = self._asked(query, filters, top_k, scale_score)
        if not query.strip():
            return {"documents": []}
        if self._native is not None:
            answer = self._native.run(query, asked.filters, asked.top_k)
            return {"documents": _noted_native(answer, asked.scale_score)}
        indexed = self._index.current()
        allowed = self._index.allowed(indexed, asked.filters, Search(query, asked.top_k))
        return {"documents": self._search(indexed, asked, allowed)}

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
        if self._native is None:
            result: dict[str, list[Document]] = await asyncio.to_thread(self.run, query, filters, top_k, scale_score)
            return result
        return await self._run_native(self._native, self._asked(query, filters, top_k, scale_score))

    @observed("retrieve", lambda self, output: self._tags(output))
    async def _run_native(self, engine: native.NativeRetriever, asked: _Asked) -> dict[str, list[Document]]:
        if not asked.query.strip():
            return {"documents": []}
        answer = await engine.run_async(asked.query, asked.filters, asked.top_k)
        return {"documents": _noted_native(answer, asked.scale_score)}

    def _tags(self, output: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a span tells of a run."""
        return {
            "documents": len(output["documents"]),
            "engine": "own" if self._native is None else self._native.engine.name,
            "refresh_failed": self._native is None and self._index.failure is not None,
        }

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
        :raises ValueError: If a value is not what its parameter takes.
        """
        if isinstance(queries, str):
            raise ValueError(f"queries must be a list of texts, but got {queries!r:.100}: use run for one query.")
        if self._native is not None:
            return {"documents": [self.run(query, filters, top_k, scale_score)["documents"] for query in queries]}
        searches = [self._asked(query, filters, top_k, scale_score) for query in queries]
        indexed = self._index.current()
        allowed = self._index.allowed(indexed, self._filters(filters))
        return {"documents": [self._search(indexed, asked, allowed) for asked in searches]}

    def _asked(self, query: str, filters: dict[str, Any] | None, top_k: int | None, scale_score: bool | None) -> _Asked:
        return _Asked(
            checks.text("query", query),
            self._filters(filters),
            self.top_k if top_k is None else checks.whole_number("top_k", top_k),
            self.scale_score if scale_score is None else checks.flag("scale_score", scale_score),
        )

    def _filters(self, given: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the filters of a search. Haystack before 3 writes the given ones into its own when it merges them."""
        own = copy.deepcopy(self.filters)
        return apply_filter_policy(self.filter_policy, own, checks.options("filters", given))

    def _search(self, indexed: Indexed, asked: _Asked, allowed: Allowed | None) -> list[Document]:
        hits = self._index.search(indexed, asked.query, asked.top_k, allowed)
        without_embedding = getattr(self.document_store, "return_embedding", True) is False
        failure = self._index.failure
        record = {} if failure is None else {"refresh_error": failure}
        return _noted(hits, asked.scale_score, provenance.BM25, record, without_embedding=without_embedding)


_FIXED = (str, int, float, NoneType)


def _store(name: str, value: Any) -> Any:
    if not native.has_engine(value) and not callable(getattr(value, "filter_documents", None)):
        raise ValueError(f"{name} must be a Haystack document store, but got {value!r:.100}.")
    return value


def _noted(
    hits: Iterable[Hit], scale_score: bool, stage: str, record: dict[str, Any], *, without_embedding: bool = False
) -> list[Document]:
    """
    Return copies of the documents with their scores and their records.

    They share nothing that can be changed with the store's documents, as those of Haystack's own retrievers do not.

    :param stage: The name of the records.
    :param record: What every record holds beside the score and the rank.
    """
    noted = []
    for rank, (document, score) in enumerate(hits, start=1):
        own = {key: _own(value) for key, value in document.meta.items()}
        noted.append(
            replace(
                document,
                score=1.0 / (1.0 + math.exp(-score / provenance.BM25_SCALING)) if scale_score else score,
                meta=provenance.with_record(own, stage, {"score": score, "rank": rank, **record}),
                embedding=None if without_embedding else copy.copy(document.embedding),
                sparse_embedding=copy.deepcopy(document.sparse_embedding),
                blob=copy.deepcopy(document.blob),
            )
        )
    return noted


def _own(value: Any) -> Any:
    """Return a copy of a value of a document's meta; the value itself if it has none, as a lock has not."""
    if isinstance(value, _FIXED):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _noted_native(answer: native.Answer, scale_score: bool) -> list[Document]:
    hits = [Hit(found, 0.0 if found.score is None else float(found.score)) for found in answer.documents]
    return _noted(hits, scale_score, answer.stage, answer.record)
