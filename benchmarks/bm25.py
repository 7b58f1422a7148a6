"""
What BM25Retriever and its index cost and find, beside Haystack's in-memory BM25 and bm25s alone.

    python benchmarks/bm25.py                                # all, up to a million passages: minutes, 3 GB of memory
    python benchmarks/bm25.py growth --documents 10000,100000  # the targets for a million are left out

Larger collections are made by recombining sentences of the collections' passages (seed 0, three sentences each). Every
measurement of memory runs in a process of its own. Searches run on one thread; times are medians over the queries, each
asked once, after some others to warm up.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

import bm25_stores
import bm25_workers
import common
from bm25_workers import SOURCES, TOP_K, bm25s_search, bm25s_tokens, passages, some_queries, spread, times
from common import Report
from haystack_ce_ranker.bm25.words import is_single
from haystack_ce_ranker.data.collections import Collection, load_collection
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10

JUDGED = ("vaswani", "cacm", "med")
BEFORE = {"vaswani": 0.4405, "cacm": 0.5034, "med": 0.6959, "stackfaq": 0.7326}
"""nDCG@10 when queries lost their letters beside longer words, and texts the letters of the stop list."""
LETTERED = tuple(BEFORE)
HAYSTACK_LIMIT = 100_000
FOUND = Callable[[str], Sequence[tuple[str, float]]]
"""A search: document ids with scores, best first."""


def sources(arguments: argparse.Namespace) -> Path:
    """Return the folder of the collections, all of which must be there."""
    for name in SOURCES:
        common.collection_folder(arguments, name)
    return arguments.data


def worker(name: str, arguments: argparse.Namespace, size: int, target: Path | None = None) -> dict[str, Any]:
    """Run a worker in a process of its own and return what it measured."""
    job = {"worker": name, "folder": arguments.data, "size": size, "queries": arguments.queries, "target": target}
    measured = common.in_a_process(Path(bm25_workers.__file__), **job)
    if "failed" in measured:
        raise RuntimeError(f"{name} of {size:,} passages {measured['failed']}")
    return measured


# Quality


def quality(arguments: argparse.Namespace, report: Report) -> None:
    """
    Compare nDCG@10 with Haystack's BM25L and with bm25s alone in nine settings.

    The published ones are those with Lucene's stop words: Lucene's own (k1 1.2, b 0.75), Anserini's (0.9, 0.4) and that
    of bm25s's figures (1.5, 0.75). The best of all nine is picked with the judgments in hand, per collection.
    """
    from haystack import Document
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_ce_ranker import BM25Retriever

    folder = sources(arguments)
    report.table(
        "nDCG@10",
        *("collection", "Haystack BM25L", "BM25Retriever", "bm25s alone, best of 3 published", "its setting"),
        *("best of all 9", "its setting"),
    )
    for name in JUDGED:
        collection = load_collection(folder / name)
        store = InMemoryDocumentStore()
        store.write_documents([Document(id=i, content=text.content) for i, text in collection.documents.items()])
        theirs = judged(through(InMemoryBM25Retriever(store, top_k=10)), collection)
        mine = judged(through(BM25Retriever(store, top_k=10)), collection)
        values = bm25s_settings(collection)
        published = max((setting for setting in values if "Lucene's" in setting), key=values.__getitem__)
        best = max(values, key=values.__getitem__)
        cells = (f"{values[published]:.4f}", published, f"{values[best]:.4f}", best)
        report.row(name, f"{theirs:.4f}", f"{mine:.4f}", *cells)
        report.at_least(f"{name}, at least Haystack's BM25L", mine - theirs, 0.0, "{:+.4f}")
        for label, setting in (("best published setting", published), ("best of all nine", best)):
            gain = mine - values[setting]
            report.at_least(f"{name}, within 0.005 of bm25s's {label}", gain, -0.005, "{:+.4f}")


def judged(find: FOUND, collection: Collection) -> float:
    """Return the nDCG@10 of a search."""
    run = {key: dict(find(query)) for key, query in collection.queries.items()}
    return mean(ndcg_at_10(run, collection.judgments))


def through(retriever: Any) -> FOUND:
    """Return a component's search."""
    return lambda query: [(d.id, d.score) for d in retriever.run(query=query)["documents"]]


