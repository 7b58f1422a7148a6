"""
What BM25Retriever and its index cost and find, beside Haystack's in-memory BM25 and bm25s alone.

    python benchmarks/bm25.py                                # all, up to a million passages: minutes, 3 GB of memory
    python benchmarks/bm25.py --documents 10000,100000       # the targets for a million are left out

Larger collections are made by recombining sentences of the collections' passages (seed 0, three sentences each). Every
measurement of memory runs in a process of its own. Searches run on one thread; times are medians over the queries, each
asked once, after some others to warm up.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from haystack_ce_ranker.evaluation.data.collections import Collection, load_collection  # noqa: E402 - after the thread counts are set

SOURCES = ("dl19", "vaswani", "cacm", "med")
JUDGED = ("vaswani", "cacm", "med")
TOP_K = 50
HAYSTACK_LIMIT = 100_000


class Job(NamedTuple):
    """What a worker is to do: so many passages made of this folder's collections, so many queries, files there."""

    folder: Path
    size: int
    queries: int
    target: Path


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--collections", type=Path, default=Path(os.environ.get("CE_RANKER_DATA", "../shared/data")))
    parser.add_argument("--documents", default="10000,100000,1000000", help="sizes of the recombined collections")
    parser.add_argument("--only", choices=["quality", "speed", "growth", "component", "updates"], help="one table")
    parser.add_argument("--queries", type=int, default=100, help="queries per measurement of the large collections")
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (arguments.collections / "dl19").is_dir():
        sys.exit(f"no collections in {arguments.collections}: name their folder with --collections or CE_RANKER_DATA")
    sizes = [int(size) for size in arguments.documents.split(",")]
    if arguments.worker:
        print(
            json.dumps(
                WORKERS[arguments.worker](Job(arguments.collections, sizes[0], arguments.queries, arguments.folder))
            )
        )
        return
    if arguments.only in (None, "quality"):
        quality(arguments.collections)
    if arguments.only in (None, "speed"):
        speed(arguments.collections)
    if arguments.only in (None, "growth"):
        growth(arguments.collections, sizes, arguments.queries)
    if arguments.only in (None, "component"):
        component(arguments.collections, arguments.queries)
    if arguments.only in (None, "updates"):
        updates(arguments.collections, sizes)


# What is measured with


def passages(folder: Path, count: int) -> Iterator[str]:
    """Make passages of three sentences each, of all the collections' sentences."""
    sentences = []
    for name in SOURCES:
        collection = load_collection(folder / name)
        for document in collection.documents.values():
            sentences.extend(part.strip() for part in document.content.split(". ") if len(part) > 20)
    random = np.random.default_rng(0)
    while count > 0:
        for chosen in random.integers(0, len(sentences), (min(count, 10_000), 3)):
            yield ". ".join(sentences[i] for i in chosen)
        count -= 10_000


def some_queries(folder: Path, count: int) -> list[str]:
    """Return queries of all collections, of each as many as it has in proportion."""
    queries = [query for name in SOURCES for query in load_collection(folder / name).queries.values()]
    return [queries[i] for i in np.random.default_rng(1).permutation(len(queries))[:count]]


def times(function: Callable[[str], Any], queries: Sequence[str], *, warm: int = 5) -> np.ndarray:
    """Return the milliseconds of each query."""
    for query in queries[:warm]:
        function(query)
    measured = []
    for query in queries:
        start = time.perf_counter()
        function(query)
        measured.append((time.perf_counter() - start) * 1000)
    return np.array(measured)


def peak_gb() -> float:
    """Return the most memory that this process has had; where the system does not tell, at least its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20
    except (OSError, StopIteration):  # the count of getrusage is inherited from the process that started this one
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def resident_gb() -> float:
    """Return the memory that this process has now; the peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_gb()
    return pages * resource.getpagesize() / 2**30


