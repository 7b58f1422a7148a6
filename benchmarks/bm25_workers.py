"""
What building, opening and searching an index takes in a process of its own, for `bm25.py`.

    python benchmarks/bm25.py growth component

Larger collections are made by recombining sentences of the collections' passages (seed 0, three sentences each).
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common import milliseconds, own_gb, peak_gb, resident_gb, serve
from haystack_ce_ranker.data.collections import load_collection

SOURCES = ("dl19", "vaswani", "cacm", "med")
TOP_K = 50


class Job(NamedTuple):
    """What a worker is to do: passages made of this folder's collections, queries, and where its files go."""

    folder: Path
    size: int
    queries: int
    target: Path | None = None


@cache
def sentences(folder: Path) -> list[str]:
    """Return the sentences of all collections; they stay in memory, so that no measurement sees them go."""
    return [
        part.strip()
        for name in SOURCES
        for document in load_collection(folder / name).documents.values()
        for part in document.content.split(". ")
        if len(part) > 20
    ]


def passages(folder: Path, count: int) -> Iterator[str]:
    """Make passages of three sentences each, of all the collections' sentences."""
    parts = sentences(folder)
    random = np.random.default_rng(0)
    while count > 0:
        for chosen in random.integers(0, len(parts), (min(count, 10_000), 3)):
            yield ". ".join(parts[i] for i in chosen)
        count -= 10_000


def some_queries(folder: Path, count: int) -> list[str]:
    """Return queries of all collections, of each as many as it has in proportion."""
    queries = [query for name in SOURCES for query in load_collection(folder / name).queries.values()]
    return [queries[i] for i in np.random.default_rng(1).permutation(len(queries))[:count]]


def times(function: Callable[[str], Any], queries: Sequence[str], *, warm: int = 5) -> np.ndarray:
    """Return the milliseconds of each query."""
    for query in queries[:warm]:
        function(query)
    return np.array([milliseconds(partial(function, query)) for query in queries])


def build_ours(job: Job) -> dict[str, Any]:
    """Build and save an index."""
    from haystack_ce_ranker.bm25.index import BM25Index

    BM25Index.build(["warm up"])
    texts = passages(job.folder, job.size)
    first = next(texts)  # reading the collections is no part of building
    before = time.perf_counter()
    index = BM25Index.build(chain([first], texts))
    built = time.perf_counter() - before
    before = time.perf_counter()
    index.save(job.target)
    saved = time.perf_counter() - before
    files = sum(path.stat().st_size for path in job.target.iterdir())
    return {
        "build": built,
        "save": saved,
        "peak": peak_gb(),
        "disk": files / 2**20,
    }


def search_ours(job: Job) -> dict[str, Any]:
    """Open a saved index and search it."""
    from haystack_ce_ranker.bm25.index import BM25Index

    asked = some_queries(job.folder, job.queries)
    BM25Index.build(["warm up"]).search("warm")
    before, memory = time.perf_counter(), resident_gb()
    index = BM25Index.open(job.target)
    opened = time.perf_counter() - before
    first = times(lambda query: index.search(query, TOP_K), asked, warm=0)
    resident, own = resident_gb(), own_gb()
    plain = times(lambda query: index.search(query, TOP_K), asked)
    allowed = index.allow(np.random.default_rng(2).random(job.size) < 0.1)
    filtered = times(lambda query: index.search(query, TOP_K, allowed=allowed), asked)
    return {
        "open": opened,
        "resident": resident,
        "own": own,
        "of_index": resident - memory,
        "first": spread(first),
        "plain": spread(plain),
        "filtered": spread(filtered),
        "documents": len(index),
    }


def bm25s_tokens(texts: Sequence[str]) -> Any:
    """Return texts as bm25s reads them: English stems, without Lucene's stop words."""
    import bm25s
    import Stemmer

    return bm25s.tokenize(texts, stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False)