def bm25s_settings(collection: Collection) -> dict[str, float]:
    """Return the nDCG@10 of bm25s by setting: three lists of stop words, three pairs of k1 and b."""
    import bm25s
    import Stemmer
    from bm25s import stopwords

    stemmer = Stemmer.Stemmer("english")
    names = list(collection.documents)
    texts = [document.content for document in collection.documents.values()]
    lists: dict[str, list[str]] = {
        "Lucene's 33": list(stopwords.STOPWORDS_EN),
        "179": list(stopwords.STOPWORDS_EN_PLUS),
        "none": [],
    }
    values: dict[str, float] = {}
    for listed, words in lists.items():
        tokens = bm25s.tokenize(texts, stopwords=words, stemmer=stemmer, show_progress=False)
        for k1, b in ((0.9, 0.4), (1.2, 0.75), (1.5, 0.75)):
            index = bm25s.BM25(method="lucene", k1=k1, b=b)
            index.index(tokens, show_progress=False)

            def find(query: str, index: Any = index, words: list[str] = words) -> list[tuple[str, float]]:
                asked = bm25s.tokenize([query], stopwords=words, stemmer=stemmer, show_progress=False)
                found, scores = index.retrieve(asked, k=10, show_progress=False)
                return [(names[i], float(s)) for i, s in zip(found[0], scores[0], strict=True) if s > 0]

            values[f"k1 {k1}, b {b}, stop words: {listed}"] = judged(find, collection)
    return values


# Words of one letter


def letters(arguments: argparse.Namespace, report: Report) -> None:
    """Compare the rule for words of one letter or digit in queries, and that for stop words, with others."""
    from haystack_ce_ranker.bm25.index import BM25Index

    folder = sources(arguments)
    report.table("nDCG@10 by what queries look for", "rule", *LETTERED)
    collections = {name: load_collection(folder / name) for name in LETTERED}
    indexes = {
        name: BM25Index.build(text.content for text in collection.documents.values())
        for name, collection in collections.items()
    }
    values = {
        rule: {name: judged(by_rule(weigh, indexes[name], collections[name]), collections[name]) for name in LETTERED}
        for rule, weigh in RULES.items()
    }
    for rule, found in {"letters left out, of texts too (before)": BEFORE, **values}.items():
        report.row(rule, *(f"{found[name]:.4f}" for name in LETTERED))
    for name in LETTERED:
        gain = values[DEFAULT][name] - BEFORE[name]
        report.at_least(f"{name}, loses at most 0.003 by the letters", gain, -0.003, "{:+.4f}")


Weigh = Callable[[str, bool, int], float]
"""What a term counts: the term, whether it is a stop word's, and how often the query has had it before."""


def letter_rule(weight: float, repeated: float, stopped: float = 0.0) -> Weigh:
    """Return a rule in which letters and stop words count less than other words."""

    def weigh(term: str, is_stopped: bool, before: int) -> float:
        if is_stopped:
            return stopped
        return 1.0 if not is_single(term) else repeated if before else weight

    return weigh


DEFAULT = "letters like other words (the default)"
RULES = {
    "letters left out of queries": letter_rule(0.0, 0.0),
    DEFAULT: letter_rule(1.0, 1.0),
    "letters once": letter_rule(1.0, 0.0),
    "letters half": letter_rule(0.5, 0.5),
    "letters once, half": letter_rule(0.5, 0.0),
    "stop words a tenth": letter_rule(1.0, 1.0, 0.1),
    "stop words like other words": letter_rule(1.0, 1.0, 1.0),
}