def row(*cells: Any) -> None:
    """Print a row of a Markdown table."""
    print(
        "| " + " | ".join(f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def header(title: str, *cells: str) -> None:
    """Print the head of a Markdown table."""
    print(f"\n## {title}\n")
    row(*cells)
    row(*["---"] * len(cells))


def verdict(label: str, holds: bool, figure: str) -> None:
    """Print whether a target holds."""
    print(f"- {'holds' if holds else 'MISSED'}: {label}: {figure}", flush=True)


def worker(name: str, folder: Path, size: int, queries: int, target: Path) -> dict[str, Any]:
    """Run a worker in a process of its own and return what it measured."""
    command = [sys.executable, __file__, "--worker", name, "--collections", str(folder), "--documents", str(size)]
    command += ["--queries", str(queries), "--folder", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


# Quality


def quality(folder: Path) -> None:
    """
    Compare nDCG@10 with Haystack's BM25L and with bm25s alone in nine settings.

    The published ones are those with Lucene's stop words: Lucene's own (k1 1.2, b 0.75), Anserini's (0.9, 0.4) and that
    of bm25s's figures (1.5, 0.75). The best of all nine is picked with the judgments in hand, per collection.
    """
    import bm25s
    import Stemmer
    from bm25s import stopwords
    from haystack import Document
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_ce_ranker import BM25Retriever
    from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10

    stemmer = Stemmer.Stemmer("english")
    lists: dict[str, list[str]] = {
        "Lucene's 33": list(stopwords.STOPWORDS_EN),
        "179": list(stopwords.STOPWORDS_EN_PLUS),
        "none": [],
    }
    header(
        "nDCG@10",
        *("collection", "Haystack BM25L", "BM25Retriever", "bm25s alone, best of 3 published", "its setting"),
        *("best of all 9", "its setting"),
    )
    verdicts = []
    for name in JUDGED:
        collection = load_collection(folder / name)
        names = list(collection.documents)
        texts = [document.content for document in collection.documents.values()]
        store = InMemoryDocumentStore()
        store.write_documents([Document(id=i, content=text) for i, text in zip(names, texts, strict=True)])

        def judge(find: Callable[[str], list[tuple[str, float]]], of: Collection = collection) -> float:
            return mean(ndcg_at_10({key: dict(find(query)) for key, query in of.queries.items()}, of.judgments))

        def through(retriever: Any) -> Callable[[str], list[tuple[str, float]]]:
            return lambda query: [(d.id, d.score) for d in retriever.run(query=query)["documents"]]

        theirs, mine = (
            judge(through(InMemoryBM25Retriever(store, top_k=10))),
            judge(through(BM25Retriever(store, top_k=10))),
        )
        values: dict[str, float] = {}
        for listed, words in lists.items():
            tokens = bm25s.tokenize(texts, stopwords=words, stemmer=stemmer, show_progress=False)
            for k1, b in ((0.9, 0.4), (1.2, 0.75), (1.5, 0.75)):
                index = bm25s.BM25(method="lucene", k1=k1, b=b)
                index.index(tokens, show_progress=False)

                def find(query: str, index: Any = index, words: list[str] = words, names: list[str] = names) -> Any:
                    asked = bm25s.tokenize([query], stopwords=words, stemmer=stemmer, show_progress=False)
                    found, scores = index.retrieve(asked, k=10, show_progress=False)
                    return [(names[i], float(s)) for i, s in zip(found[0], scores[0], strict=True) if s > 0]

                values[f"k1 {k1}, b {b}, stop words: {listed}"] = judge(find)
        published = max((name for name in values if "Lucene's" in name), key=values.__getitem__)
        best = max(values, key=values.__getitem__)
        row(
            *(name, f"{theirs:.4f}", f"{mine:.4f}"),
            *(f"{values[published]:.4f}", published, f"{values[best]:.4f}", best),
        )
        verdicts.append((f"{name}, at least Haystack's BM25L", mine >= theirs, f"{mine - theirs:+.4f}"))
        for label, setting in (("best published setting", published), ("best of all nine", best)):
            less = mine - values[setting]
            verdicts.append((f"{name}, within 0.005 of bm25s's {label}", less >= -0.005, f"{less:+.4f}"))
    print()
    for line in verdicts:
        verdict(*line)


# Speed on real passages


def speed(folder: Path) -> None:
    """Compare queries per second on dl19's pool, and see what the component adds to its index."""
    import bm25s
    import Stemmer
    from haystack import Document
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_ce_ranker import BM25Retriever

    collection = load_collection(folder / "dl19")
    queries = list(collection.queries.values())
    texts = [document.content for document in collection.documents.values()]
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(id=document.id, content=document.content) for document in collection.documents.values()]
    )
    manual, auto = BM25Retriever(store, refresh="manual"), BM25Retriever(store)
    start = time.perf_counter()
    manual.warm_up()
    built = time.perf_counter() - start
    auto.warm_up()
    index = manual._index.current().bm25
    stemmer = Stemmer.Stemmer("english")
    tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    def alone(backend: str) -> Callable[[str], Any]:
        other = bm25s.BM25(backend=backend)
        other.index(tokens, show_progress=False)

        def find(query: str) -> Any:
            asked = bm25s.tokenize(query, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)
            return other.retrieve(asked, k=TOP_K, show_progress=False, backend_selection=backend)

        return find

    repeated = queries * 10
    measured = {
        "BM25Index.search": times(lambda query: index.search(query, TOP_K), repeated),
        "BM25Retriever, refresh='manual'": times(manual.run, repeated),
        "BM25Retriever, refresh='auto'": times(auto.run, repeated),
        "bm25s alone, numpy": times(alone("numpy"), repeated),
        "bm25s alone, numba": times(alone("numba"), repeated),
    }
    haystack = InMemoryBM25Retriever(store, top_k=TOP_K)
    measured["InMemoryBM25Retriever"] = times(lambda query: haystack.run(query=query), queries, warm=2)
    header(f"{len(texts):,} passages (dl19), top {TOP_K}, one thread", "what", "p50 ms", "p95 ms", "queries/s")
    for name, values in measured.items():
        row(name, float(np.median(values)), float(np.percentile(values, 95)), float(1000 / values.mean()))
    print(f"\nBuilding the index through the component: {built:.2f} s.\n")
    ratio = measured["InMemoryBM25Retriever"].mean() / measured["BM25Retriever, refresh='auto'"].mean()
    verdict("at least 150 times Haystack's queries/s, through the component", bool(ratio >= 150), f"{ratio:.0f} times")
    alone_p50 = np.median(measured["BM25Index.search"])
    for refresh in ("manual", "auto"):
        adds = float(np.median(measured[f"BM25Retriever, refresh='{refresh}'"]) - alone_p50)
        verdict(f"the component adds at most 0.6 ms, refresh='{refresh}'", adds <= 0.6, f"{adds:.2f} ms")


# Growth


def build_ours(job: Job) -> dict[str, Any]:
    """Build and save an index."""
    from haystack_ce_ranker.bm25.index import BM25Index

    BM25Index.build(["warm up"])
    texts = passages(job.folder, job.size)
    first = next(texts)  # reading the collections is no part of building
    before = time.perf_counter()
    index = BM25Index.build(_chain(first, texts))
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
        "postings": len(index._base.documents),
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
    resident = resident_gb()
    plain = times(lambda query: index.search(query, TOP_K), asked)
    allowed = index.allow(np.random.default_rng(2).random(job.size) < 0.1)
    filtered = times(lambda query: index.search(query, TOP_K, allowed=allowed), asked)
    return {
        "open": opened,
        "resident": resident,
        "of_index": resident - memory,
        "first": _spread(first),
        "plain": _spread(plain),
        "filtered": _spread(filtered),
        "documents": len(index),
    }


def bm25s_alone(job: Job) -> dict[str, Any]:
    """Do the same with bm25s."""
    import bm25s
    import Stemmer

    texts = list(passages(job.folder, job.size))
    asked = some_queries(job.folder, job.queries)
    stemmer = Stemmer.Stemmer("english")
    before = time.perf_counter()
    tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75, backend="numba")
    index.index(tokens, show_progress=False)
    built, peak = time.perf_counter() - before, peak_gb()
    measured = {"build": built, "peak": peak}
    for backend in ("numba", "numpy"):
        index.backend = backend
        if backend == "numpy":
            index._compute_relevance_from_scores = bm25s.BM25._compute_relevance_from_scores

        def find(query: str) -> Any:
            words = bm25s.tokenize(query, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)
            return index.retrieve(words, k=TOP_K, show_progress=False)

        measured[backend] = _spread(times(find, asked if backend == "numba" else asked[:30], warm=2))
    index.save(job.target, show_progress=False)
    measured["disk"] = sum(path.stat().st_size for path in job.target.iterdir()) / 2**20
    return measured