def bm25s_search(index: Any, backend: str) -> Callable[[str], Any]:
    """Return a search of bm25s, with the query's analysis in it."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def find(query: str) -> Any:
        words = bm25s.tokenize(query, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)
        return index.retrieve(words, k=TOP_K, show_progress=False, backend_selection=backend)

    return find


def bm25s_alone(job: Job) -> dict[str, Any]:
    """Do the same with bm25s."""
    import bm25s

    texts = list(passages(job.folder, job.size))
    asked = some_queries(job.folder, job.queries)
    before = time.perf_counter()
    tokens = bm25s_tokens(texts)
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75, backend="numba")
    index.index(tokens, show_progress=False)
    measured: dict[str, Any] = {"build": time.perf_counter() - before, "peak": peak_gb()}
    measured["numba"] = spread(times(bm25s_search(index, "numba"), asked, warm=2))
    index.backend = "numpy"
    index._compute_relevance_from_scores = bm25s.BM25._compute_relevance_from_scores
    measured["numpy"] = spread(times(bm25s_search(index, "numpy"), asked[:30], warm=2))
    index.save(job.target, show_progress=False)
    measured["disk"] = sum(path.stat().st_size for path in job.target.iterdir()) / 2**20
    return measured


def search_bm25s(job: Job, *, mapped: bool = True) -> dict[str, Any]:
    """Open what `bm25s_alone` saved, by memory map or not, and search it."""
    import bm25s

    asked = some_queries(job.folder, job.queries)
    before = time.perf_counter()
    index = bm25s.BM25.load(job.target, mmap=mapped)
    opened = time.perf_counter() - before
    index.backend = "numba"
    measured = spread(times(bm25s_search(index, "numba"), asked, warm=2))
    return {"open": opened, "resident": resident_gb(), "own": own_gb(), "numba": measured}


def haystack_alone(job: Job) -> dict[str, Any]:
    """Do the same with Haystack's store, whose BM25 scores every document."""
    from haystack import Document
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    documents = [Document(id=str(i), content=text) for i, text in enumerate(passages(job.folder, job.size))]
    asked = some_queries(job.folder, job.queries)[: max(3, 200_000 // job.size)]
    store = InMemoryDocumentStore()
    before = time.perf_counter()
    store.write_documents(documents)
    built = time.perf_counter() - before
    measured = times(lambda query: store.bm25_retrieval(query, top_k=TOP_K), asked, warm=1)
    return {"build": built, "peak": peak_gb(), "resident": resident_gb(), "plain": spread(measured)}


class Remote:
    """
    A store as the protocol has it, on a file of lines; `filter_documents` makes every document anew.

    Stores that are not in this process do so, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def filter_documents(self) -> list[Any]:
        """Read all documents."""
        from haystack import Document

        with self.path.open(encoding="utf-8") as lines:
            return [Document.from_dict(json.loads(line)) for line in lines]


def memory(job: Job) -> dict[str, Any]:
    """See what the component adds to an in-memory store, or with a target to a store that hands out new objects."""
    import logging

    from haystack import Document
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_ce_ranker import BM25Retriever
    from haystack_ce_ranker.bm25.index import BM25Index

    logging.getLogger("haystack_integrations").setLevel(logging.ERROR)
    BM25Index.build(["warm up"]).search("warm")
    texts = passages(job.folder, job.size)
    first = next(texts)  # reading the collections is no part of it
    store: Any
    before = resident_gb()
    plain = ({"id": str(i), "content": text, "meta": {"part": i % 10}} for i, text in enumerate(chain([first], texts)))
    if job.target is None:
        store = InMemoryDocumentStore(bm25_tokenization_regex="(?!)")
        store.write_documents([Document(**document) for document in plain])
    else:
        with job.target.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(document) + "\n" for document in plain)
        store = Remote(job.target)
    documents = resident_gb()
    retriever = BM25Retriever(store, refresh="manual")
    retriever.warm_up()
    component = resident_gb() - documents
    index = BM25Index.build(passages(job.folder, job.size))  # the same as the component's
    base = index._base
    arrays = [base.indptr, base.documents, base.codes, *base.impacts, *index._shares, index._lengths, index._positions]
    return {
        "documents": (documents - before) * 1024 if job.target is None else 0.0,
        "component": component * 1024,
        "index": sum(array.nbytes for array in arrays) / 2**20,
    }


def spread(values: np.ndarray) -> list[float]:
    """Return median and 95th percentile."""
    return [float(np.median(values)), float(np.percentile(values, 95))]


def started(worker: str, folder: str, size: int, queries: int, target: str | None = None) -> dict[str, Any]:
    """Run a worker with what `in_a_process` hands over."""
    return WORKERS[worker](Job(Path(folder), size, queries, None if target is None else Path(target)))


WORKERS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "build_ours": build_ours,
    "search_ours": search_ours,
    "bm25s_alone": bm25s_alone,
    "search_bm25s": search_bm25s,
    "search_bm25s_loaded": partial(search_bm25s, mapped=False),
    "haystack_alone": haystack_alone,
    "memory": memory,
}

if __name__ == "__main__":
    serve({name: partial(started, name) for name in WORKERS})