def by_rule(weigh: Weigh, index: Any, collection: Collection) -> FOUND:
    """Return a search in which a rule says what each word of a query counts."""
    names, analysis = list(collection.documents), index.analysis

    def find(query: str) -> list[tuple[str, float]]:
        groups: dict[float, list[str]] = {}
        before: dict[str, int] = {}
        for term in map(analysis.term_function(), analysis.words(query)):
            weight = weigh(term, analysis.is_stopped(term), before.setdefault(term, 0))
            before[term] += 1
            if weight:
                groups.setdefault(weight, []).append(term)
        scores = np.zeros(len(names))
        for weight, terms in groups.items():
            hits = index.search_terms(terms, len(names))
            scores[hits.positions] += weight * hits.scores
        best = np.argsort(-scores, kind="stable")[:10]
        return [(names[i], float(scores[i])) for i in best if scores[i]]

    return find


# Speed on real passages


def speed(arguments: argparse.Namespace, report: Report) -> None:
    """Compare queries per second on dl19's pool, and see what the component adds to its index."""
    import bm25s
    from haystack import Document
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_ce_ranker import BM25Retriever
    from haystack_ce_ranker.bm25.index import BM25Index

    collection = load_collection(common.collection_folder(arguments, "dl19"))
    queries = list(collection.queries.values())
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=i, content=text.content) for i, text in collection.documents.items()])
    manual, auto = BM25Retriever(store, refresh="manual"), BM25Retriever(store)
    built = common.milliseconds(manual.warm_up) / 1000
    auto.warm_up()
    texts = [document.content for document in collection.documents.values()]
    index = BM25Index.build(texts)
    tokens = bm25s_tokens(texts)

    def alone(backend: str) -> Callable[[str], Any]:
        other = bm25s.BM25(backend=backend)
        other.index(tokens, show_progress=False)
        return bm25s_search(other, backend)

    repeated = queries * 10
    haystack = InMemoryBM25Retriever(store, top_k=TOP_K)
    measured = {
        "BM25Index.search": times(lambda query: index.search(query, TOP_K), repeated),
        "BM25Retriever, refresh='manual'": times(manual.run, repeated),
        "BM25Retriever, refresh='auto'": times(auto.run, repeated),
        "bm25s alone, numpy": times(alone("numpy"), repeated),
        "bm25s alone, numba": times(alone("numba"), repeated),
        "InMemoryBM25Retriever": times(lambda query: haystack.run(query=query), queries, warm=2),
    }
    title = f"{len(collection.documents):,} passages (dl19), top {TOP_K}, one thread"
    report.table(title, "what", "p50 ms", "p95 ms", "queries/s")
    for name, values in measured.items():
        report.row(name, *spread(values), float(1000 / values.mean()))
    report.say(f"\nBuilding the index through the component: {built:.2f} s.")
    ratio = measured["InMemoryBM25Retriever"].mean() / measured["BM25Retriever, refresh='auto'"].mean()
    report.at_least("at least 150 times Haystack's queries/s, through the component", ratio, 150, "{:.0f} times")
    alone_p50 = np.median(measured["BM25Index.search"])
    for refresh in ("manual", "auto"):
        adds = float(np.median(measured[f"BM25Retriever, refresh='{refresh}'"]) - alone_p50)
        report.at_most(f"the component adds at most 0.6 ms, refresh='{refresh}'", adds, 0.6, "{:.2f} ms")


# Growth


