"""
Groups of systems that share work and are measured together: the stages of a pipeline, a re-ranker at several depths.

A group says what it did for one query as observations, one a system. It is prepared (stores filled, models loaded)
before it is asked, and only if somebody asks. `sweep.py` decides which groups there are; `experiments.py` asks them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import networkx
from haystack import Document

from haystack_ce_ranker.data.collections import Collection, Run
from haystack_ce_ranker.evaluation.judging.comparison import Evidence, Passage
from haystack_ce_ranker.evaluation.judging.observations import READ, Observation
from haystack_ce_ranker.evaluation.judging.systems import Description, Kind, Stage, Weights
from haystack_ce_ranker.evaluation.running.contents import key_of, system_key
from haystack_ce_ranker.evaluation.running.filling import candidates_of
from haystack_ce_ranker.evaluation.running.parts import devices_of, remote_parts
from haystack_ce_ranker.evaluation.running.pipelines import MeasuredPipeline, PipelineOutput
from haystack_ce_ranker.machine.energy import UNCOUNTED, EnergyMeter, meter_for
from haystack_ce_ranker.provenance import BM25, DENSE, records, stage_of
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker

SHARES = (0.8, 0.2)  # the default blend: the cross-encoder's weight and the first stage's
RERANKED_INPUT = "cross_encoder"
BM25_INPUT, DENSE_INPUT = BM25, DENSE
"""The joiner's inputs; that of a first stage says what its scores are."""

_WARM_UP = "which text is this"

Found = Mapping[str, Observation]


class SystemGroup(ABC):
    """
    Systems that share work.

    :ivar key: Names all that the group's observations depend on, so that they can be found again.
    :ivar needs: The system of an earlier group without which this one cannot be asked; None if there is none.
    :ivar names: Of its systems, in the order in which they depend on one another.
    :ivar notes: In words, what was done to prepare it.
    """

    key: str
    names: tuple[str, ...]
    needs: str | None = None
    notes: tuple[str, ...] = ()
    _meter: EnergyMeter | None = None

    @property
    def meter(self) -> EnergyMeter:
        """What measures the group's energy once it is prepared."""
        if self._meter is None:
            raise RuntimeError("the group was not prepared.")
        return self._meter

    @abstractmethod
    def prepare(self) -> None:
        """Fill stores, load models and run once, so that no query pays for that."""

    @abstractmethod
    def describe(self) -> list[Description]:
        """Return what each system is; called after `prepare`."""

    @abstractmethod
    def observe(self, query_id: str, found: Found) -> list[Observation]:
        """Do a query and return what each system did; `found` holds what earlier groups' systems did, by name."""


class GivenRun(SystemGroup):
    """A run from a file, as a first stage of no cost."""

    def __init__(self, name: str, run: Run, notes: Sequence[str] = ()) -> None:
        self.names, self.notes = (name,), tuple(notes)
        self.key = key_of("run", run)
        self._run, self.noted_as = run, stage_of(run)

    def prepare(self) -> None:
        self._meter = meter_for()

    def describe(self) -> list[Description]:
        return [Description(Kind.FIRST_STAGE, self.names[0], self.meter.source)]

    def observe(self, query_id: str, _found: Found) -> list[Observation]:
        return [Observation([(name, _plain(score)) for name, score in self._run.get(query_id, {}).items()], {}, 0.0)]


