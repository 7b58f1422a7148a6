"""
Systems that are measured together because they share work: the stages of a pipeline, or a re-ranker at several depths.

A group says what it did for one query as observations, one a system. It is prepared (stores filled, models loaded)
before it is asked, and only if somebody asks. Which groups there are decides `sweep.py`; `experiments.py` asks them.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import networkx
from haystack import Document

from haystack_ce_ranker.evaluation.data.collections import Collection, Run
from haystack_ce_ranker.evaluation.judging.observations import READ, Description, Observation
from haystack_ce_ranker.evaluation.running.energy import EnergyMeter, meter_for
from haystack_ce_ranker.evaluation.running.pipelines import Answer, MeasuredPipeline, candidates_of
from haystack_ce_ranker.provenance import records
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker

FIRST, CROSS_ENCODER, HYBRID, PIPELINE = "first stage", "cross-encoder", "hybrid", "pipeline"
WEIGHTS = {"cross_encoder": 0.8, "bm25": 0.2}
"""The default blend, by what the joiner's inputs are called."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_WARM_UP = "which text is this"

Found = Mapping[str, Observation]


class SystemGroup(Protocol):
    """
    Systems that share work.

    :ivar key: Names all that the group's observations depend on, so that they can be found again.
    :ivar names: Of its systems, in the order in which they depend on one another.
    """

    key: str
    names: tuple[str, ...]

    def prepare(self) -> None:
        """Fill stores, load models and run once, so that no query pays for that."""
        ...

    def describe(self) -> list[Description]:
        """Return what each system is; called after `prepare`."""
        ...

    def observe(self, query_id: str, found: Found) -> list[Observation]:
        """
        Do a query and return what each system did.

        :param found: By name, what systems of earlier groups did for the same query.
        """
        ...


def key_of(*parts: Any) -> str:
    """
    Return a short key for plain values.

    UUIDs are left out: an in-memory store that was given no name is described by a new one each time.
    """
    text = _UUID.sub("", json.dumps(parts, sort_keys=True, default=str))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class GivenRun:
    """A run from a file, as a first stage of no cost."""

    def __init__(self, name: str, run: Run) -> None:
        self.names: tuple[str, ...] = (name,)
        self.key = key_of("run", run)
        self._run = run

    def prepare(self) -> None:
        """Nothing to prepare."""

    def describe(self) -> list[Description]:
        """Return what it is."""
        return [Description(FIRST, self.names[0], meter_for().source)]

    def observe(self, query_id: str, _found: Found) -> list[Observation]:
        """Return the query's candidates."""
        return [Observation(list(self._run.get(query_id, {}).items()), {}, 0.0)]