def growth(arguments: argparse.Namespace, report: Report) -> None:
    """See how build, size, memory and latency grow."""
    sources(arguments)
    report.table(
        f"Growth, top {TOP_K}, one thread, {arguments.queries} queries",
        *("passages", "what", "build s", "peak GB", "disk MB", "resident GB", "own GB", "p50 ms", "p95 ms"),
    )
    for size in sizes_of(arguments):
        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary) / "index"
            built = worker("build_ours", arguments, size, target)
            found = worker("search_ours", arguments, size, target)
            shutil.rmtree(target)
            other = worker("bm25s_alone", arguments, size, Path(temporary) / "bm25s")
            mapped = worker("search_bm25s", arguments, size, Path(temporary) / "bm25s")
            loaded = worker("search_bm25s_loaded", arguments, size, Path(temporary) / "bm25s")
        slow = worker("haystack_alone", arguments, size) if size <= HAYSTACK_LIMIT else None
        name = f"{size:,}"
        costs = (built["build"], built["peak"], built["disk"], found["resident"], found["own"])
        report.row(name, "BM25Index", *costs, *found["plain"])
        none = (None, None, None)
        report.row(name, "the same, filter passes 10 %", *none, None, None, *found["filtered"])
        report.row(name, "the same, opened, each query's first time", *none, None, None, *found["first"])
        for backend in ("numba", "numpy"):
            costs = (other["build"], other["peak"], other["disk"], None, None)
            report.row(name, f"bm25s, {backend}", *costs, *other[backend])
        for how, opened in (("loaded", loaded), ("opened by memory map", mapped)):
            report.row(name, f"bm25s, numba, {how}", *none, opened["resident"], opened["own"], *opened["numba"])
        if slow is not None:
            costs = (slow["build"], slow["peak"], None, slow["resident"], None)
            report.row(name, "InMemoryDocumentStore", *costs, *slow["plain"])
        growth_targets(size, built, found, report)
        against_bm25s(size, built, found, other, loaded, report)


def growth_targets(size: int, built: Mapping[str, Any], found: Mapping[str, Any], report: Report) -> None:
    """Note the targets, which are for a million passages."""
    (p50, p95), (few50, few95) = found["plain"], found["filtered"]
    if size >= 1_000_000:
        report.at_most("build <= 120 s", built["build"], 120, "{:.1f} s")
        report.at_most("build <= 4 GB", built["peak"], 4, "{:.2f} GB")
        report.at_most("open <= 1 s, all bytes checked", found["open"], 1, "{:.2f} s")
        report.at_most("<= 1 GB resident after the queries", found["resident"], 1, "{:.2f} GB")
        report.at_most("p50 <= 5 ms", p50, 5, "{:.2f} ms")
        report.at_most("p95 <= 12 ms", p95, 12, "{:.2f} ms")
        report.at_most("p50 with a repeated 10 % filter <= 2x", few50 / p50, 2, "{:.2f}x")
        report.at_most("p95 with a repeated 10 % filter <= 2x", few95 / p95, 2, "{:.2f}x")
    report.target(f"at {size:,}: opened in", True, f"{found['open']:.2f} s, saved in {built['save']:.2f} s")


def against_bm25s(
    size: int,
    built: Mapping[str, Any],
    found: Mapping[str, Any],
    other: Mapping[str, Any],
    loaded: Mapping[str, Any],
    report: Report,
) -> None:
    """Note the targets beside bm25s with its numba scorer, which are for a million passages, too."""
    if size >= 1_000_000:
        (p50, p95), (their_p50, _) = found["plain"], other["numba"]
        report.at_most("p50 by that of bm25s, numba", p50 / their_p50, 1.0, "{:.2f}")
        report.at_most("p95 <= 3 ms", p95, 3.0, "{:.2f} ms")
        report.at_most("peak while it is built, by bm25s's", built["peak"] / other["peak"], 0.5)
        report.at_most("its own memory after the queries, by that of bm25s, loaded", found["own"] / loaded["own"], 0.5)
        report.at_most("all that is resident then, by bm25s's", found["resident"] / loaded["resident"], 0.5)


# Through the component


