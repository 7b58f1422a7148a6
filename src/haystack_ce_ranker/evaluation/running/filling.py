"""Fills a pipeline's document stores with a collection, with embeddings where a retriever needs them."""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from haystack import Document, Pipeline
from haystack.core.pipeline.base import PipelineBase
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.document_stores.types import DuplicatePolicy

from haystack_ce_ranker.checks import choice
from haystack_ce_ranker.data.collections import Collection, Text
from haystack_ce_ranker.evaluation.running.graphs import PipelineError, one_line
from haystack_ce_ranker.evaluation.running.parts import document_stores, held_by, is_component, parts_of, sockets_of
from haystack_ce_ranker.provenance import BM25, with_record

TITLES = ("content", "meta", "ignore")
"""Where a document's title goes: before the text, under `meta["title"]`, or nowhere."""


@dataclass(frozen=True)
class _Holding:
    """A document store, and the pipeline's components that hold it."""

    store: Any
    owners: list[str]

    def __str__(self) -> str:
        return f"the {type(self.store).__name__} of {' and '.join(map(repr, self.owners))}"


def fill(pipeline: Pipeline, collection: Collection, *, title: str = "content") -> tuple[str, ...]:
    """
    Write the collection into every document store of a pipeline; returns notes on what was done.

    :param title: See `TITLES`.
    :raises PipelineError: If a store holds documents that are not the collection's, or does not take the collection.
    """
    notes: list[str] = []
    plain = documents_of(collection, title=title)
    embedders = _Embedders(pipeline)
    holdings: dict[int, _Holding] = {}
    for owner, instance in pipeline.walk():
        for store in document_stores(instance):
            holdings.setdefault(id(store), _Holding(store, [])).owners.append(owner)
    for holding in holdings.values():
        embedder = embedders.of(holding.store)
        documents = plain if embedder is None else embedder.embed(plain)
        count = _write(holding, documents, collection)
        held = "" if count == len(documents) else f", which now holds {count}"
        kind = type(holding.store).__name__
        notes.append(f"{', '.join(holding.owners)}: {len(documents)} documents written to {kind}{held}")
    return (*notes, *embedders.notes)


def _write(holding: _Holding, documents: Sequence[Document], collection: Collection) -> int:
    """Write documents into a store of the collection or an empty one; returns how many it holds then."""
    store = holding.store
    try:
        count, known = store.count_documents(), collection.documents
        foreign = count > len(known) or any(one.id not in known for one in store.filter_documents() if count)
        if not foreign:
            store.write_documents(list(documents), policy=DuplicatePolicy.OVERWRITE)
            return int(store.count_documents())
    except Exception as error:  # each store raises the errors of its own client
        remedy = "check that it can be reached and that its settings, such as the length of embeddings, fit"
        if not any(one.embedding is not None for one in documents):
            remedy = (
                "no text embedder feeds a retriever of this store, so the documents have no embeddings. If the store "
                "needs them, connect a text embedder, and evaluating embeds the documents with its counterpart; else "
                "check that the store can be reached"
            )
        raise PipelineError(f"{holding} did not take the collection ({one_line(error)}): {remedy}") from error
    raise PipelineError(
        f"{holding} already holds {count} documents that are not of collection {collection.name!r}: evaluating writes "
        "the collection into the pipeline's stores, so point the YAML at an empty index"
    )


def documents_of(collection: Collection, *, title: str = "content") -> list[Document]:
    """Return the collection's documents as Haystack documents, ids kept; for `title` see `TITLES`."""
    return [_document(text, title) for text in collection.documents.values()]