class PipelineGroup(SystemGroup):
    """
    The stages of a pipeline that output documents. A stage's energy is its share of the pipeline's, by time.

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
        kind: Kind = Kind.PIPELINE,
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
        self._elsewhere: tuple[str, ...] = ()
        self.names = tuple(self._names.values())
        run_key = candidates.key if candidates is not None else None
        described = measured.pipeline.to_dict()
        self.key = system_key("pipeline", described, measured.source, list(self._names), run_key, collection_key)

    def prepare(self) -> None:
        done = self._measured.prepare(self._collection)
        if self._kind == Kind.PIPELINE:
            self.notes = tuple(f"{self._measured.name}: {note}" for note in done)
        output = self._run(next(iter(self._collection.queries)), _WARM_UP)
        reports = map(_report, output.outputs.values())
        devices = {str(report["device"]) for report in reports if "device" in report}
        first, *others = sorted((devices | devices_of(self._measured.pipeline)) - {"cpu"}) or ["cpu"]
        self._meter = meter_for(first)
        self._elsewhere = (*others, *remote_parts(self._measured.pipeline))

    def describe(self) -> list[Description]:
        first = self._candidates.names[0] if self._candidates is not None else self.names[0]
        beyond = f", {' and '.join(self._elsewhere)} {UNCOUNTED}" if self._elsewhere else ""
        return [Description(self._kind, first, self.meter.source + beyond) for _ in self.names]

    def observe(self, query_id: str, _found: Found) -> list[Observation]:
        with self.meter.measure() as spent:
            output = self._run(query_id, self._collection.queries[query_id])
        own = self._collection.own(query_id)
        return [self._observation(stage, output, spent.joules, own) for stage in self._names]

    def _run(self, query_id: str, query: str) -> PipelineOutput:
        if self._candidates is None:
            return self._measured.run(query)
        ranking = self._candidates.observe(query_id, {})[0].ranking
        stage = self._candidates.noted_as
        return self._measured.run(query, candidates_of(self._collection, _scores(ranking), stage=stage))

    def _observation(self, stage: str, output: PipelineOutput, joules: float, own: str | None) -> Observation:
        seen = Observation([], {}, 0.0)
        for name, seconds in output.stage_seconds.items():
            if name in self._needs[stage]:
                seen = _after(seen, _report(output.outputs.get(name, {})), seconds, 0.0, self._roles[name])
        share = seen.seconds / output.seconds if output.seconds else 0.0
        found = output.outputs.get(stage, {}).get("documents")
        documents = [one for one in found if one.id != own] if isinstance(found, list) else []
        return _ranked(replace(seen, joules=joules * share), documents)


class RerankGroup(SystemGroup):
    """
    A cross-encoder over a first stage's candidates at several depths, alone and joined with the first stage's scores:
    by fixed weights, and by weights that follow the query.

    The first stage of a cascade is another cross-encoder.

    The deepest list is scored in slices, from one depth to the next: a shallower depth costs what its slices took, and
    every pair is scored once. Below a depth the first stage's order goes on, as `CrossEncoderRanker(depth=...)` has it.

    :param first: The name of the system whose ranking is re-ranked.
    :param ranker: Loaded by `prepare`.
    :param depths: Ascending.
    :param names: At each depth in turn the cross-encoder's, and a hybrid's for each of `joins`.
    :param key: Names the collection and the first stage.
    :param joins: How both are joined.
    :param given_as: The joiner's input for the first stage.
    :param stage: By which its scores are noted; None for one of the input's name.
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
        joins: Sequence[Weights] = tuple(Weights),
        given_as: str = BM25_INPUT,
        stage: str | None = None,
    ) -> None:
        self.names = tuple(names)
        self.needs = self._first = first
        self._ranker = ranker
        self._depths = tuple(depths)
        self._collection = collection
        self._given_as, self._stage = given_as, given_as if stage is None else stage
        self._joiners = {how: joiner(given_as, how) for how in joins}
        joined = [
            part
            for one in self._joiners.values()
            for part in (one.to_dict(), {name: scale.spec() for name, scale in one.normalizations.items()})
        ]
        self.key = system_key("rerank", key, ranker.to_dict(), *joined, list(depths), self._stage)
        self._report: dict[str, Any] = {}

    @property
    def deepest_alone(self) -> str:
        """The name of the cross-encoder alone at the last depth."""
        return self.names[-1 - len(self._joiners)]

    def prepare(self) -> None:
        self._ranker.warm_up()  # the texts are no documents of the collection: their tokens are kept
        output = self._ranker.run(_WARM_UP, [Document(id=str(n), content="a text") for n in range(8)])
        self._report = output["report"]
        self._meter = meter_for(str(self._report["device"]))

    def describe(self) -> list[Description]:
        told = {key: self._report[key] for key in ("model", "backend", "dtype", "device", "strategy")}
        forms = [(Kind.CROSS_ENCODER, None), *((Kind.HYBRID, how) for how in self._joiners)]
        return [
            Description(kind, self._first, self.meter.source, depth=depth, weights=weights, **told)
            for depth in self._depths
            for kind, weights in forms
        ]

    def observe(self, query_id: str, found: Found) -> list[Observation]:
        before = found[self._first]
        query = self._collection.queries[query_id]
        candidates = candidates_of(self._collection, _scores(before.ranking), stage=self._stage)
        places = {document.id: place for place, document in enumerate(candidates)}
        seen: list[Observation] = []
        scored: list[Document] = []
        costs = before
        for start, depth in zip((0, *self._depths), self._depths, strict=False):
            if part := candidates[start:depth]:
                with self.meter.measure() as spent:
                    output = self._ranker.run(query, part, top_k=len(part), scale_score=False)
                costs = _after(costs, output["report"], spent.seconds, spent.joules, Stage.SCORE)
                scored = sorted([*scored, *output["documents"]], key=lambda one: (-_logit(one), places[one.id]))
            rest = candidates[depth:]
            seen.append(_ranked(costs, scored, rest))
            lists: dict[str, Any] = {RERANKED_INPUT: scored, self._given_as: candidates[:depth]}
            for one in self._joiners.values():
                with self.meter.measure() as spent:
                    joined = one.run(**lists)["documents"]
                seen.append(_ranked(_after(costs, {}, spent.seconds, spent.joules, Stage.JOIN), joined, rest))
        return seen