def search_bm25s(job: Job) -> dict[str, Any]:
    """Open what `bm25s_alone` saved by memory map and search it."""
    import bm25s
    import Stemmer

    asked = some_queries(job.folder, job.queries)
    stemmer = Stemmer.Stemmer("english")
    before = time.perf_counter()
    index = bm25s.BM25.load(job.target, mmap=True)
    opened = time.perf_counter() - before
    index.backend = "numba"

    def find(query: str) -> Any:
        words = bm25s.tokenize(query, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)
        return index.retrieve(words, k=TOP_K, show_progress=False, backend_selection="numba")

    measured = _spread(times(find, asked, warm=2))
    return {"open": opened, "resident": resident_gb(), "numba": measured}


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
    spread = _spread(times(lambda query: store.bm25_retrieval(query, top_k=TOP_K), asked, warm=1))
    return {"build": built, "peak": peak_gb(), "resident": resident_gb(), "plain": spread}


def growth(folder: Path, sizes: Sequence[int], queries: int) -> None:
    """See how build, size, memory and latency grow."""
    rows, verdicts = [], []
    for size in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary) / "index"
            built = worker("build_ours", folder, size, queries, target)
            found = worker("search_ours", folder, size, queries, target)
            shutil.rmtree(target)
            other = worker("bm25s_alone", folder, size, queries, Path(temporary) / "bm25s")
            mapped = worker("search_bm25s", folder, size, queries, Path(temporary) / "bm25s")
            slow = worker("haystack_alone", folder, size, queries, target) if size <= HAYSTACK_LIMIT else None
        p50, p95 = found["plain"]
        few50, few95 = found["filtered"]
        name = f"{size:,}"
        rows.append((name, "BM25Index", built["build"], built["peak"], built["disk"], found["resident"], p50, p95))
        rows.append((name, "the same, filter passes 10 %", "", "", "", "", few50, few95))
        rows.append((name, "the same, opened, each query's first time", "", "", "", "", *found["first"]))
        for backend in ("numba", "numpy"):
            rows.append((name, f"bm25s, {backend}", other["build"], other["peak"], other["disk"], "", *other[backend]))
        rows.append((name, "bm25s, numba, opened by memory map", "", "", "", mapped["resident"], *mapped["numba"]))
        if slow:
            cells = (slow["build"], slow["peak"], "", slow["resident"], *slow["plain"])
            rows.append((name, "InMemoryDocumentStore", *cells))
        if size >= 1_000_000:
            verdicts += [
                ("build <= 120 s", built["build"] <= 120, f"{built['build']:.1f} s"),
                ("build <= 4 GB", built["peak"] <= 4, f"{built['peak']:.2f} GB"),
                ("open <= 1 s, all bytes checked", found["open"] <= 1, f"{found['open']:.2f} s"),
                ("<= 1 GB resident after the queries", found["resident"] <= 1, f"{found['resident']:.2f} GB"),
                ("p50 <= 5 ms", p50 <= 5, f"{p50:.2f} ms"),
                ("p95 <= 12 ms", p95 <= 12, f"{p95:.2f} ms"),
                ("p50 with a repeated 10 % filter <= 2x", few50 <= 2 * p50, f"{few50 / p50:.2f}x"),
                ("p95 with a repeated 10 % filter <= 2x", few95 <= 2 * p95, f"{few95 / p95:.2f}x"),
            ]
        verdicts.append((f"at {size:,}: opened in", True, f"{found['open']:.2f} s, saved in {built['save']:.2f} s"))
    header(
        f"Growth, top {TOP_K}, one thread, {queries} queries",
        *("passages", "what", "build s", "peak GB", "disk MB", "resident GB", "p50 ms", "p95 ms"),
    )
    for cells in rows:
        row(*cells)
    print()
    for line in verdicts:
        verdict(*line)