def candidates_of(
    collection: Collection, scores: Mapping[str, float], *, title: str = "content", stage: str = BM25
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


def _document(text: Text, title: str) -> Document:
    choice("title", title, TITLES)
    meta = dict(text.metadata)
    if title == "meta" and text.title:
        meta["title"] = text.title
    return Document(id=text.id, content=text.content if title == "content" else text.text, meta=meta)


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
            try:
                if hasattr(embedder, "warm_up"):
                    embedder.warm_up()
                self._embedded = list(embedder.run(documents=list(documents))["documents"])
            except Exception as error:  # each embedder raises the errors of its own client
                told = f"{type(embedder).__name__} could not embed the collection ({one_line(error)})"
                raise PipelineError(f"{self.name}: {told}: check its model and that it can be reached") from error
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
            with suppress(ImportError, AttributeError):
                document_kind = getattr(importlib.import_module(module), wanted)
                break
        else:
            looked = f"looked for {wanted} in {', '.join(dict.fromkeys(modules))}"
            raise PipelineError(f"no document embedder for {self.name!r}: {looked}")
        described = component_to_dict(self.text_embedder, self.name)
        accepted = inspect.signature(document_kind.__init__).parameters
        parameters = described["init_parameters"]
        # A prefix or suffix instructs the model about queries ("query: "); a document has one of its own or none.
        kept = {key: value for key, value in parameters.items() if key in accepted and key not in ("prefix", "suffix")}
        if "progress_bar" in accepted:
            kept["progress_bar"] = False
        for key in ("prefix", "suffix"):
            if parameters.get(key):
                given = f"{key} {parameters[key]!r}"
                self.notes.append(f"{self.name}: {given} is for queries; documents are embedded without")
        if lost := [key for key in parameters if key not in accepted]:
            self.notes.append(f"{self.name}: {document_kind.__name__} has no parameter {', '.join(lost)}")
        data = {"type": f"{document_kind.__module__}.{document_kind.__name__}", "init_parameters": kept}
        return component_from_dict(document_kind, data, self.name)


class _Embedders:
    """
    Which document embedder each store of a pipeline needs.

    A text embedder's embeddings go to the stores of the component that it is connected to, and to those of retrievers
    that one component holds beside it. Two stores that are described alike, as those of a YAML are, may be one index:
    they get the same embeddings.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._made: dict[str, _DocumentEmbedder] = {}
        self._by_store: dict[int, _DocumentEmbedder] = {}
        self._by_description: dict[str, _DocumentEmbedder] = {}
        for part in reversed(list(parts_of(pipeline))):  # what is held further in knows best
            found: dict[int, _DocumentEmbedder] = {}
            for feed in _feeds(part):
                described = yaml.safe_dump(component_to_dict(feed.embedder, feed.name), sort_keys=True)
                made = self._made.setdefault(described, _DocumentEmbedder(feed.name, feed.embedder))
                for store in document_stores(feed.receiver):
                    if found.setdefault(id(store), made) is not made:
                        why = "gets embeddings from two embedders with different parameters"
                        raise PipelineError(f"{feed.receiver_name!r} {why}")
                    self._by_store.setdefault(id(store), made)
                    self._by_description.setdefault(_description(store), made)

    def of(self, store: Any) -> _DocumentEmbedder | None:
        """Return the embedder of a store's documents; None where it needs none."""
        return self._by_store.get(id(store), self._by_description.get(_description(store)))

    @property
    def notes(self) -> list[str]:
        """What was embedded, and what differs from the text embedder."""
        return [note for embedder in self._made.values() for note in embedder.notes]


class _Feed(NamedTuple):
    """A text embedder, and what holds the stores that its embeddings are meant for."""

    name: str
    embedder: Any
    receiver_name: str
    receiver: Any


def _feeds(part: Any) -> Iterator[_Feed]:
    """Yield the text embedders that a pipeline connects to something, or that a component holds itself."""
    if isinstance(part, PipelineBase):
        for sender, receiver in part.graph.edges():
            if _is_text_embedder(embedder := part.get_component(sender)):
                yield _Feed(sender, embedder, receiver, part.get_component(receiver))
    elif is_component(part):
        name = type(part).__name__
        yield from (_Feed(name, one, name, part) for one in _components_in(part) if _is_text_embedder(one))


def _components_in(part: Any) -> Iterator[Any]:
    """Yield the components that a component holds itself, in whatever it keeps them."""
    waiting, known = held_by(part), {id(part)}
    while waiting:
        one = waiting.pop()
        if id(one) in known:
            continue
        known.add(id(one))
        if is_component(one):
            yield one
        elif not isinstance(one, PipelineBase):
            waiting += held_by(one)


def _description(store: Any) -> str:
    """Return what tells an index from others; a store that cannot be described is only itself."""
    try:
        return yaml.safe_dump(store.to_dict(), sort_keys=True)
    except Exception:  # a store's own method, or a value that YAML does not know
        return str(id(store))


def _is_text_embedder(instance: Any) -> bool:
    embeds = "text" in sockets_of(instance, "input") and "embedding" in sockets_of(instance, "output")
    return embeds or "TextEmbedder" in type(instance).__name__