def joiner(given_as: str, how: Weights) -> HybridScoreJoiner:
    """Return what joins a cross-encoder with a first stage, of this input."""
    weights = dict(zip((RERANKED_INPUT, given_as), SHARES, strict=True))
    return HybridScoreJoiner(weights, adapt_weights=how == Weights.ADAPTIVE)


def _after(costs: Observation, report: Mapping[str, Any], seconds: float, joules: float, stage: Stage) -> Observation:
    """Add what a component took and, where it reports that, what its model read."""
    told = report.get("seconds", {})
    preparing = told.get("tokenise", 0.0) + told.get("select", 0.0) if isinstance(told, Mapping) else 0.0
    tokenising = min(float(preparing), seconds)
    stages = dict(costs.stages)
    for key, spent in ((Stage.TOKENISE, tokenising), (stage, seconds - tokenising)):
        if spent or key == stage:
            stages[key] = stages.get(key, 0.0) + spent
    counted = ("tokens", "pairs", "content_tokens", "tokens_unread")
    counts = {key: getattr(costs, key) + int(report.get(key, 0)) for key in counted}
    flops = report.get("flops", 0.0)
    known = None if costs.flops is None or flops is None else costs.flops + flops
    padding = costs.padding_flops + (report.get("padding_flops") or 0.0)
    return replace(costs, stages=stages, joules=costs.joules + joules, flops=known, padding_flops=padding, **counts)


def _ranked(costs: Observation, documents: Sequence[Document], rest: Sequence[Document] = ()) -> Observation:
    """Return what was seen with a ranking: some documents, and others below them."""
    ranking = [(document.id, _plain(document.score)) for document in [*documents, *rest]]
    return replace(costs, ranking=ranking, readings=_readings(documents))


def _role(measured: MeasuredPipeline, name: str) -> Stage:
    """Which stage a component's time belongs to, by what goes into it and comes out."""
    graph = measured.pipeline.graph
    feeding = [sender for sender, _ in graph.in_edges(name) if sender in measured.stages]
    if name in measured.stages and len(set(feeding)) > 1:
        return Stage.JOIN
    fed = bool(feeding) or any(entry == name for entry, _ in measured.candidate_sockets)
    return Stage.SCORE if fed else Stage.RETRIEVE


def _report(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    report = outputs.get("report")
    return report if isinstance(report, Mapping) else {}


def _scores(ranking: Sequence[tuple[str, float | None]]) -> dict[str, float]:
    """Scores by document, best first; where one is missing, the order counts instead."""
    if any(score is None for _, score in ranking):
        return {name: float(len(ranking) - place) for place, (name, _) in enumerate(ranking)}
    return {name: score for name, score in ranking if score is not None}


def _logit(document: Document) -> float:
    return -float("inf") if document.score is None else float(document.score)


def _plain(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else float(score)


def _readings(documents: Sequence[Document]) -> dict[str, Evidence]:
    """What rankers noted that they read of the documents at the top."""
    found = {}
    for document in documents[:READ]:
        for noted in records(document.meta).values():
            if isinstance(noted, Mapping) and noted.get("read"):
                read = tuple(Passage(part["start"], part["end"], part["logit"]) for part in noted["read"])
                found[document.id] = Evidence(noted.get("logit"), noted.get("coverage"), read)
    return found