# Through the component


def component(folder: Path, queries: int, size: int = 100_000) -> None:
    """See what freshness costs through the component, on an in-memory store."""
    from haystack import Document
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_ce_ranker import BM25Retriever

    store = InMemoryDocumentStore(bm25_tokenization_regex="(?!)")  # its own statistics are not wanted here
    store.write_documents(
        [Document(id=str(i), content=text, meta={"part": i % 10}) for i, text in enumerate(passages(folder, size))]
    )
    asked = some_queries(folder, queries)
    part = {"field": "meta.part", "operator": "==", "value": 3}
    manual, auto, every = (BM25Retriever(store, refresh=refresh) for refresh in ("manual", "auto", "every_run"))
    for retriever in (manual, auto, every):
        retriever.warm_up()
    measured = {
        "refresh='manual'": times(manual.run, asked),
        "refresh='manual', a repeated filter that passes 10 %": times(lambda query: manual.run(query, part), asked),
        "refresh='auto'": times(auto.run, asked),
        "refresh='auto', a repeated filter that passes 10 %": times(lambda query: auto.run(query, part), asked),
        "refresh='every_run'": times(every.run, asked[:10], warm=1),
    }

    def after_a_change(query: str) -> None:
        store.write_documents([Document(content=f"{query} {time.perf_counter_ns()}")])
        auto.run(query)

    measured["refresh='auto', one document added before each run"] = times(after_a_change, asked[:10], warm=1)

    def filtered_after_a_change(query: str) -> None:
        store.write_documents([Document(content=f"{query} {time.perf_counter_ns()}", meta={"part": 3})])
        auto.run(query, part)

    name = "refresh='auto', one document added before each run, the repeated filter"
    measured[name] = times(filtered_after_a_change, asked[:10], warm=1)
    header(f"BM25Retriever, {size:,} passages in memory, top {TOP_K}", "how", "p50 ms", "p95 ms")
    for name, values in measured.items():
        row(name, *_spread(values))
    header(f"Memory, {size:,} passages, MB", "store", "its documents", "added by the component", "of which the index")
    for name in ("in_memory", "any_other"):
        memory = worker(f"memory_{name}", folder, size, 1, folder)
        row(memory["store"], memory["documents"], memory["component"], memory["index"])
    print()
    p50 = float(np.median(measured["refresh='manual'"]))
    verdict("p50 <= 15 ms with refresh='manual'", p50 <= 15, f"{p50:.2f} ms")


