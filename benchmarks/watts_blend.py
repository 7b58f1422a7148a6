"""
What weights that follow the query gain: a cross-encoder joined with BM25 and embeddings, with BM25 alone, with
embeddings alone; as other rankers give their scores; and with every collection left out when the constants are chosen.

    python benchmarks/watts.py three_lists with_bm25 with_dense
    python benchmarks/watts.py second_model --second FOLDER

Parts of `watts.py`, which prints and keeps them. Most scores are files (`join-scores` in the folder of the
collections). Those of covidqa, and of more candidates of BM25, are computed once and kept in `--cache`.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore

from common import CannotRun, Report, collection_folder, located_model, weights_folder
from fusion_defaults import BM25, DENSE, RERANKER, Change, Given, as_logits, as_probabilities, by_record, given, plain
from haystack_ce_ranker.data.collections import Collection, load_collection
from haystack_ce_ranker.evaluation.running.filling import documents_of
from haystack_ce_ranker.fusion.adaptive import LOGITS, Adaptation, Logits
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting, measure, ndcg
from haystack_ce_ranker.fusion.normalizers import AUTO, NONE, FloatArray, parse_normalization
from haystack_ce_ranker.significance import Interval, bootstrap
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

MOST_LOST = 0.005
"""nDCG@10 that a join may lose against the cross-encoder."""

BI_ENCODER = "bi-minilm-l6"
_READ = 1500  # characters of a document that the bi-encoder reads, as for the kept scores

DEVIATIONS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Logits for a deviation, tried for each query with hindsight."""

