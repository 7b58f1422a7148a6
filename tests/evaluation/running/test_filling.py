"""Filling a pipeline's stores: the documents, whose store is refused, and embeddings."""

import pytest
from haystack import Document, Pipeline, component
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from fakes import SHOP
from haystack_ce_ranker.evaluation.running.filling import documents_of, fill
from haystack_ce_ranker.evaluation.running.graphs import PipelineError


@component
class LengthTextEmbedder:
    """A text embedder for tests: one dimension, the number of characters."""

    def __init__(self, prefix: str = "", scale: float = 1.0, only_here: int = 0):
        self.prefix, self.scale, self.only_here = prefix, scale, only_here

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict:
        return {"embedding": [len(self.prefix + text) * self.scale, 1.0]}


@component
class LengthDocumentEmbedder:
    """Its counterpart for documents."""

    calls = 0

    def __init__(self, prefix: str = "", scale: float = 1.0):
        self.prefix, self.scale = prefix, scale

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict:
        type(self).calls += 1
        made = [
            Document(
                id=d.id, content=d.content, meta=d.meta, embedding=[len(self.prefix + d.content) * self.scale, 1.0]
            )
            for d in documents
        ]
        return {"documents": made}


@component
class TwoEmbeddings:
    """A retriever that takes two embeddings of the query."""

    def __init__(self, document_store):
        self.document_store = document_store

    @component.output_types(documents=list[Document])
    def run(self, first: list[float], second: list[float]) -> dict:
        return {"documents": []}


def bm25() -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(InMemoryDocumentStore()))
    return pipeline


def test_documents_carry_the_collections_ids_titles_and_metadata():
    document = documents_of(SHOP)[0]
    assert (document.id, document.content, document.meta) == (
        "d1",
        "Returns\nGoods can be sent back.",
        {"kind": "note"},
    )
    document = documents_of(SHOP, title="meta")[0]
    assert (document.content, document.meta) == ("Goods can be sent back.", {"kind": "note", "title": "Returns"})
    assert documents_of(SHOP, title="ignore")[0].content == "Goods can be sent back."
    with pytest.raises(ValueError, match="title must be one of 'content', 'meta', 'ignore', but got 'no'"):
        documents_of(SHOP, title="no")


def test_the_store_of_someone_else_is_refused():
    pipeline = bm25()
    pipeline.get_component("retriever").document_store.write_documents([Document(content="mine")])
    with pytest.raises(PipelineError, match="already holds 1 documents that are not of collection 'shop'"):
        fill(pipeline, SHOP)


def test_filling_twice_is_the_same_as_once():
    pipeline = bm25()
    fill(pipeline, SHOP)
    fill(pipeline, SHOP)
    assert pipeline.get_component("retriever").document_store.count_documents() == 3


def test_embeddings_are_made_by_the_counterpart_of_the_text_embedder_without_the_queries_prefix():
    pipeline = Pipeline()
    pipeline.add_component("embedder", LengthTextEmbedder(prefix="query: ", scale=0.5, only_here=1))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(InMemoryDocumentStore(), top_k=2))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    notes = fill(pipeline, SHOP)
    stored = pipeline.get_component("retriever").document_store.filter_documents()
    assert {d.id: d.embedding for d in stored}["d3"] == [len("Invoices are sent by mail.") * 0.5, 1.0]
    assert any("embedded without" in note for note in notes)
    assert any("has no parameter only_here" in note for note in notes)
    found = pipeline.run({"embedder": {"text": "parcels"}})
    assert len(found["retriever"]["documents"]) == 2


def test_two_retrievers_behind_one_embedder_are_embedded_once():
    LengthDocumentEmbedder.calls = 0
    pipeline = Pipeline()
    pipeline.add_component("embedder", LengthTextEmbedder())
    for name in ("one", "two"):
        pipeline.add_component(name, InMemoryEmbeddingRetriever(InMemoryDocumentStore()))
        pipeline.connect("embedder.embedding", f"{name}.query_embedding")
    fill(pipeline, SHOP)
    assert LengthDocumentEmbedder.calls == 1


def test_one_store_with_two_embedders_is_refused():
    pipeline = Pipeline()
    pipeline.add_component("retriever", TwoEmbeddings(InMemoryDocumentStore()))
    for name, scale in (("first", 1.0), ("second", 2.0)):
        pipeline.add_component(name, LengthTextEmbedder(scale=scale))
        pipeline.connect(f"{name}.embedding", f"retriever.{name}")
    with pytest.raises(PipelineError, match="'retriever' gets embeddings from two embedders"):
        fill(pipeline, SHOP)
