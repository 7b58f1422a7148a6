"""
Any Haystack pipeline as something that can be measured: fill its stores, send queries, take the documents at its end.

How a pipeline and a collection meet (the documentation of `evaluate` repeats these rules):

- *Stores.* Every document store held by a component (also inside a SuperComponent) is filled with the collection:
  `Document.id` is the collection's id, `content` is title, newline, text, `meta` is the collection's metadata. A store
  that already holds other documents is refused, so that no one's index is spoilt and no measurement is.
- *Embeddings.* Where a text embedder feeds a retriever, that retriever's store is filled with embeddings made by the
  document embedder of the same family with the same parameters.
- *Query.* It goes to every unconnected input named `query`, `text`, `question`, `search_query` or `prompt` that takes
  a string (or, as a list of one, to `queries` and `texts`). A YAML with hayhooks' `inputs: {query: [...]}` decides
  itself.
- *Candidates.* Where a fixed run is given, first-stage retrievers (components with a store that take no documents) are
  taken out and the candidates enter the `documents` inputs they fed; in a pipeline that begins at its ranker they enter
  the unconnected mandatory inputs that take a list of documents.
- *End.* The result is the `documents` output from which no further component makes documents; what comes after it
  (prompt builders, generators) is not run. A YAML with `outputs: {documents: component.socket}` decides itself.
"""

import importlib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from haystack import Document, Pipeline
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.document_stores.types import DuplicatePolicy
from haystack.tracing.tracer import Span, Tracer, enable_tracing, tracer

from haystack_ce_ranker.evaluation.data.collections import Collection, Text
from haystack_ce_ranker.provenance import with_record

_QUERY_NAMES = ("query", "text", "question", "search_query", "prompt")
_QUERY_LIST_NAMES = ("queries", "texts")

Socket = tuple[str, str]
"""A component's name and the name of one of its inputs or outputs."""


class PipelineError(ValueError):
    """A pipeline cannot be measured as it is; the message names the component and says what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
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
    :param notes: In words, what was taken out or left out.
    """

    name: str
    pipeline: Pipeline
    query_sockets: tuple[Socket, ...]
    candidate_sockets: tuple[Socket, ...]
    ends: tuple[Socket, ...]
    stages: tuple[str, ...]
    notes: tuple[str, ...] = ()
    _query_lists: frozenset[Socket] = field(default_factory=frozenset)

    def fill(self, collection: Collection, *, title: str = "content") -> tuple[str, ...]:
        """
        Fill the pipeline's document stores with the collection; returns notes on what was done.

        :param title: `content` puts a title before the text, `meta` under `meta["title"]`, `ignore` nowhere.
        :raises PipelineError: If a store holds documents that are not the collection's.
        """
        notes: list[str] = []
        plain = documents_of(collection, title=title)
        embedders = self._document_embedders()
        for owner, store in self._stores():
            _refuse_foreign(owner, store, collection)
            documents: Sequence[Document] = plain
            if (embedder := embedders.get(owner)) is not None:
                documents = embedder.embed(plain)
                notes.extend(embedder.notes)
            store.write_documents(list(documents), policy=DuplicatePolicy.OVERWRITE)
            notes.append(f"{owner}: {len(documents)} documents written to {type(store).__name__}")
        return tuple(notes)

    def warm_up(self) -> None:
        """Load models and build indexes, so that no query pays for it. Call it once the stores are filled."""
        self.pipeline.warm_up()

    def run(self, query: str, candidates: Sequence[Document] | None = None) -> Answer:
        """
        Send one query through.

        :param candidates: The documents that stand for the first stage; needed if there are `candidate_sockets`.
        """
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
            outputs = self.pipeline.run(data, include_outputs_from=set(self.stages))
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
        return Answer(documents, seconds, cpu_seconds, stage_seconds, outputs)

    def _stores(self) -> list[tuple[str, Any]]:
        return [(name, store) for name, instance in self.pipeline.walk() for store in document_stores(instance)]

    def _document_embedders(self) -> dict[str, "_DocumentEmbedder"]:
        """Document embedders by the retriever whose store needs them."""
        made: dict[str, _DocumentEmbedder] = {}
        found: dict[str, _DocumentEmbedder] = {}
        pipelines = [self.pipeline, *(inner for _, inner in _inner_pipelines(self.pipeline))]
        for pipeline in pipelines:
            for sender, receiver in pipeline.graph.edges():
                text_embedder = pipeline.get_component(sender)
                if not _is_text_embedder(text_embedder) or not document_stores(pipeline.get_component(receiver)):
                    continue
                described = yaml.safe_dump(component_to_dict(text_embedder, sender), sort_keys=True)
                embedder = made.setdefault(described, _DocumentEmbedder(sender, text_embedder))
                owner = next((name for name, inner in _inner_pipelines(self.pipeline) if inner is pipeline), receiver)
                if owner in found and found[owner] is not embedder:
                    raise PipelineError(f"{owner!r} gets embeddings from two embedders with different parameters")
                found[receiver] = embedder
                found[owner] = embedder
        return found


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
        with path.open(encoding="utf-8") as stream:
            pipeline = Pipeline.load(stream)
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise PipelineError(f"{path} is not a pipeline that Haystack can load: {error}") from error
    inputs = described.get("inputs") or {}
    outputs = described.get("outputs") or {}
    return measured(
        pipeline,
        name=path.stem if name is None else name,
        candidates=candidates,
        query_sockets=_declared(inputs.get("query"), path, "inputs.query"),
        end=next(iter(_declared(outputs.get("documents"), path, "outputs.documents") or ()), None),
    )


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
    notes: list[str] = []
    ends = (end,) if end is not None else _ends(pipeline)
    if not ends:
        raise PipelineError(f"pipeline {name!r} has no component that outputs a list of documents")
    if end is not None and end[0] not in pipeline.graph:
        raise PipelineError(f"pipeline {name!r} has no component {end[0]!r} (named under `outputs`)")
    retrievers = _first_stage(pipeline)
    entries = tuple(_fed_by(pipeline, retrievers)) if candidates else ()
    removed = set(retrievers) if entries else set()
    kept = _ancestors(pipeline, {component_name for component_name, _ in ends}, without=removed)
    if leftover := [component_name for component_name in pipeline.graph.nodes if component_name not in kept]:
        pipeline = _without(pipeline, set(leftover))
        notes.append(f"not run: {', '.join(sorted(leftover))}")
    if not entries:
        entries = _unfed_documents(pipeline)
        if entries and not candidates:
            where = ", ".join(f"{component_name}.{socket}" for component_name, socket in entries)
            raise PipelineError(
                f"pipeline {name!r} expects documents at {where}: give a run of candidates, or a retriever before it"
            )
        if candidates and not entries:
            raise PipelineError(f"pipeline {name!r} has no input that candidates could enter")
    queries, lists = _query_sockets(pipeline, query_sockets)
    if not queries:
        raise PipelineError(
            f"pipeline {name!r} has no unconnected input that takes a query (looked for {', '.join(_QUERY_NAMES)}): "
            "name them in the YAML as `inputs: {query: [component.socket]}`"
        )
    _refuse_unfilled(pipeline, name, {*queries, *entries})
    stages = tuple(
        component_name
        for component_name, sockets in pipeline.outputs(include_components_with_connected_outputs=True).items()
        if any(_takes_documents(socket["type"]) for socket in sockets.values())
    )
    return MeasuredPipeline(name, pipeline, queries, entries, ends, stages, tuple(notes), lists)