OWN, BM25_BESIDE = (4.0, 8.0, 12.0, 16.0, 20.0), (4.0, 8.0, 12.0)
OWN_ALONE = (2.0, 4.0, 6.0, 8.0, 10.0)
BM25_ALONE = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""The constants among which every fit chooses."""


@dataclass(frozen=True)
class Scored:
    """
    What is computed where `join-scores` has nothing.

    :param depth: How many BM25 finds, and how many the bi-encoder.
    :param queries: At most so many.
    """

    folder: str
    depth: int
    dense: bool
    queries: int | None = None
    k1: float = 1.2
    b: float = 0.75


MORE = {"covidqa": Scored("covidqa", 30, dense=True, queries=150, k1=0.9, b=0.4)}
DEEPER = {"cacm, first 50": Scored("cacm", 50, dense=False)}
FRESH = {
    "vaswani, first 50": Scored("vaswani", 50, dense=False),
    "med, first 50": Scored("med", 50, dense=False),
    "stackfaq, first 20": Scored("stackfaq", 20, dense=False, queries=150),
}
"""What took no part when the constants were chosen: as BM25Retriever finds candidates by default."""

Queries = Mapping[str, Sequence[Given]]


class Joined(NamedTuple):
    """nDCG@10 by query of one collection: each list alone, and the lists joined."""

    alone: dict[str, FloatArray]
    blend: FloatArray

    @property
    def gain(self) -> Interval:
        """Over the cross-encoder."""
        return bootstrap(self.blend - self.alone[RERANKER])

    @property
    def gap(self) -> float:
        """How far the best list alone is above the cross-encoder."""
        return max(float(values.mean()) for values in self.alone.values()) - float(self.alone[RERANKER].mean())

    @property
    def enough(self) -> float:
        """What the join must gain: half of the gap; where there is none, it may lose a little."""
        return self.gap / 2 if self.gap > 0 else -MOST_LOST


def three_lists(arguments: argparse.Namespace, report: Report) -> None:
    """The cross-encoder over what BM25 and the bi-encoder find, joined with both."""
    data = all_scores(MORE, arguments, report)
    names = (RERANKER, BM25, DENSE)
    gains = show_untuned(data, names, "a cross-encoder, BM25 and embeddings", {BM25: 0.1, DENSE: 0.1}, report)
    report.at_least("three lists: on average at least 0.03 above the cross-encoder", gains, 0.03, "{:+.4f}")
    show_forms(data, names, report)
    tried = [LOGITS._replace(own=own, bm25=bm25) for own, bm25 in product(OWN, BM25_BESIDE)]
    show_left_out(data, names, tried, "three lists", report)
    show_hindsight(data, names, report)


def with_bm25(arguments: argparse.Namespace, report: Report) -> None:
    """The cross-encoder over what BM25 finds, joined with BM25."""
    data = all_scores(MORE | DEEPER, arguments, report)
    fresh = computed_scores(FRESH, arguments, report)
    show_untuned({**data, **fresh}, (RERANKER, BM25), "a cross-encoder and BM25", {BM25: 0.2}, report)
    show_forms(data, (RERANKER, BM25), report)
    tried = [LOGITS._replace(bm25_alone=worth) for worth in BM25_ALONE]
    show_left_out(data, (RERANKER, BM25), tried, "cross-encoder and BM25", report)
    show_hindsight(data, (RERANKER, BM25), report)


def with_dense(arguments: argparse.Namespace, report: Report) -> None:
    """The cross-encoder over what the bi-encoder finds, joined with its cosines."""
    data = all_scores(MORE, arguments, report)
    show_untuned(data, (RERANKER, DENSE), "a cross-encoder and embeddings", {DENSE: 0.2}, report)
    show_forms(data, (RERANKER, DENSE), report)
    tried = [LOGITS._replace(own_alone=worth) for worth in OWN_ALONE]
    show_left_out(data, (RERANKER, DENSE), tried, "cross-encoder and embeddings", report)
    show_hindsight(data, (RERANKER, DENSE), report)


def second_model(arguments: argparse.Namespace, report: Report) -> None:
    """The same three joins with another cross-encoder, `--second`, over the candidates of the kept scores."""
    if arguments.second is None:
        raise CannotRun("name a second cross-encoder with --second: a folder, or a `package:` name")
    data = {name: rescored(name, queries, arguments) for name, queries in given(arguments, report).items()}
    for names, title, others in (
        ((RERANKER, BM25, DENSE), "the second model, BM25 and embeddings", {BM25: 0.1, DENSE: 0.1}),
        ((RERANKER, BM25), "the second model and BM25", {BM25: 0.2}),
        ((RERANKER, DENSE), "the second model and embeddings", {DENSE: 0.2}),
    ):
        gain = show_untuned(data, names, title, others, report)
        report.row("mean", *[None] * (len(names) + 2), f"{gain:+.4f}", None)


BLEND_PARTS = {
    "three_lists": three_lists,
    "with_bm25": with_bm25,
    "with_dense": with_dense,
    "second_model": second_model,
}


def show_untuned(data: Queries, names: Sequence[str], title: str, others: Mapping[str, float], report: Report) -> float:
    """Show the untuned join beside each list and the fixed weights; returns the mean gain over the cross-encoder."""
    report.table(
        f"Joined untuned: {title} (nDCG@10)",
        *("collection", *(f"{name} alone" for name in names), "fixed weights", "weights that follow the query"),
        *("over the cross-encoder [95 %]", "won back of the gap to the best list"),
    )
    gains = []
    fixed = {RERANKER: 0.8, **others}
    for name, queries in data.items():
        found = joined(queries, names, Adaptation())
        kept = joined(queries, names, None, weights=fixed).blend
        gains.append(found.gain.mean)
        won = f"{found.gain.mean / found.gap:.0%}" if found.gap > 0 else ""
        singles = (f"{found.alone[one].mean():.3f}" for one in names)
        blends = (f"{values.mean():.3f}" for values in (kept, found.blend))
        report.row(f"{name} ({len(queries)})", *singles, *blends, difference(found.gain), won)
        if found.gap > 0:
            label = f"{title} on {name}: at least half of the gap to the best list won back"
        else:
            label = f"{title} on {name}: at most {MOST_LOST} below the cross-encoder"
        report.target(label, found.gain.mean >= found.enough, f"{found.gain.mean:+.4f}, needed {found.enough:+.4f}")
    return statistics.fmean(gains)


def scaled(scores: Mapping[str, float]) -> ScoredList:
    """As of a model whose logits mean something else."""
    return ScoredList(list(scores), 2.5 * np.array(list(scores.values())) - 4.0, reranked=True, scale="logits")


def cut(scores: Mapping[str, float]) -> ScoredList:
    """As a CrossEncoderRanker that returns ten gives them without its report: the lowest logit is noted."""
    best = sorted(scores, key=lambda key: -scores[key])[:10]
    kept, lowest = [scores[key] for key in best], min(scores.values())
    return ScoredList(best, kept, floor=lowest, reranked=True, scale="logits")


FORMS: Mapping[str, tuple[Change, Adaptation]] = {
    "record": (by_record, Adaptation()),
    "logits": (as_logits, Adaptation()),
    "probabilities": (as_probabilities, Adaptation()),
    "2.5 x - 4, known": (scaled, Adaptation(slope=0.4, intercept=1.6)),
    "2.5 x - 4, unknown": (scaled, Adaptation()),
    "cut to ten": (cut, Adaptation()),
}


def show_forms(data: Queries, names: Sequence[str], report: Report) -> None:
    """Show what it gains where the scores come in another form, or from a model on another scale."""
    report.table("The same over the cross-encoder, its scores given in several forms", "collection", *FORMS)
    for name, queries in data.items():
        gains = {form: joined(queries, names, how, change).gain.mean for form, (change, how) in FORMS.items()}
        report.row(name, *(f"{gain:+.4f}" for gain in gains.values()))
        apart = max(abs(gains["record"] - gains[form]) for form in ("logits", "probabilities", "2.5 x - 4, known"))
        report.at_most(f"{', '.join(names)} on {name}: the same in every form that is known", apart, 0.005, "{:.4f}")


def show_left_out(data: Queries, names: Sequence[str], tried: Sequence[Logits], what: str, report: Report) -> None:
    """
    Show each collection with constants that were chosen without it: the best on average of those with which none of
    the other collections falls more than 0.005 below the cross-encoder.
    """
    report.table(
        f"Every collection left out in turn when the constants are chosen ({what})",
        *("collection", "chosen", "over the cross-encoder [95 %]", "with the package's constants"),
    )
    found = {name: [joined(queries, names, Adaptation(logits=one)) for one in tried] for name, queries in data.items()}
    held = []
    for name, queries in data.items():
        rest = [found[other] for other in data if same_texts(other) != same_texts(name)]
        place = max(range(len(tried)), key=lambda one: worth_choosing([results[one].gain.mean for results in rest]))
        result = found[name][place]
        held.append(result.gain.mean)
        shown = {
            key: value for key, value in tried[place]._asdict().items() if len({getattr(t, key) for t in tried}) > 1
        }
        chosen = ", ".join(f"{key} {value:g}" for key, value in shown.items())
        own = joined(queries, names, Adaptation()).gain.mean
        report.row(name, chosen, difference(result.gain), f"{own:+.4f}")
        label = f"{what}, constants chosen without {name}"
        figure = f"{result.gain.mean:+.4f}, needed {result.enough:+.4f}"
        report.target(label, result.gain.mean >= result.enough, figure)
    report.row("mean", "", f"{statistics.fmean(held):+.4f}", "")


def same_texts(name: str) -> str:
    """Return the collection behind a task's name."""
    return name.partition(",")[0]