def component(arguments: argparse.Namespace, report: Report) -> None:
    """See what freshness costs through the component, on an in-memory store."""
    from haystack import Document
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_ce_ranker import BM25Retriever

    folder, size = sources(arguments), arguments.component_documents
    store = InMemoryDocumentStore(bm25_tokenization_regex="(?!)")  # its own statistics are not wanted here
    texts = passages(folder, size)
    store.write_documents([Document(id=str(i), content=text, meta={"part": i % 10}) for i, text in enumerate(texts)])
    asked = some_queries(folder, arguments.queries)
    part = {"field": "meta.part", "operator": "==", "value": 3}
    manual, auto, every = (BM25Retriever(store, refresh=refresh) for refresh in ("manual", "auto", "every_run"))
    for retriever in (manual, auto, every):
        retriever.warm_up()

    def changed(query: str, *filters: Any) -> None:
        store.write_documents([Document(content=f"{query} {time.perf_counter_ns()}", meta={"part": 3})])
        auto.run(query, *filters)

    few = asked[:10]
    measured = {
        "refresh='manual'": times(manual.run, asked),
        "refresh='manual', a repeated filter that passes 10 %": times(lambda query: manual.run(query, part), asked),
        "refresh='auto'": times(auto.run, asked),
        "refresh='auto', a repeated filter that passes 10 %": times(lambda query: auto.run(query, part), asked),
        "refresh='every_run'": times(every.run, few, warm=1),
        "refresh='auto', one document added before each run": times(changed, few, warm=1),
        "refresh='auto', one document added before each run, the repeated filter": times(
            lambda query: changed(query, part), few, warm=1
        ),
    }
    report.table(f"BM25Retriever, {size:,} passages in memory, top {TOP_K}", "how", "p50 ms", "p95 ms")
    for name, values in measured.items():
        report.row(name, *spread(values))
    headings = ("store", "its documents", "added by the component", "of which the index")
    report.table(f"Memory, {size:,} passages, MB", *headings)
    with tempfile.TemporaryDirectory() as temporary:
        stores = {
            "InMemoryDocumentStore": None,
            "any other, which hands out new objects": Path(temporary) / "documents",
        }
        for name, target in stores.items():
            memory = worker("memory", arguments, size, target)
            report.row(name, memory["documents"], memory["component"], memory["index"])
    p50 = float(np.median(measured["refresh='manual'"]))
    report.at_most("p50 <= 15 ms with refresh='manual'", p50, 15, "{:.2f} ms")


# Updates


def updates(arguments: argparse.Namespace, report: Report) -> None:
    """See that an update costs what changed, beside building again."""
    from haystack_ce_ranker.bm25.index import BM25Index

    folder = sources(arguments)
    report.table(
        "Updates of BM25Index, s",
        *("passages", "build", "1 added", "1 % replaced", "20 % replaced (merged)", "1 added after 9 %"),
    )
    BM25Index.build(["warm up"])
    for size in sizes_of(arguments):
        stream = passages(folder, size)
        first_text = next(stream)  # reading the collections is no part of building
        before = time.perf_counter()
        index = BM25Index.build(chain([first_text], stream))
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
        report.row(f"{size:,}", *(f"{cell:.3f}" for cell in cells))


def sizes_of(arguments: argparse.Namespace) -> list[int]:
    """Return the sizes of the recombined collections."""
    return [int(size) for size in arguments.documents.split(",")]


PARTS = {
    "quality": quality,
    "letters": letters,
    "speed": speed,
    "growth": growth,
    "component": component,
    "updates": updates,
    "stores": bm25_stores.stores,
}
QUICK = {"documents": "10000", "component_documents": 10_000, "store_documents": 2000, "queries": 20}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.set_defaults(queries=100, threads=1)
    parser.add_argument("--documents", default="10000,100000,1000000", help="sizes of the recombined collections")
    parser.add_argument("--component-documents", type=int, default=100_000, help="passages of the part `component`")
    bm25_stores.options(parser)


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options, pin=False)

if __name__ == "__main__":
    BENCHMARK.main()
