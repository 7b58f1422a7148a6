"""
OpenSearch's BM25 beside ours, on a real server: whether the rankings agree, and what both cost on many passages.

    python benchmarks/engines.py ranking
    python benchmarks/engines.py scale --sizes 10000,100000,1000000 --heap 2g
    python benchmarks/engines.py pipeline --sizes 100000

`../shared/tools/opensearch` starts the server, with Java; `CE_RANKER_OPENSEARCH=http://127.0.0.1:9200` names one that
runs already. Larger collections are made by recombining sentences of the collections' passages (seed 0, three sentences
each). Queries are asked one after another. Each size has a process of its own.
"""

import argparse
import logging
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

import common
import opensearch_nodes
from bm25_workers import passages, some_queries, times
from common import Report
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10
from opensearch_nodes import opensearch_server
from opensearch_ranking import DEFINITIONS, TOP_K, agreement, ours

COLLECTIONS = ("vaswani", "med", "dl19", "cacm")
BATCH = 5000


def ranking(arguments: argparse.Namespace, report: Report) -> None:
    """Compare the top 10 and nDCG@10 of the server's BM25 with ours, by how the server analyses."""
    folders = {name: common.collection_folder(arguments, name) for name in COLLECTIONS}
    report.table(
        "OpenSearch beside BM25Index: share of the top 10 in common, and nDCG@10",
        *("collection", "the server analyses by", "in common", "with lengths rounded", "nDCG@10", "ours"),
    )
    with tempfile.TemporaryDirectory() as temporary, opensearch_server(Path(temporary) / "node") as url:
        for name, folder in folders.items():
            collection = load_collection(folder)
            index = BM25Index.build(text.content for text in collection.documents.values())
            documents = list(collection.documents)
            run = {
                key: {documents[i]: float(score) for i, score in zip(*index.search(query, TOP_K), strict=True)}
                for key, query in collection.queries.items()
            }
            mine = f"{mean(ndcg_at_10(run, collection.judgments)):.4f}"
            for label, definition in DEFINITIONS.items():
                found = agreement(url, collection, index, definition())
                value = mean(ndcg_at_10(found.run, collection.judgments))
                report.row(name, label, f"{found.overlap:.1%}", f"{found.rounded:.1%}", f"{value:.4f}", mine)
                if definition is not ours:
                    continue
                if name != "cacm":
                    report.at_least(f"{name}, our analysis: at least 98 % in common", found.overlap, 0.98, "{:.2%}")
                report.at_least(f"{name}, our analysis, lengths rounded: 99 %", found.rounded, 0.99, "{:.2%}")


def scale(arguments: argparse.Namespace, report: Report) -> None:
    """Compare what both engines take to write and to search many passages."""
    common.collection_folder(arguments, "dl19")
    report.table(
        f"{arguments.queries} queries, top {arguments.top_k}, one at a time",
        *("passages", "engine", "written and built s", "resident GB", "p50 ms", "p95 ms", "p99 ms"),
    )
    for size in map(int, arguments.sizes.split(",")):
        for worker, label in (("theirs", f"OpenSearch, one node, heap {arguments.heap}"), ("own", "BM25Index")):
            job = {"folder": arguments.data, "size": size, "queries": arguments.queries, "top_k": arguments.top_k}
            heap = {"heap": arguments.heap} if worker == "theirs" else {}
            found = common.in_a_process(Path(__file__), worker=worker, **job, **heap)
            if "failed" in found:
                raise common.CannotRun(f"{label} of {size:,} passages {found['failed']}")
            report.row(f"{size:,}", label, found["built"], found["resident"], *found["times"])


def theirs(folder: str, size: int, queries: int, top_k: int, heap: str) -> dict[str, Any]:
    """Write passages into OpenSearch through its store, and ask it through `BM25Retriever`."""
    from haystack_integrations.document_stores.opensearch import OpenSearchDocumentStore

    from haystack_ce_ranker import BM25Retriever

    logging.getLogger("haystack_integrations").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary, opensearch_server(Path(temporary) / "node", heap=heap) as url:
        store = OpenSearchDocumentStore(hosts=url, index=f"scale-{uuid4().hex}", timeout=300, **ours())
        next(passages(Path(folder), 1))  # reading the collections is no part of it
        store.count_documents()
        before = time.perf_counter()
        fill(store, folder, size)
        built = time.perf_counter() - before
        taken = times(BM25Retriever(store, top_k=top_k, engine="native").run, some_queries(Path(folder), queries))
        resident = opensearch_nodes.resident_gb(url)
        store._client.indices.delete(index=store._index)
    return {"built": built, "resident": resident, "times": percentiles(taken)}