def worth_choosing(gains: Sequence[float]) -> tuple[bool, float]:
    """Order constants by what they gain on each collection: those that lose nowhere first, then by the mean."""
    return min(gains) >= -MOST_LOST, statistics.fmean(gains)


def show_hindsight(data: Queries, names: Sequence[str], report: Report) -> None:
    """Show the bound: for each query the best of a grid of weights, chosen by its own judgments."""
    others = [name for name in names if name != RERANKER]
    grid = np.array([(1.0, *row) for row in product(DEVIATIONS, repeat=len(others))])
    columns = (RERANKER, *others)
    order = sorted(range(len(columns)), key=lambda place: columns[place])
    frame = Frame("", {RERANKER: NONE, **dict.fromkeys(others, parse_normalization("z_score"))})
    cells = []
    for queries in data.values():
        judged = judged_queries(queries, names, by_record)
        values = ndcg(judged, sorted(columns), frame, grid[:, order])
        alone = values[int(np.argmax((grid[:, 1:] == 0).all(axis=1)))]
        cells.append(f"{(values.max(axis=0) - alone).mean():+.3f}")
    report.table("The bound: the best weights for each query, with hindsight, over the cross-encoder", *data)
    report.row(*cells)


def joined(
    queries: Sequence[Given],
    names: Sequence[str],
    adaptation: Adaptation | None,
    change: Change = by_record,
    weights: Mapping[str, float] | None = None,
) -> Joined:
    """
    Return nDCG@10 by query, joined and of each list alone.

    :param change: How the cross-encoder's scores are given.
    :param weights: Those that count if nothing is adapted.
    """
    judged = judged_queries(queries, names, change)
    auto = dict.fromkeys(names, AUTO)
    used = dict.fromkeys(names, 1.0) if weights is None else weights
    alone = {one: measure(judged, Setting(Frame("", auto), {one: 1.0})) for one in names}
    return Joined(alone, measure(judged, Setting(Frame("", auto, adaptation=adaptation), used)))