class PipelineGroup:
    """
    The stages of a pipeline that output documents.

    A stage's energy is the pipeline's, by its share of the time.

    :param names: Of the systems, by stage; None for all stages, named `<pipeline>/<stage>`.
    :param kind: Of the systems.
    :param candidates: A given run whose documents stand for the pipeline's first stage.
    """

    def __init__(
        self,
        measured: MeasuredPipeline,
        collection: Collection,
        collection_key: str,
        *,
        names: Mapping[str, str] | None = None,
        kind: str = PIPELINE,
        candidates: GivenRun | None = None,
    ) -> None:
        graph = measured.pipeline.graph
        order = [stage for stage in networkx.topological_sort(networkx.DiGraph(graph)) if stage in measured.stages]
        self._names = {stage: f"{measured.name}/{stage}" for stage in order} if names is None else dict(names)
        self._needs = {stage: {stage, *networkx.ancestors(graph, stage)} for stage in self._names}
        self._roles = {name: _role(measured, name) for name in graph.nodes}
        self._measured = measured
        self._collection = collection
        self._kind = kind
        self._candidates = candidates
        self._meter: EnergyMeter | None = None
        self._devices: set[str] = set()
        self.names: tuple[str, ...] = tuple(self._names.values())
        run_key = candidates.key if candidates is not None else None
        self.key = key_of("pipeline", measured.pipeline.to_dict(), list(self._names), run_key, collection_key)

    def prepare(self) -> None:
        """Fill the stores, load the models, and run once."""
        self._measured.fill(self._collection)
        self._measured.warm_up()
        answer = self._run(next(iter(self._collection.queries)), _WARM_UP)
        reports = [report for outputs in answer.outputs.values() if (report := _report(outputs))]
        devices = sorted({str(report["device"]) for report in reports if "device" in report} - {"cpu"})
        self._meter = meter_for(devices[0] if devices else "cpu")

    def describe(self) -> list[Description]:
        """Return what the stages are."""
        first = self._candidates.names[0] if self._candidates is not None else self.names[0]
        return [Description(self._kind, first, self._ready().source) for _ in self.names]

    def observe(self, query_id: str, _found: Found) -> list[Observation]:
        """Run the pipeline once."""
        with self._ready().measure() as spent:
            answer = self._run(query_id, self._collection.queries[query_id])
        return [self._observation(stage, answer, spent.joules) for stage in self._names]

    def _run(self, query_id: str, query: str) -> Answer:
        given = None
        if self._candidates is not None:
            ranking = self._candidates.observe(query_id, {})[0].ranking
            given = candidates_of(self._collection, _scores(ranking))
        return self._measured.run(query, given)

    def _observation(self, stage: str, answer: Answer, joules: float) -> Observation:
        needed = self._needs[stage]
        stages: dict[str, float] = {}
        tokens = pairs = content = unread = 0
        for name in needed:
            seconds = answer.stage_seconds.get(name)
            if seconds is None:
                continue
            report = _report(answer.outputs.get(name, {}))
            tokenising = min(_tokenising(report), seconds)
            if tokenising:
                stages["tokenise"] = stages.get("tokenise", 0.0) + tokenising
            role = self._roles[name]
            stages[role] = stages.get(role, 0.0) + seconds - tokenising
            tokens += int(report.get("tokens", 0))
            pairs += int(report.get("pairs", 0))
            content += int(report.get("content_tokens", 0))
            unread += int(report.get("tokens_unread", 0))
        documents = _documents(answer.outputs.get(stage, {}))
        share = sum(stages.values()) / answer.seconds if answer.seconds else 0.0
        return Observation(
            ranking=[(document.id, _plain(document.score)) for document in documents],
            stages=stages,
            joules=joules * share,
            tokens=tokens,
            pairs=pairs,
            content_tokens=content,
            tokens_unread=unread,
            readings=_readings(documents),
        )

    def _ready(self) -> EnergyMeter:
        if self._meter is None:
            raise RuntimeError("the group was not prepared.")
        return self._meter


class RerankGroup:
    """
    A cross-encoder over a first stage's candidates at several depths, alone and joined with the first stage's scores.

    The deepest list is scored in slices, from one depth to the next: a shallower depth costs what its slices took, and
    every pair is scored once. Below a depth the first stage's order goes on, as `CrossEncoderRanker(depth=...)` has it.

    :param first: The name of the system whose ranking is re-ranked.
    :param ranker: Loaded by `prepare`.
    :param depths: Ascending.
    :param names: The cross-encoder's and the hybrid's at each depth, in turn.
    :param key: Names the collection and the first stage.
    """

    def __init__(
        self,
        first: str,
        ranker: CrossEncoderRanker,
        depths: Sequence[int],
        names: Sequence[str],
        collection: Collection,
        *,
        key: str,
    ) -> None:
        self.names: tuple[str, ...] = tuple(names)
        self._first = first
        self._ranker = ranker
        self._depths = tuple(depths)
        self._collection = collection
        self._joiner = HybridScoreJoiner(WEIGHTS)
        blend = {name: one.spec() for name, one in self._joiner.normalizations.items()}
        self.key = key_of("rerank", key, ranker.to_dict(), self._joiner.to_dict(), blend, list(depths))
        self._report: dict[str, Any] = {}
        self._meter: EnergyMeter | None = None

    def prepare(self) -> None:
        """Load the model and score once; the text is no document of the collection, whose tokens are kept."""
        self._ranker.warm_up()
        output = self._ranker.run(_WARM_UP, [Document(id=str(n), content="a text") for n in range(8)])
        self._report = output["report"]
        self._meter = meter_for(str(self._report["device"]))

    def describe(self) -> list[Description]:
        """Return what the systems are."""
        common = Description(
            CROSS_ENCODER,
            self._first,
            self._ready().source,
            model=self._report["model"],
            backend=self._report["backend"],
            dtype=self._report["dtype"],
            device=self._report["device"],
            strategy=self._report["strategy"],
        )
        return [replace(common, kind=kind, depth=depth) for depth in self._depths for kind in (CROSS_ENCODER, HYBRID)]

    def observe(self, query_id: str, found: Found) -> list[Observation]:
        """Score the candidates slice by slice and join at each depth."""
        before = found[self._first]
        query = self._collection.queries[query_id]
        candidates = candidates_of(self._collection, _scores(before.ranking))
        places = {document.id: place for place, document in enumerate(candidates)}
        seen: list[Observation] = []
        scored: list[Document] = []
        costs = replace(before, readings={})
        for start, depth in zip((0, *self._depths), self._depths, strict=False):
            if part := candidates[start:depth]:
                with self._ready().measure() as spent:
                    output = self._ranker.run(query, part, top_k=len(part), scale_score=False)
                costs = _after(costs, output["report"], spent.seconds, spent.joules)
                scored = sorted([*scored, *output["documents"]], key=lambda one: (-_logit(one), places[one.id]))
            rest = candidates[depth:]
            seen.append(_observation(costs, scored, rest))
            with self._ready().measure() as spent:
                joined = self._joiner.run(cross_encoder=scored, bm25=candidates[:depth])["documents"]
            stages = {**costs.stages, "join": spent.seconds}
            seen.append(_observation(replace(costs, stages=stages, joules=costs.joules + spent.joules), joined, rest))
        return seen

    def _ready(self) -> EnergyMeter:
        if self._meter is None:
            raise RuntimeError("the group was not prepared.")
        return self._meter


