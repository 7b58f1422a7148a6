"""
What the joiner of BM25 and a cross-encoder gets for the queries of each collection, computed once and kept.

    python benchmarks/fusion.py

`fusion.py` and `gate.py` measure on it. Scores go through BM25Retriever, CrossEncoderRanker and HybridScoreJoiner.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from haystack import Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore

from common import CannotRun, Report, collection_folder, located_model
from haystack_ce_ranker.data.collections import Collection, load_collection, load_run
from haystack_ce_ranker.evaluation.commands.tune_joiner import collect
from haystack_ce_ranker.evaluation.running.pipelines import measured
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting
from haystack_ce_ranker.fusion.normalizers import parse_normalizations
from haystack_ce_ranker.fusion.scales import Scale
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever
from kept import ScoreStore

CE, BM25 = "cross_encoder", "bm25"
INPUTS = (BM25, CE)
SCALES: Mapping[str, Scale] = {BM25: "bm25", CE: "logits"}
"""As the records of retriever and ranker say."""


@dataclass(frozen=True)
class Task:
    """
    How many candidates of how many queries of a collection are re-ranked; None: all.

    :param folder: The collection's, where the task has another name.
    :param after: Leaves out as many queries as a task of that number takes, so that no query is in both.
    """

    depth: int
    queries: int | None = None
    folder: str | None = None
    after: int | None = None


TASKS = {
    "dl19": Task(50),
    "cacm": Task(50),
    "vaswani": Task(50),
    "med": Task(50),
    "stackfaq": Task(20, 150),
    "covidqa": Task(10, 150),
}
UNSEEN = {
    "stackfaq, other queries": Task(20, 300, "stackfaq", after=450),
    "covidqa, other queries": Task(10, 150, "covidqa", after=300),
}
"""What played no part when the default blend was chosen."""
QUICK = {"queries": 10, "draws": 2}  # the gate needs ten queries
DEFAULT = Setting(Frame("default", parse_normalizations(None, INPUTS)), {CE: 0.8, BM25: 0.2})
ALONE = {name: Setting(DEFAULT.frame, {other: float(other == name) for other in INPUTS}) for name in INPUTS}


def scores(tasks: Mapping[str, Task], arguments: argparse.Namespace, report: Report) -> dict[str, list[JudgedQuery]]:
    """Return the judged queries of each collection that is there."""
    found = {}
    store = ScoreStore(arguments.cache)
    for name, task in tasks.items():
        with report.or_left_out(name):
            folder = collection_folder(arguments, name if task.folder is None else task.folder)
            found[name] = scores_of(name, task, folder, arguments, store)
    if not found:
        raise CannotRun("none of the collections can be scored")
    return found


def scores_of(
    name: str, task: Task, folder: Path, arguments: argparse.Namespace, store: ScoreStore
) -> list[JudgedQuery]:
    """Return what the joiner of BM25 -> cross-encoder gets for each query, computed only if it is not kept."""
    limit = task.queries if arguments.queries is None else arguments.queries
    retriever, ranker = _parts(task, arguments)
    made_by = {
        "collection": str(folder.resolve()),
        "task": asdict(task),
        "queries": limit,
        "retriever": {**retriever.to_dict()["init_parameters"], "document_store": None},
        "ranker": ranker.to_dict()["init_parameters"],
    }

    def compute() -> list[dict[str, object]]:
        started = time.perf_counter()
        judged = _computed(sampled(folder, task, limit), folder, task, arguments)
        print(f"({name}: {len(judged)} queries scored in {time.perf_counter() - started:.0f} s)", file=sys.stderr)
        return [_to_plain(query) for query in judged]

    return [_from_plain(entry) for entry in store.once(made_by, compute)]


def sampled(folder: Path, task: Task, limit: int | None) -> Collection:
    """Return a collection with the queries of a task."""
    collection = load_collection(folder)
    if task.after is not None:
        taken = collection.sample(task.after).queries
        rest = {query_id: text for query_id, text in collection.queries.items() if query_id not in taken}
        collection = replace(collection, queries=rest)
    return collection.sample(limit)


def _parts(task: Task, arguments: argparse.Namespace) -> tuple[BM25Retriever, CrossEncoderRanker]:
    options = {"backend": arguments.backend, "threads": arguments.threads}
    ranker = CrossEncoderRanker(model=located_model(arguments), top_k=task.depth, **options)
    return BM25Retriever(InMemoryDocumentStore(), top_k=task.depth), ranker


def _computed(collection: Collection, folder: Path, task: Task, arguments: argparse.Namespace) -> list[JudgedQuery]:
    pipeline = Pipeline()
    for name, part in zip(("retriever", "ranker"), _parts(task, arguments), strict=True):
        pipeline.add_component(name, part)
    pipeline.add_component("joiner", HybridScoreJoiner(dict(DEFAULT.weights)))
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("retriever.documents", f"joiner.{BM25}")
    pipeline.connect("ranker.documents", f"joiner.{CE}")
    run = None
    if (folder / "run.bm25.tsv").is_file():
        run = load_run(folder / "run.bm25.tsv", collection=collection, depth=task.depth)
    ready = measured(pipeline, name=collection.name, candidates=run is not None)
    ready.fill(collection)
    ready.warm_up()
    return collect(ready, collection, "joiner", candidates=run)


def _to_plain(query: JudgedQuery) -> dict[str, object]:
    lists = {
        name: {"ids": list(listed.ids), "scores": [None if s is None else float(s) for s in listed.scores]}
        for name, listed in query.lists.items()
    }
    return {"id": query.id, "lists": lists, "judgments": dict(query.judgments)}


def _from_plain(entry: dict[str, dict]) -> JudgedQuery:
    lists = {
        name: ScoredList(given["ids"], given["scores"], scale=SCALES[name]) for name, given in entry["lists"].items()
    }
    return JudgedQuery(str(entry["id"]), lists, entry["judgments"])
