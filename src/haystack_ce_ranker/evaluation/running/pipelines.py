"""
Any Haystack pipeline as something that can be measured: load it, send queries, take the documents at its end.

How a pipeline and a collection meet (the documentation of `evaluate` repeats these rules):

- *Stores.* Every document store that a component holds, itself or in other components, lists, dictionaries, tools or
  pipelines, is filled with the collection: `Document.id` is the collection's id, `content` is title, newline, text,
  `meta` is the collection's metadata. A store that already holds other documents is refused, so that neither an index
  nor a measurement is spoilt. A pipeline without a store must find the collection by itself.
- *Embeddings.* Where a text embedder feeds a retriever, or one component holds both, the document embedder of the same
  family, with the same parameters, embeds that store's documents.
- *Query.* It goes to every unconnected input named `query`, `text`, `question`, `search_query` or `prompt` that takes
  a string (or, as a list of one, to `queries` and `texts`). In a YAML, hayhooks' `inputs: {query: [...]}` takes
  precedence.
- *Candidates.* Where a run is given, first-stage retrievers (components with a store that take no documents) are taken
  out, and the candidates enter the `documents` inputs they fed; in a pipeline that begins at its ranker they enter the
  unconnected mandatory inputs that take a list of documents.
- *End.* The result is the `documents` output from which no further component makes documents; what comes after it
  (prompt builders, generators) is not run. In a YAML, `outputs: {documents: component.socket}` takes precedence.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from haystack import Document, Pipeline
from haystack.core.errors import PipelineRuntimeError
from haystack.tracing.tracer import NullSpan, NullTracer, Span, enable_tracing, tracer

from haystack_ce_ranker.data.collections import Collection
from haystack_ce_ranker.evaluation.running.filling import fill
from haystack_ce_ranker.evaluation.running.graphs import (
    PipelineError,
    Socket,
    ends_of,
    fed_by,
    first_stage,
    makers_of,
    needed_for,
    one_line,
    takes,
    takes_documents,
    unfed,
    without,
)
from haystack_ce_ranker.evaluation.running.parts import document_stores

_QUERY_NAMES = ("query", "text", "question", "search_query", "prompt")
_QUERY_LIST_NAMES = ("queries", "texts")
_TRIED = 5  # queries that show whether a pipeline without a store finds the collection


@dataclass(frozen=True, slots=True)
class PipelineOutput:
    """
    What a pipeline returned for one query.

    :param documents: Best first.
    :param seconds: Wall-clock time of the whole pipeline.
    :param cpu_seconds: Time the process was busy meanwhile, all threads together.
    :param stage_seconds: Wall-clock time by component.
    :param outputs: What each component that makes documents returned, by component.
    """

    documents: list[Document]
    seconds: float
    cpu_seconds: float
    stage_seconds: Mapping[str, float]
    outputs: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class MeasuredPipeline:
    """
    A pipeline with what is needed to measure it. Make one with `load_pipeline` or `measured`.

    :param query_sockets: Where the query enters.
    :param candidate_sockets: Where a given run's candidates enter; empty if none are given to it.
    :param ends: The outputs that may hold the result.
    :param stages: The components that make documents.
    :param notes: In words, what was taken out or left out.
    :param source: The text of its file.
    """

    name: str
    pipeline: Pipeline
    query_sockets: tuple[Socket, ...]
    candidate_sockets: tuple[Socket, ...]
    ends: tuple[Socket, ...]
    stages: tuple[str, ...]
    notes: tuple[str, ...] = ()
    _query_lists: frozenset[Socket] = field(default_factory=frozenset)
    source: str = ""

    def fill(self, collection: Collection, *, title: str = "content") -> tuple[str, ...]:
        """Fill the pipeline's document stores with the collection and return notes, as `filling.fill` does."""
        return fill(self.pipeline, collection, title=title)

    def warm_up(self) -> None:
        """
        Load models and build indexes, so that no query pays for it. Call it once the stores are filled.

        :raises PipelineError: If a component raises an error of a kind that says nothing about its settings.
        """
        try:
            self.pipeline.warm_up()
        except (ValueError, OSError, ImportError):
            raise
        except Exception as error:  # each client and runtime raises errors of its own
            raise PipelineError(f"pipeline {self.name!r} could not be loaded ({one_line(error)})") from error

    def prepare(self, collection: Collection, *, title: str = "content") -> tuple[str, ...]:
        """
        Fill the stores and warm up; returns the notes of `fill`.

        :raises PipelineError: If a store does not take the collection, or there is neither a store nor a retriever that
            knows the collection already.
        """
        notes = self.fill(collection, title=title)
        self.warm_up()
        if self.candidate_sockets or document_stores(self.pipeline):
            return notes
        tried = list(collection.queries.values())[:_TRIED]
        if not any(one.id in collection.documents for query in tried for one in self.run(query).documents):
            raise PipelineError(
                f"pipeline {self.name!r} holds no document store that the collection could be written to, and of its "
                f"first {len(tried)} queries none finds a document of collection {collection.name!r}: let a component "
                "keep the store, or the retriever with the store, as an attribute (a list or a dictionary will do), or "
                "give candidates with --run"
            )
        return (*notes, "no document store was filled: a retriever finds the collection in an index of its own")

    def run(self, query: str, candidates: Sequence[Document] | None = None) -> PipelineOutput:
        """Send one query through; `candidates` stand for the first stage, and are needed for `candidate_sockets`."""
        if bool(self.candidate_sockets) != (candidates is not None):
            needs = "needs candidates" if self.candidate_sockets else "retrieves by itself and takes no candidates"
            raise PipelineError(f"pipeline {self.name!r} {needs}")
        data: dict[str, dict[str, Any]] = {}
        for socket in self.query_sockets:
            data.setdefault(socket[0], {})[socket[1]] = [query] if socket in self._query_lists else query
        for name, socket_name in self.candidate_sockets:
            data.setdefault(name, {})[socket_name] = list(candidates) if candidates is not None else []
        with _stage_clock() as clock:
            started, busy = time.perf_counter(), time.process_time()
            try:
                outputs = self.pipeline.run(data, include_outputs_from=set(self.stages))
            except PipelineRuntimeError as error:
                cause = error if error.__cause__ is None else error.__cause__
                failed = f"component {error.component_name!r} failed ({one_line(cause)})"
                raise PipelineError(f"pipeline {self.name!r}: {failed}") from error
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - busy
        present = [(name, socket) for name, socket in self.ends if isinstance(outputs.get(name, {}).get(socket), list)]
        if len(present) > 1:
            where = " and ".join(f"{name}.{socket}" for name, socket in present)
            raise PipelineError(
                f"pipeline {self.name!r} ends in documents at {where}: join them, or name one in the YAML as "
                f"`outputs: {{documents: {present[0][0]}.{present[0][1]}}}`"
            )
        documents = list(outputs[present[0][0]][present[0][1]]) if present else []
        stage_seconds = {name: clock[name] for name in self.pipeline.graph.nodes if name in clock}
        return PipelineOutput(documents, seconds, cpu_seconds, stage_seconds, outputs)