def documents_of(collection: Collection, *, title: str = "content") -> list[Document]:
    """
    Return the collection's documents as Haystack documents, ids kept.

    :param title: `content` puts a title before the text, `meta` under `meta["title"]`, `ignore` nowhere.
    """
    return [_document(text, title) for text in collection.documents.values()]


def candidates_of(
    collection: Collection, scores: Mapping[str, float], *, title: str = "content", stage: str = "bm25"
) -> list[Document]:
    """
    Return one query's candidates as a first stage would: documents with scores, best first.

    :param scores: Document ids with scores, best first.
    :param stage: Under which name each document's meta notes score and rank.
    """
    candidates = []
    for rank, (document_id, score) in enumerate(scores.items(), start=1):
        document = _document(collection.documents[document_id], title)
        meta = with_record(document.meta, stage, {"score": score, "rank": rank})
        candidates.append(Document(id=document.id, content=document.content, meta=meta, score=score))
    return candidates


def document_stores(instance: Any) -> list[Any]:
    """Return the document stores that a component holds itself, or inside the pipeline that it wraps."""
    values = _held(instance)
    stores = [value for value in values if hasattr(value, "write_documents") and hasattr(value, "filter_documents")]
    for value in values:
        if isinstance(value, Pipeline):
            stores += [store for _, inner in value.walk() for store in document_stores(inner)]
    return [store for position, store in enumerate(stores) if not any(store is other for other in stores[:position])]


def _held(instance: Any) -> list[Any]:
    """Return what a component holds, without Haystack's own notes on it (its pipeline among them)."""
    return [value for key, value in vars(instance).items() if not key.startswith("__haystack")]


def _document(text: Text, title: str) -> Document:
    if title not in ("content", "meta", "ignore"):
        raise ValueError(f"title must be 'content', 'meta' or 'ignore', but got {title!r}")
    meta = dict(text.metadata)
    if title == "meta" and text.title:
        meta["title"] = text.title
    return Document(id=text.id, content=text.content if title == "content" else text.text, meta=meta)