def judged_queries(queries: Sequence[Given], names: Sequence[str], change: Change) -> list[JudgedQuery]:
    """Return the queries with these lists; the cross-encoder has scored what the others hold."""
    found = []
    for query in queries:
        held = {key for name in names if name != RERANKER for key in query[name]}
        logits = {key: score for key, score in query[RERANKER].items() if key in held}
        lists = {name: plain(query[name]) for name in names if name != RERANKER}
        if BM25 in lists:
            lists[BM25] = replace(lists[BM25], scale="bm25")
        if logits:
            lists[RERANKER] = change(logits)
        found.append(JudgedQuery(query.id, lists, query.judgments))
    return found


def difference(gain: Interval) -> str:
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def all_scores(more: Mapping[str, Scored], arguments: argparse.Namespace, report: Report) -> Queries:
    """Return the kept scores of five collections, and those that are computed here."""
    return {**given(arguments, report), **computed_scores(more, arguments, report)}


def computed_scores(tasks: Mapping[str, Scored], arguments: argparse.Namespace, report: Report) -> Queries:
    """Return the scores of those tasks that can be computed here."""
    found = {}
    for name, task in tasks.items():
        with report.or_left_out(name):
            found[name] = computed(task, arguments)
    return found


def computed(task: Scored, arguments: argparse.Namespace) -> list[Given]:
    """Return the scores of a task, computed only if no file has them."""
    limited = "" if arguments.queries is None else f"-{arguments.queries}"
    path = arguments.cache / f"join-{task.folder}-{task.depth}{limited}.json"
    if not path.is_file():
        count = task.queries if arguments.queries is None else arguments.queries
        collection = load_collection(collection_folder(arguments, task.folder)).sample(count)
        entries = _entries(collection, task, arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entries), encoding="utf-8")
    return [Given(query_id, entry) for query_id, entry in json.loads(path.read_text(encoding="utf-8")).items()]


def rescored(name: str, queries: Sequence[Given], arguments: argparse.Namespace) -> list[Given]:
    """Return the queries with the logits of the second cross-encoder in place of the first one's, computed once."""
    path = arguments.cache / f"join-{name}-{Path(arguments.second).name}.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if any(query.id not in kept for query in queries):
        collection = load_collection(collection_folder(arguments, name))
        documents = {document.id: document for document in documents_of(collection)}
        ranker = CrossEncoderRanker(model=arguments.second, threads=arguments.threads, top_k=9999)
        for query in queries:
            scored = ranker.run(collection.queries[query.id], [documents[one] for one in query[RERANKER]])["report"]
            kept[query.id] = scored["scored"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept), encoding="utf-8")
    return [
        Given(query.id, {"bm25": query[BM25], "dense": query[DENSE], "ce": kept[query.id], "rel": query.judgments})
        for query in queries
    ]


def _entries(
    collection: Collection, task: Scored, arguments: argparse.Namespace
) -> dict[str, dict[str, dict[str, float]]]:
    documents = {document.id: document for document in documents_of(collection)}
    store = InMemoryDocumentStore()
    store.write_documents(list(documents.values()))
    bm25 = BM25Retriever(store, top_k=task.depth, k1=task.k1, b=task.b)
    dense = _nearest(list(documents.values()), task.depth, arguments) if task.dense else lambda _text: {}
    ranker = CrossEncoderRanker(
        model=located_model(arguments), backend=arguments.backend, threads=arguments.threads, top_k=9999
    )
    found = {}
    for query_id, text in collection.queries.items():
        by_terms = {one.id: float(one.score or 0.0) for one in bm25.run(text)["documents"]}
        by_sense = dense(text)
        candidates = [documents[key] for key in dict.fromkeys([*by_terms, *by_sense])]
        scored = ranker.run(text, candidates)["report"]["scored"] if candidates else {}
        grades = dict(collection.judgments[query_id])
        found[query_id] = {"bm25": by_terms, "dense": by_sense, "ce": dict(scored), "rel": grades}
    return found


def _nearest(
    documents: Sequence[Document], depth: int, arguments: argparse.Namespace
) -> Callable[[str], dict[str, float]]:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise CannotRun("sentence-transformers is not installed") from error
    encoder = SentenceTransformer(str(weights_folder(arguments, BI_ENCODER)), device="cpu")
    vectors = encoder.encode([(one.content or "")[:_READ] for one in documents], normalize_embeddings=True)

    def nearest(text: str) -> dict[str, float]:
        cosines = vectors @ encoder.encode([text], normalize_embeddings=True)[0]
        return {documents[place].id: float(cosines[place]) for place in np.argsort(-cosines, kind="stable")[:depth]}

    return nearest