def load_pipeline(path: str | Path, *, candidates: bool = False, name: str | None = None) -> MeasuredPipeline:
    """
    Load a pipeline's YAML with `Pipeline.load` and find where queries and candidates enter and documents come out.

    :param candidates: True if a fixed run stands for the first stage.
    :raises PipelineError: If the file cannot be loaded, or it does not say where something belongs.
    """
    path = Path(path)
    if not path.is_file():
        raise PipelineError(f"there is no pipeline file {path}")
    try:
        source = path.read_text(encoding="utf-8")
        pipeline = Pipeline.loads(source)
        described = yaml.safe_load(source)
    except Exception as error:
        raise PipelineError(f"{path} is not a pipeline that Haystack can load: {error}") from error
    queries = _declared((described.get("inputs") or {}).get("query"), path, "inputs.query")
    ends = _declared((described.get("outputs") or {}).get("documents"), path, "outputs.documents")
    name = path.stem if name is None else name
    end = ends[0] if ends else None
    found = measured(pipeline, name=name, candidates=candidates, query_sockets=queries, end=end)
    return replace(found, source=source)


def measured(
    pipeline: Pipeline,
    *,
    name: str = "pipeline",
    candidates: bool = False,
    query_sockets: Sequence[Socket] | None = None,
    end: Socket | None = None,
) -> MeasuredPipeline:
    """
    Find where queries and candidates enter a pipeline and where its documents come out.

    The pipeline given is not changed: where components are left out, it is built anew from its serialised form.

    :param query_sockets: Decides where the query enters; found by name if None.
    :param end: Decides where the result is taken; the last output of documents if None.
    """

    def refused(problem: str) -> PipelineError:
        return PipelineError(f"pipeline {name!r} {problem}")

    notes: list[str] = []
    ends = (end,) if end is not None else ends_of(pipeline)
    if not ends:
        raise refused("has no component that outputs a list of documents")
    if end is not None and end[0] not in pipeline.graph:
        raise refused(f"has no component {end[0]!r} (named under `outputs`)")
    retrievers = first_stage(pipeline)
    entries = fed_by(pipeline, retrievers) if candidates else ()
    kept = needed_for(pipeline, {part for part, _ in ends}, removed=set(retrievers) if entries else set())
    if leftover := set(pipeline.graph.nodes) - kept:
        pipeline = without(pipeline, leftover)
        notes.append(f"not run: {', '.join(sorted(leftover))}")
    if not entries:
        entries = tuple(socket for socket, kind in unfed(pipeline).items() if takes_documents(kind))
        if entries and not candidates:
            where = ", ".join(map(".".join, entries))
            raise refused(f"expects documents at {where}: give a run of candidates, or a retriever before it")
        if candidates and not entries:
            raise refused("has no input that candidates could enter")
    queries, lists = _query_sockets(pipeline, query_sockets)
    if not queries:
        remedy = "name them in the YAML as `inputs: {query: [component.socket]}`"
        raise refused(f"has no unconnected input that takes a query (looked for {', '.join(_QUERY_NAMES)}): {remedy}")
    if unfilled := {socket: kind for socket, kind in unfed(pipeline).items() if socket not in (*queries, *entries)}:
        listed = ", ".join(f"{'.'.join(socket)} ({kind})" for socket, kind in unfilled.items())
        raise refused(f"has mandatory inputs that an evaluation cannot fill: {listed}; give them defaults in the YAML")
    return MeasuredPipeline(name, pipeline, queries, entries, ends, tuple(makers_of(pipeline)), tuple(notes), lists)