def _after(costs: Observation, report: Mapping[str, Any], seconds: float, joules: float) -> Observation:
    """Add a slice's costs."""
    tokenising = min(_tokenising(report), seconds)
    stages = dict(costs.stages)
    stages["tokenise"] = stages.get("tokenise", 0.0) + tokenising
    stages["score"] = stages.get("score", 0.0) + seconds - tokenising
    return replace(
        costs,
        stages=stages,
        joules=costs.joules + joules,
        tokens=costs.tokens + report["tokens"],
        pairs=costs.pairs + report["pairs"],
        content_tokens=costs.content_tokens + report["content_tokens"],
        tokens_unread=costs.tokens_unread + report["tokens_unread"],
    )


def _observation(costs: Observation, documents: Sequence[Document], rest: Sequence[Document]) -> Observation:
    ranking = [(document.id, _plain(document.score)) for document in [*documents, *rest]]
    return replace(costs, ranking=ranking, readings=_readings(documents))


def _role(measured: MeasuredPipeline, name: str) -> str:
    """Which of `observations.STAGES` a component's time belongs to, by what goes into it and comes out."""
    graph = measured.pipeline.graph
    makes = name in measured.stages
    feeding = [sender for sender, _ in graph.in_edges(name) if sender in measured.stages]
    if makes and len(set(feeding)) > 1:
        return "join"
    fed = bool(feeding) or any(entry == name for entry, _ in measured.candidate_sockets)
    return "score" if fed else "retrieve"


def _report(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    report = outputs.get("report")
    return report if isinstance(report, Mapping) else {}


def _tokenising(report: Mapping[str, Any]) -> float:
    seconds = report.get("seconds")
    return float(seconds.get("tokenise", 0.0) + seconds.get("select", 0.0)) if isinstance(seconds, Mapping) else 0.0


def _documents(outputs: Mapping[str, Any]) -> list[Document]:
    found = outputs.get("documents")
    return list(found) if isinstance(found, list) else []


def _scores(ranking: Sequence[tuple[str, float | None]]) -> dict[str, float]:
    """Scores by document, best first; where one is missing, the order counts instead."""
    if any(score is None for _, score in ranking):
        return {name: float(len(ranking) - place) for place, (name, _) in enumerate(ranking)}
    return {name: score for name, score in ranking if score is not None}


def _logit(document: Document) -> float:
    return -float("inf") if document.score is None else float(document.score)


def _plain(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else float(score)


def _readings(documents: Sequence[Document]) -> dict[str, dict[str, Any]]:
    """What rankers noted that they read of the documents at the top."""
    found = {}
    for document in documents[:READ]:
        for noted in records(document.meta).values():
            if isinstance(noted, Mapping) and noted.get("read"):
                found[document.id] = {
                    "logit": noted.get("logit"),
                    "coverage": noted.get("coverage"),
                    "read": [[part["start"], part["end"], part["logit"]] for part in noted["read"]],
                }
    return found
