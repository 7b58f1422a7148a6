"""
Document stores with a keyword engine of their own, and how a query is handed to it.

The retriever of the store's integration asks the engine. It is imported only when such a store is given, so its package
is installed then. `clauses.py` shortens a query that is too long for the engine.

To add a store, add its line to `ENGINES`, and a test on the real engine. The retriever named there must take
`document_store` and have Haystack's `run(query, filters, top_k)` and `run_async`.
"""

import asyncio
import copy
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

from haystack import Document, logging

from haystack_ce_ranker.provenance import BM25, KEYWORD
from haystack_integrations.components.retrievers.ce_ranker import integrations
from haystack_integrations.components.retrievers.ce_ranker.clauses import Attempts
from haystack_integrations.components.retrievers.ce_ranker.stores import entry_for

_STORES = "haystack_integrations.document_stores"
_RETRIEVERS = "haystack_integrations.components.retrievers"
_AS_WRITTEN = {"fuzziness": "0"}  # Elasticsearch's retriever would also count words that are spelt alike

logger = logging.getLogger(__name__)


class Engine(NamedTuple):
    """
    The engine of a store.

    :param name: What records call it.
    :param retriever: The qualified name of the integration's retriever.
    :param score: What its scores are: `"bm25"`, or the name of the engine's own function. Only BM25 is used unasked,
        and joined as BM25.
    :param parameters: What the retriever is given unless the user gives it otherwise.
    :param for_one_run: Given a store that serves one thread at a time, returns one for a single run. None for a store
        that serves several.
    """

    name: str
    retriever: str
    score: str = BM25
    parameters: Mapping[str, Any] = MappingProxyType({})
    for_one_run: Callable[[Any], Any] | None = None


ENGINES = {
    f"{_STORES}.elasticsearch.document_store.ElasticsearchDocumentStore": Engine(
        "elasticsearch",
        f"{_RETRIEVERS}.elasticsearch.bm25_retriever.ElasticsearchBM25Retriever",
        parameters=_AS_WRITTEN,
    ),
    f"{_STORES}.opensearch.document_store.OpenSearchDocumentStore": Engine(
        "opensearch", f"{_RETRIEVERS}.opensearch.bm25_retriever.OpenSearchBM25Retriever", parameters=_AS_WRITTEN
    ),
    # Supabase's store derives from this one.
    f"{_STORES}.pgvector.document_store.PgvectorDocumentStore": Engine(
        "postgresql",
        f"{_RETRIEVERS}.pgvector.keyword_retriever.PgvectorKeywordRetriever",
        "ts_rank_cd",
        for_one_run=integrations.with_own_cursors,
    ),
}
"""The engine of a store, by the qualified name of the store's class."""


class Answer(NamedTuple):
    """
    What an engine found.

    :param stage: The stage under which it is noted: `"bm25"`, or `"keyword"` if the scores are no BM25.
    :param record: What every record holds beside the score and the rank.
    """

    documents: list[Document]
    stage: str
    record: dict[str, Any]


def has_engine(document_store: Any) -> bool:
    """Tell whether the store brings an engine that is known here."""
    return entry_for(document_store, ENGINES) is not None


def ranks_by_bm25(document_store: Any) -> bool:
    """Tell whether the store brings an engine whose scores are BM25."""
    engine = entry_for(document_store, ENGINES)
    return engine is not None and engine.score == BM25


class NativeRetriever:
    """
    Asks the engine of a store. Safe to use from several threads.

    :param parameters: Other init parameters of that retriever, for example `{"fuzziness": 0}`.
    :raises ValueError: If the store has no engine that is known here.
    """

    def __init__(self, document_store: Any, parameters: dict[str, Any]) -> None:
        engine = entry_for(document_store, ENGINES)
        if engine is None:
            known = ", ".join(name.rpartition(".")[2] for name in ENGINES)
            raise ValueError(
                f"engine='native' needs a store with a keyword engine ({known}), "
                f"but got {type(document_store).__name__}: use engine='bm25s' or 'auto'"
            )
        module, _, class_name = engine.retriever.rpartition(".")
        self.engine = engine
        given = {**engine.parameters, **parameters}
        self._retriever = getattr(import_module(module), class_name)(document_store=document_store, **given)
        self._store = document_store
        self._warned = False

    def run(self, query: str, filters: dict[str, Any] | None, top_k: int) -> Answer:
        """
        Ask the engine.

        :raises ValueError: If `top_k` is beyond what the engine's index returns; the message names the setting.
        """
        attempts, retriever = Attempts(self._store, query, top_k), self._retriever
        if self.engine.for_one_run is not None:
            retriever = copy.copy(retriever)
            retriever.document_store = self.engine.for_one_run(self._store)
        while True:
            try:
                found = retriever.run(query=attempts.text, filters=filters, top_k=top_k)
            except Exception as error:  # whatever the client raises; the next line raises it unless it is about length
                attempts.shorten(error)
            else:
                return self._answer(found["documents"], attempts)

    async def run_async(self, query: str, filters: dict[str, Any] | None, top_k: int) -> Answer:
        """Do what `run` does without blocking the event loop."""
        if self.engine.for_one_run is not None:  # its asynchronous connection also serves one request at a time
            return await asyncio.to_thread(self.run, query, filters, top_k)
        attempts = Attempts(self._store, query, top_k)
        while True:
            try:
                found = await self._retriever.run_async(query=attempts.text, filters=filters, top_k=top_k)
            except Exception as error:
                await asyncio.to_thread(attempts.shorten, error)
            else:
                return self._answer(found["documents"], attempts)

    def _answer(self, documents: list[Document], attempts: Attempts) -> Answer:
        record: dict[str, Any] = {"engine": self.engine.name, "kind": self.engine.score}
        if attempts.left_out:
            record["query_words_left_out"] = attempts.left_out
            if not self._warned:
                self._warned = True
                logger.warning(
                    "A query has more words than {engine} takes ({limit}): {left_out} were left out, those that say "
                    "least. Each record says so (query_words_left_out); of further queries no warning tells.",
                    engine=self.engine.name,
                    limit=attempts.limit,
                    left_out=attempts.left_out,
                )
        return Answer(documents, BM25 if self.engine.score == BM25 else KEYWORD, record)