def _query_sockets(
    pipeline: Pipeline, declared: Sequence[Socket] | None
) -> tuple[tuple[Socket, ...], frozenset[Socket]]:
    """Return where the query enters, and which of these inputs take it as a list of one."""
    found: dict[Socket, bool] = {}
    for name, sockets in pipeline.inputs().items():
        for socket_name, socket in sockets.items():
            for kind, names in ((str, _QUERY_NAMES), (list[str], _QUERY_LIST_NAMES)):
                wanted = socket_name in names if declared is None else (name, socket_name) in declared
                if wanted and takes(socket["type"], kind):
                    found.setdefault((name, socket_name), kind is not str)
    return tuple(found), frozenset(socket for socket, is_list in found.items() if is_list)


def _declared(value: Any, path: Path, where: str) -> list[Socket] | None:
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n.count(".") == 1 for n in names):
        raise PipelineError(f"{path}: `{where}` must be `component.socket` or a list of such, but got {value!r}")
    return [(n.split(".")[0], n.split(".")[1]) for n in names]


class _StageTracer(NullTracer):
    """Adds up the time of each component's run; knows nothing of what goes in or out."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def trace(
        self,
        operation_name: str,
        tags: dict[str, Any] | None = None,
        parent_span: Span | None = None,  # noqa: ARG002
    ) -> Iterator[Span]:
        started = time.perf_counter()
        try:
            yield NullSpan()
        finally:
            name = (tags or {}).get("haystack.component.name")
            if operation_name.startswith("haystack.component.run") and name is not None:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@contextmanager
def _stage_clock() -> Iterator[dict[str, float]]:
    """Time components through Haystack's own tracing, and put the tracer that was there back afterwards."""
    clock = _StageTracer()
    before = tracer.actual_tracer
    enable_tracing(clock)
    try:
        yield clock.seconds
    finally:
        tracer.actual_tracer = before