def memory_in_memory(job: Job) -> dict[str, Any]:
    """See what the component adds to an in-memory store."""
    return _memory(job, copies=False)


def memory_any_other(job: Job) -> dict[str, Any]:
    """See what the component adds to a store that hands out new objects, as those that are not in this process do."""
    return _memory(job, copies=True)


def _memory(job: Job, copies: bool) -> dict[str, Any]:
    import logging

    from haystack import Document
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_ce_ranker import BM25Retriever
    from haystack_ce_ranker.bm25.index import BM25Index

    class Remote:
        """A store as the protocol has it, on a file of lines; `filter_documents` makes every document anew."""

        def __init__(self, path: Path) -> None:
            self.path = path

        def filter_documents(self) -> list[Document]:
            with self.path.open(encoding="utf-8") as lines:
                return [Document.from_dict(json.loads(line)) for line in lines]

    logging.getLogger("haystack_integrations").setLevel(logging.ERROR)
    BM25Index.build(["warm up"]).search("warm")
    texts = passages(job.folder, job.size)
    kept = [next(texts)]  # reading the collections is no part of it
    with tempfile.TemporaryDirectory() as temporary:
        store: Any
        before = resident_gb()
        if copies:
            path = Path(temporary) / "documents"
            with path.open("w", encoding="utf-8") as lines:
                for i, text in enumerate(_chain(kept[0], texts)):
                    lines.write(json.dumps({"id": str(i), "content": text, "meta": {"part": i % 10}}) + "\n")
            store = Remote(path)
        else:
            store = InMemoryDocumentStore(bm25_tokenization_regex="(?!)")
            store.write_documents(
                [
                    Document(id=str(i), content=text, meta={"part": i % 10})
                    for i, text in enumerate(_chain(kept[0], texts))
                ]
            )
        documents = resident_gb()
        retriever = BM25Retriever(store, refresh="manual")
        retriever.warm_up()
        index = retriever._index.current().bm25
        arrays = [*index._base[1:], index._lengths, index._positions, index._norms]
        return {
            "store": "any other, which hands out new objects" if copies else "InMemoryDocumentStore",
            "documents": 0.0 if copies else (documents - before) * 1024,
            "component": (resident_gb() - documents) * 1024,
            "index": sum(array.nbytes for array in arrays) / 2**20,
        }