def _refuse_foreign(owner: str, store: Any, collection: Collection) -> None:
    if not (count := store.count_documents()):
        return
    ours = count <= len(collection.documents) and all(
        document.id in collection.documents for document in store.filter_documents()
    )
    if not ours:
        raise PipelineError(
            f"the {type(store).__name__} of {owner!r} already holds {count} documents that are not of collection "
            f"{collection.name!r}: evaluating writes the collection into the pipeline's stores, so point the YAML at "
            "an empty index"
        )


@dataclass
class _DocumentEmbedder:
    """The document embedder of the same family and with the same parameters as a text embedder; embeds only once."""

    name: str
    text_embedder: Any
    notes: list[str] = field(default_factory=list)
    _embedded: list[Document] | None = None

    def embed(self, documents: Sequence[Document]) -> list[Document]:
        if self._embedded is None:
            embedder = self._make()
            if hasattr(embedder, "warm_up"):
                embedder.warm_up()
            self._embedded = list(embedder.run(documents=list(documents))["documents"])
            self.notes.append(f"{self.name}: embeddings by {type(embedder).__name__}")
        return self._embedded

    def _make(self) -> Any:
        kind = type(self.text_embedder)
        wanted = kind.__name__.replace("TextEmbedder", "DocumentEmbedder")
        modules = (
            kind.__module__.replace("text_embedder", "document_embedder"),
            kind.__module__,
            kind.__module__.rpartition(".")[0],
        )
        for module in modules:
            try:
                document_kind = getattr(importlib.import_module(module), wanted)
            except (ImportError, AttributeError):
                continue
            break
        else:
            raise PipelineError(
                f"no document embedder for {self.name!r}: looked for {wanted} in {', '.join(dict.fromkeys(modules))}"
            )
        described = component_to_dict(self.text_embedder, self.name)
        accepted = inspect.signature(document_kind.__init__).parameters
        parameters = described["init_parameters"]
        # A prefix or suffix instructs the model about queries ("query: "); a document has one of its own or none.
        kept = {key: value for key, value in parameters.items() if key in accepted and key not in ("prefix", "suffix")}
        if "progress_bar" in accepted:
            kept["progress_bar"] = False
        for key in ("prefix", "suffix"):
            if parameters.get(key):
                self.notes.append(
                    f"{self.name}: {key} {parameters[key]!r} is for queries; documents are embedded without"
                )
        if lost := [key for key in parameters if key not in accepted]:
            self.notes.append(f"{self.name}: {document_kind.__name__} has no parameter {', '.join(lost)}")
        qualified = f"{document_kind.__module__}.{document_kind.__name__}"
        data = {"type": qualified, "init_parameters": kept}
        return component_from_dict(document_kind, data, self.name)


def _sockets(instance: Any, side: str) -> dict[str, Any]:
    """Return a component's sockets by name; `side` is `input` or `output`."""
    sockets: dict[str, Any] = getattr(instance, f"__haystack_{side}__")._sockets_dict
    return sockets


def _is_text_embedder(instance: Any) -> bool:
    inputs = _sockets(instance, "input")
    outputs = _sockets(instance, "output")
    return "TextEmbedder" in type(instance).__name__ or ("text" in inputs and "embedding" in outputs)


def _inner_pipelines(pipeline: Pipeline) -> Iterator[tuple[str, Pipeline]]:
    for name, instance in pipeline.walk():
        for value in _held(instance):
            if isinstance(value, Pipeline):
                yield name, value


def _takes_documents(kind: Any) -> bool:
    """Whether a socket's type is a list of documents, alone or among others (`list[Document] | None`)."""
    if get_origin(kind) in (Union, UnionType):
        return any(_takes_documents(part) for part in get_args(kind))
    return get_origin(kind) is list and get_args(kind) == (Document,)


def _takes(kind: Any, wanted: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_takes(part, wanted) for part in get_args(kind))
    return kind is Any or kind == wanted


def _first_stage(pipeline: Pipeline) -> list[str]:
    return [
        name
        for name, instance in pipeline.walk()
        if document_stores(instance)
        and any(_takes_documents(s.type) for s in _sockets(instance, "output").values())
        and not any(_takes_documents(s.type) for s in _sockets(instance, "input").values())
    ]


def _fed_by(pipeline: Pipeline, retrievers: Sequence[str]) -> list[Socket]:
    fed = []
    for sender, receiver, edge in pipeline.graph.edges(data=True):
        if sender in retrievers and receiver not in retrievers and _takes_documents(edge["from_socket"].type):
            fed.append((receiver, edge["to_socket"].name))
    return list(dict.fromkeys(fed))


