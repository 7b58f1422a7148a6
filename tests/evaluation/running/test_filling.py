"""Filling a pipeline's stores: the documents, whose store is refused, and embeddings."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from haystack import Document, Pipeline, component
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.core.super_component import SuperComponent
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.tools import ComponentTool, Tool, Toolset

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


@component
class Holder:
    """A component that keeps other things in its own way, and asks none of them."""

    def __init__(self, *held: Any, **named: Any) -> None:
        self.held = list(held)
        self.named = named

    @component.output_types(documents=list[Document])
    def run(self, query: str) -> dict:
        return {"documents": []}


@dataclass(frozen=True, slots=True)
class Route:
    """A plain object with a retriever in it."""

    retriever: Any


def retriever() -> InMemoryBM25Retriever:
    return InMemoryBM25Retriever(InMemoryDocumentStore())


def wrapped(inner: Any) -> SuperComponent:
    pipeline = Pipeline()
    pipeline.add_component("inside", inner)
    return SuperComponent(pipeline=pipeline)


def tool_of(inner: Any) -> ComponentTool:
    return ComponentTool(component=inner, name="search", description="searches")


def closed_over(inner: Any) -> Tool:
    def search(query: str) -> str:
        return str(inner.run(query=query))

    return Tool(name="search", description="searches", parameters={"type": "object"}, function=search)


HOLDING = {
    "in an attribute": lambda inner: Holder(inner),
    "in a list in a list": lambda inner: Holder([[inner]]),
    "in a dictionary": lambda inner: Holder({"first": inner}),
    "in a tuple": lambda inner: Holder((1, inner)),
    "in a holder in a holder": lambda inner: Holder(Holder(Holder(inner))),
    "in a pipeline in a pipeline": lambda inner: wrapped(wrapped(inner)),
    "in a pipeline that a list holds": lambda inner: Holder([wrapped(inner)]),
    "in a tool": lambda inner: Holder([tool_of(inner)]),
    "in a tool's function": lambda inner: Holder([closed_over(inner)]),
    "in a set of tools": lambda inner: Holder(Toolset([tool_of(inner)])),
    "in a dataclass": lambda inner: Holder(Route(inner)),
    "in a bound method": lambda inner: Holder(inner.run),
    "in a partial function": lambda inner: Holder(partial(inner.run, query="a")),
}


@pytest.mark.parametrize("holding", HOLDING.values(), ids=HOLDING)
def test_a_retriever_is_found_wherever_it_is_held(holding):
    inner = retriever()
    pipeline = Pipeline()
    pipeline.add_component("outer", holding(inner))
    notes = fill(pipeline, SHOP)
    assert inner.document_store.count_documents() == len(SHOP.documents)
    assert notes == ("outer: 3 documents written to InMemoryDocumentStore",)


def test_what_holds_itself_is_walked_once():
    inner, outer = retriever(), Holder()
    outer.held += [outer, outer.held, inner]
    pipeline = Pipeline()
    pipeline.add_component("outer", outer)
    assert len(fill(pipeline, SHOP)) == 1
    assert inner.document_store.count_documents() == 3


def test_the_store_of_tools_that_a_toolset_keeps_is_left_alone():
    class Searchable(Toolset):
        pass

    tools = Searchable([tool_of(retriever())])
    tools.catalogue = InMemoryDocumentStore()
    tools.catalogue.write_documents([Document(content="what a tool does")])
    pipeline = Pipeline()
    pipeline.add_component("agent", Holder(tools))
    assert len(fill(pipeline, SHOP)) == 1
    assert [one.content for one in tools.catalogue.filter_documents()] == ["what a tool does"]


def test_an_embedder_held_beside_its_retriever_embeds_that_ones_documents():
    def pair(scale):
        return Holder(InMemoryEmbeddingRetriever(InMemoryDocumentStore()), embedder=LengthTextEmbedder(scale=scale))

    first, second = pair(1.0), pair(2.0)
    pipeline = Pipeline()
    pipeline.add_component("both", Holder({"first": first, "second": second}))
    notes = fill(pipeline, SHOP)
    stored = [one.held[0].document_store.filter_documents() for one in (first, second)]
    assert [{one.id: one.embedding[0] for one in some}["d3"] for some in stored] == [26.0, 52.0]
    assert sum("embeddings by LengthDocumentEmbedder" in note for note in notes) == 2


@pytest.mark.parametrize("order", [("dense", "sparse"), ("sparse", "dense")])
@pytest.mark.parametrize("shared", [True, False])
def test_a_store_of_two_retrievers_keeps_the_embeddings_that_one_of_them_needs(order, shared):
    stores = [InMemoryDocumentStore(index=f"two-{order[0]}-{shared}") for _ in range(2)]
    made = {
        "dense": InMemoryEmbeddingRetriever(stores[0]),
        "sparse": InMemoryBM25Retriever(stores[0] if shared else stores[1]),
    }
    pipeline = Pipeline()
    for name in order:
        pipeline.add_component(name, made[name])
    pipeline.add_component("embedder", LengthTextEmbedder())
    pipeline.connect("embedder.embedding", "dense.query_embedding")
    fill(pipeline, SHOP)
    assert all(document.embedding is not None for document in stores[0].filter_documents())


class Refusing(InMemoryDocumentStore):
    """A store whose client raises what it likes."""

    error: Exception = RuntimeError("[Errno -2] Name or service not known\nin add.")

    def write_documents(self, documents, policy=None):
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("of a client\nin two lines"), KeyError("embedding"), OSError("refused")]
)
def test_a_store_that_does_not_take_the_collection_is_one_line_that_says_what_to_do(error):
    store = Refusing()
    store.error = error
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store))
    with pytest.raises(PipelineError) as refused:
        fill(pipeline, SHOP)
    said = str(refused.value)
    assert said.startswith(f"the Refusing of 'retriever' did not take the collection ({type(error).__name__}: ")
    assert "connect a text embedder" in said
    assert "\n" not in said


def test_a_store_that_refuses_embeddings_is_not_told_to_get_some():
    pipeline = Pipeline()
    pipeline.add_component("embedder", LengthTextEmbedder())
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(Refusing()))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    with pytest.raises(PipelineError, match="such as the length of embeddings, fit"):
        fill(pipeline, SHOP)


def test_an_embedder_that_fails_is_named(monkeypatch):
    def fail(self, documents):
        raise RuntimeError("no such model\nanywhere")

    monkeypatch.setattr(LengthDocumentEmbedder, "run", fail)
    pipeline = Pipeline()
    pipeline.add_component("embedder", LengthTextEmbedder())
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(InMemoryDocumentStore()))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    told = r"^embedder: LengthDocumentEmbedder could not embed the collection \(RuntimeError: no such model anywhere\)"
    with pytest.raises(PipelineError, match=told):
        fill(pipeline, SHOP)


class Forgetful(InMemoryDocumentStore):
    """A store that drops a document without a word."""

    def write_documents(self, documents, policy=None):
        return super().write_documents(documents[1:], policy=policy)


def test_documents_that_a_store_drops_are_told():
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(Forgetful()))
    assert fill(pipeline, SHOP) == ("retriever: 3 documents written to Forgetful, which now holds 2",)