# Updates


def updates(folder: Path, sizes: Sequence[int]) -> None:
    """See that an update costs what changed, beside building again."""
    from haystack_ce_ranker.bm25.index import BM25Index

    header(
        "Updates of BM25Index, s",
        *("passages", "build", "1 added", "1 % replaced", "20 % replaced (merged)", "1 added after 9 %"),
    )
    BM25Index.build(["warm up"])
    for size in sizes:
        stream = passages(folder, size)
        first_text = next(stream)  # reading the collections is no part of building
        before = time.perf_counter()
        index = BM25Index.build(_chain(first_text, stream))
        cells = [time.perf_counter() - before]
        for share in (1 / size, 0.01, 0.2):
            count = max(1, round(share * size))
            texts = list(islice(passages(folder, count), count))
            first = count if share > 1 / size else 0
            previous = [*range(first, size), *[-1] * count]
            before = time.perf_counter()
            index.update(previous, texts)
            cells.append(time.perf_counter() - before)
        # The longest that one more document can take short of a merge: what came since the last one is sorted again.
        count = round(0.09 * size)
        grown = index.update([*range(size), *[-1] * count], islice(passages(folder, count), count))
        previous = [*range(size + count), -1]
        before = time.perf_counter()
        grown.update(previous, ["one more"])
        cells.append(time.perf_counter() - before)
        row(f"{size:,}", *(f"{cell:.3f}" for cell in cells))


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _spread(values: np.ndarray) -> list[float]:
    return [float(np.median(values)), float(np.percentile(values, 95))]


WORKERS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "build_ours": build_ours,
    "search_ours": search_ours,
    "bm25s_alone": bm25s_alone,
    "search_bm25s": search_bm25s,
    "haystack_alone": haystack_alone,
    "memory_in_memory": memory_in_memory,
    "memory_any_other": memory_any_other,
}

if __name__ == "__main__":
    main()
