"""Fills a pipeline's document stores with a collection, with embeddings where a retriever needs them."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml
from haystack import Document, Pipeline
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.document_stores.types import DuplicatePolicy

from haystack_ce_ranker.checks import choice
from haystack_ce_ranker.evaluation.data.collections import Collection, Text
from haystack_ce_ranker.evaluation.running.graphs import PipelineError, document_stores, inner_pipelines, sockets_of
from haystack_ce_ranker.provenance import with_record

TITLES = ("content", "meta", "ignore")
"""Where a document's title goes: before the text, under `meta["title"]`, or nowhere."""


def fill(pipeline: Pipeline, collection: Collection, *, title: str = "content") -> tuple[str, ...]:
    """
    Write the collection into every document store of a pipeline; returns notes on what was done.

    :param title: See `TITLES`.
    :raises PipelineError: If a store holds documents that are not the collection's.
    """
    notes: list[str] = []
    plain = documents_of(collection, title=title)
    embedders = _document_embedders(pipeline)
    for owner, store in [(name, store) for name, instance in pipeline.walk() for store in document_stores(instance)]:
        _refuse_foreign(owner, store, collection)
        documents: Sequence[Document] = plain
        if (embedder := embedders.get(owner)) is not None:
            documents = embedder.embed(plain)
            notes.extend(embedder.notes)
        store.write_documents(list(documents), policy=DuplicatePolicy.OVERWRITE)
        notes.append(f"{owner}: {len(documents)} documents written to {type(store).__name__}")
    return tuple(notes)


def documents_of(collection: Collection, *, title: str = "content") -> list[Document]:
    """Return the collection's documents as Haystack documents, ids kept; for `title` see `TITLES`."""
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


def _document(text: Text, title: str) -> Document:
    choice("title", title, TITLES)
    meta = dict(text.metadata)
    if title == "meta" and text.title:
        meta["title"] = text.title
    return Document(id=text.id, content=text.content if title == "content" else text.text, meta=meta)


def _refuse_foreign(owner: str, store: Any, collection: Collection) -> None:
    count, known = store.count_documents(), collection.documents
    if count and not (count <= len(known) and all(one.id in known for one in store.filter_documents())):
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


def _document_embedders(pipeline: Pipeline) -> dict[str, _DocumentEmbedder]:
    """Return document embedders by the component that holds the store that needs them."""
    made: dict[str, _DocumentEmbedder] = {}
    found: dict[str, _DocumentEmbedder] = {}
    for outer, part in [(None, pipeline), *inner_pipelines(pipeline)]:
        for sender, receiver in part.graph.edges():
            text_embedder = part.get_component(sender)
            if not _is_text_embedder(text_embedder) or not document_stores(part.get_component(receiver)):
                continue
            described = yaml.safe_dump(component_to_dict(text_embedder, sender), sort_keys=True)
            embedder = made.setdefault(described, _DocumentEmbedder(sender, text_embedder))
            owner = receiver if outer is None else outer
            if found.setdefault(owner, embedder) is not embedder:
                raise PipelineError(f"{owner!r} gets embeddings from two embedders with different parameters")
    return found


def _is_text_embedder(instance: Any) -> bool:
    embeds = "text" in sockets_of(instance, "input") and "embedding" in sockets_of(instance, "output")
    return embeds or "TextEmbedder" in type(instance).__name__