def _unfed_documents(pipeline: Pipeline) -> tuple[Socket, ...]:
    return tuple(
        (name, socket_name)
        for name, sockets in pipeline.inputs().items()
        for socket_name, socket in sockets.items()
        if socket["is_mandatory"] and _takes_documents(socket["type"]) and not _is_fed(pipeline, name, socket_name)
    )


def _is_fed(pipeline: Pipeline, name: str, socket: str) -> bool:
    """Tell whether a connection leads to the socket: Haystack 2.24 lists the filled input of a joiner as open."""
    return any(edge["to_socket"].name == socket for _, _, edge in pipeline.graph.in_edges(name, data=True))


def _ends(pipeline: Pipeline) -> tuple[Socket, ...]:
    makers = {
        name: [socket_name for socket_name, socket in sockets.items() if _takes_documents(socket["type"])]
        for name, sockets in pipeline.outputs(include_components_with_connected_outputs=True).items()
    }
    makers = {name: sockets for name, sockets in makers.items() if sockets}
    last = [
        name for name in makers if not any(other in makers for other in _reachable(pipeline, name) if other != name)
    ]
    ends = []
    for name in last:
        ends += [(name, socket) for socket in makers[name]]
    # A router may pass documents by its successors: such an open output of an earlier component is an end as well.
    for name, sockets in pipeline.outputs().items():
        if name in makers and name not in last and len(makers[name]) > 1:
            ends += [(name, socket) for socket in sockets if socket in makers[name]]
    return tuple(ends)


def _reachable(pipeline: Pipeline, start: str, *, backwards: bool = False, without: Set[str] = frozenset()) -> set[str]:
    """Return the components after one, or before it, that can be reached without passing those left out."""
    steps = pipeline.graph.predecessors if backwards else pipeline.graph.successors
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        found = {name for name in steps(waiting.pop()) if name not in without and name not in reached}
        reached |= found
        waiting.extend(found)
    return reached


def _ancestors(pipeline: Pipeline, ends: set[str], *, without: set[str]) -> set[str]:
    kept = ends - without
    for name in ends - without:
        kept |= _reachable(pipeline, name, backwards=True, without=without)
    return kept


def _without(pipeline: Pipeline, removed: set[str]) -> Pipeline:
    described = pipeline.to_dict()
    described["components"] = {name: value for name, value in described["components"].items() if name not in removed}
    described["connections"] = [
        edge
        for edge in described["connections"]
        if edge["sender"].split(".")[0] not in removed and edge["receiver"].split(".")[0] not in removed
    ]
    # Haystack 3 asks for trust in every module by name; these are the modules that the caller's own objects came from.
    trusts = "unsafe" in inspect.signature(type(pipeline).from_dict).parameters
    options: dict[str, Any] = {"unsafe": True} if trusts else {}
    return type(pipeline).from_dict(described, **options)


def _query_sockets(
    pipeline: Pipeline, declared: Sequence[Socket] | None
) -> tuple[tuple[Socket, ...], frozenset[Socket]]:
    unconnected = pipeline.inputs()
    found: list[Socket] = []
    lists: set[Socket] = set()
    for name, sockets in unconnected.items():
        for socket_name, socket in sockets.items():
            entry = (name, socket_name)
            if declared is not None and entry not in declared:
                continue
            if _takes(socket["type"], str) and (declared is not None or socket_name in _QUERY_NAMES):
                found.append(entry)
            elif _takes(socket["type"], list[str]) and (declared is not None or socket_name in _QUERY_LIST_NAMES):
                found.append(entry)
                lists.add(entry)
    return tuple(found), frozenset(lists)


def _refuse_unfilled(pipeline: Pipeline, name: str, filled: set[Socket]) -> None:
    unfilled = [
        f"{component_name}.{socket_name} ({socket['type']})"
        for component_name, sockets in pipeline.inputs().items()
        for socket_name, socket in sockets.items()
        if socket["is_mandatory"]
        and (component_name, socket_name) not in filled
        and not _is_fed(pipeline, component_name, socket_name)
    ]
    if unfilled:
        raise PipelineError(
            f"pipeline {name!r} has mandatory inputs that an evaluation cannot fill: {', '.join(unfilled)}; give them "
            "defaults in the YAML"
        )


def _declared(value: Any, path: Path, where: str) -> list[Socket] | None:
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n.count(".") == 1 for n in names):
        raise PipelineError(f"{path}: `{where}` must be `component.socket` or a list of such, but got {value!r}")
    return [(n.split(".")[0], n.split(".")[1]) for n in names]


class _StageTracer(Tracer):
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
            yield _NoSpan()
        finally:
            name = (tags or {}).get("haystack.component.name")
            if operation_name.startswith("haystack.component.run") and name is not None:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def current_span(self) -> Span | None:
        return None


class _NoSpan(Span):
    def set_tag(self, key: str, value: Any) -> None:
        pass


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