def own(folder: str, size: int, queries: int, top_k: int) -> dict[str, Any]:
    """Build the index of this package, and search it."""
    BM25Index.build(["warm up"]).search("warm")
    asked = some_queries(Path(folder), queries)
    next(passages(Path(folder), 1))
    held = common.resident_gb()
    before = time.perf_counter()
    index = BM25Index.build(passages(Path(folder), size))
    built = time.perf_counter() - before
    taken = times(lambda query: index.search(query, top_k), asked)
    return {"built": built, "resident": common.resident_gb() - held, "times": percentiles(taken)}


def percentiles(taken: np.ndarray) -> list[float]:
    """Return the p50, p95 and p99."""
    return [float(np.percentile(taken, share)) for share in (50, 95, 99)]


def pipeline(arguments: argparse.Namespace, report: Report) -> None:
    """See what examples/opensearch.yaml takes as a whole: OpenSearch, the ranker of 50 candidates, the joiner."""
    common.collection_folder(arguments, "dl19")
    report.table(
        f"examples/opensearch.yaml, {arguments.pipeline_queries} queries, one at a time",
        *("passages", "what", "p50 ms", "p95 ms", "p99 ms"),
    )
    for size in map(int, arguments.sizes.split(",")):
        job = {"folder": arguments.data, "size": size, "queries": arguments.pipeline_queries, "heap": arguments.heap}
        found = common.in_a_process(Path(__file__), worker="example", **job)
        if "failed" in found:
            raise common.CannotRun(f"the example over {size:,} passages {found['failed']}")
        for label, taken in found.items():
            report.row(f"{size:,}", label, *taken)


def example(folder: str, size: int, queries: int, heap: str) -> dict[str, Any]:
    """Run the example as it stands, but for the server's address and the name of the index."""
    from haystack import Pipeline

    logging.getLogger("haystack_integrations").setLevel(logging.ERROR)
    text = (common.REPOSITORY / "examples" / "opensearch.yaml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary, opensearch_server(Path(temporary) / "node", heap=heap) as url:
        text = text.replace("http://localhost:9200", url).replace("ce-ranker-example", f"scale-{uuid4().hex}")
        made = Pipeline.loads(text)
        retriever = made.get_component("bm25_retriever")
        fill(retriever.document_store, folder, size)
        asked = some_queries(Path(folder), queries)
        whole = times(lambda query: made.run({"bm25_retriever": {"query": query}, "ranker": {"query": query}}), asked)
        alone = times(retriever.run, asked)
        retriever.document_store._client.indices.delete(index=retriever.document_store._index)
    return {"the whole pipeline": percentiles(whole), "of it OpenSearch": percentiles(alone)}


def fill(store: Any, folder: str, size: int) -> None:
    """Write passages into a store, and let the server show them."""
    from haystack import Document

    stream = enumerate(passages(Path(folder), size))
    while some := [Document(id=f"p{i}", content=text) for i, text in islice(stream, BATCH)]:
        store.write_documents(some, refresh=False)
    store._client.indices.refresh(index=store._index)


PARTS = {"ranking": ranking, "scale": scale, "pipeline": pipeline}
QUICK = {"sizes": "10000", "queries": 50, "pipeline_queries": 5}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.set_defaults(queries=200, threads=1)
    parser.add_argument("--sizes", default="10000,100000", help="passages of the last two parts, with commas between")
    parser.add_argument("--top-k", type=int, default=50, help="hits of a query in the part `scale`")
    parser.add_argument("--pipeline-queries", type=int, default=20, help="queries of the part `pipeline`")
    parser.add_argument("--heap", default="1g", help="the memory that Java gives to a server that these parts start")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options, pin=False)

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        common.serve({"theirs": theirs, "own": own, "example": example})
    else:
        BENCHMARK.main()
