"""Any pipeline can be measured: where collection, query and fixed candidates enter, where the result is taken."""

from pathlib import Path

import pytest
from haystack import Document, Pipeline, SuperComponent, component
from haystack.components.builders import PromptBuilder
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.tracing.tracer import tracer

from haystack_ce_ranker.evaluation.data.collections import Collection, Text
from haystack_ce_ranker.evaluation.running.pipelines import (
    PipelineError,
    candidates_of,
    documents_of,
    load_pipeline,
    measured,
)

COLLECTION = Collection(
    "shop",
    {
        "d1": Text("d1", "Returns", "Goods can be sent back.", {"kind": "note"}),
        "d2": Text("d2", "", "Parcels leave the warehouse at noon."),
        "d3": Text("d3", "", "Invoices are sent by mail."),
    },
    {"q1": "parcels warehouse"},
    {"q1": {"d2": 1}},
)


@component
class Reverser:
    """A ranker for tests: turns the order round."""

    @component.output_types(documents=list[Document], report=dict)
    def run(self, query: str, documents: list[Document]) -> dict:
        return {"documents": list(reversed(documents)), "report": {"seen": len(documents), "query": query}}


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


def bm25_then_reverser() -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(InMemoryDocumentStore(), top_k=3))
    pipeline.add_component("ranker", Reverser())
    pipeline.connect("retriever.documents", "ranker.documents")
    return pipeline


def ids(answer):
    return [document.id for document in answer.documents]


def test_a_pipeline_is_filled_queried_and_read_at_its_end():
    subject = measured(bm25_then_reverser(), name="reversed")
    notes = subject.fill(COLLECTION)
    assert any("3 documents written" in note for note in notes)
    subject.warm_up()
    answer = subject.run("parcels warehouse")
    assert subject.query_sockets == (("retriever", "query"), ("ranker", "query"))
    assert ids(answer)[-1] == "d2"
    assert set(answer.stage_seconds) == {"retriever", "ranker"}
    assert 0 < sum(answer.stage_seconds.values()) < answer.seconds
    assert answer.outputs["ranker"]["report"]["query"] == "parcels warehouse"
    assert [d.id for d in answer.outputs["retriever"]["documents"]] == list(reversed(ids(answer)))


def test_timing_puts_back_the_tracer_that_was_there():
    before = tracer.actual_tracer
    subject = measured(bm25_then_reverser())
    subject.fill(COLLECTION)
    subject.run("parcels")
    assert tracer.actual_tracer is before


def test_documents_carry_the_collections_ids_titles_and_metadata():
    document = documents_of(COLLECTION)[0]
    assert (document.id, document.content, document.meta) == (
        "d1",
        "Returns\nGoods can be sent back.",
        {"kind": "note"},
    )
    document = documents_of(COLLECTION, title="meta")[0]
    assert (document.content, document.meta) == ("Goods can be sent back.", {"kind": "note", "title": "Returns"})
    assert documents_of(COLLECTION, title="ignore")[0].content == "Goods can be sent back."
    with pytest.raises(ValueError, match="title must be 'content', 'meta' or 'ignore', but got 'no'"):
        documents_of(COLLECTION, title="no")


def test_candidates_take_the_place_of_the_first_stage():
    pipeline = bm25_then_reverser()
    subject = measured(pipeline, candidates=True)
    assert subject.candidate_sockets == (("ranker", "documents"),)
    assert subject.fill(COLLECTION) == ()
    answer = subject.run("anything", candidates_of(COLLECTION, {"d3": 2.0, "d1": 1.0}))
    assert ids(answer) == ["d1", "d3"]
    assert answer.documents[1].score == 2.0
    assert answer.documents[1].meta["ce_ranker"]["bm25"] == {"score": 2.0, "rank": 1}
    assert set(pipeline.graph.nodes) == {"retriever", "ranker"}
    with pytest.raises(PipelineError, match="needs candidates"):
        subject.run("anything")
    with pytest.raises(PipelineError, match="takes no candidates"):
        measured(bm25_then_reverser()).run("anything", [])


def test_candidates_enter_a_joiner_that_two_retrievers_fed_once():
    pipeline = Pipeline()
    store = InMemoryDocumentStore()
    pipeline.add_component("one", InMemoryBM25Retriever(store))
    pipeline.add_component("two", InMemoryBM25Retriever(store))
    pipeline.add_component("joiner", DocumentJoiner())
    pipeline.add_component("ranker", Reverser())
    pipeline.connect("one", "joiner")
    pipeline.connect("two", "joiner")
    pipeline.connect("joiner", "ranker.documents")
    subject = measured(pipeline, candidates=True)
    assert subject.candidate_sockets == (("joiner", "documents"),)
    assert sorted(ids(subject.run("x", candidates_of(COLLECTION, {"d3": 2.0, "d1": 1.0})))) == ["d1", "d3"]


def test_a_pipeline_that_begins_at_its_ranker_takes_candidates():
    pipeline = Pipeline()
    pipeline.add_component("ranker", Reverser())
    subject = measured(pipeline, candidates=True)
    assert ids(subject.run("x", candidates_of(COLLECTION, {"d3": 2.0, "d1": 1.0}))) == ["d1", "d3"]
    with pytest.raises(PipelineError, match=r"expects documents at ranker\.documents"):
        measured(pipeline)


def test_what_comes_after_the_documents_is_not_run():
    pipeline = bm25_then_reverser()
    pipeline.add_component("prompt", PromptBuilder("{{ documents[0].content }} {{ query }}", required_variables="*"))
    pipeline.connect("ranker.documents", "prompt.documents")
    subject = measured(pipeline)
    assert subject.notes == ("not run: prompt",)
    subject.fill(COLLECTION)
    assert ids(subject.run("parcels warehouse"))[-1] == "d2"


def test_two_ends_are_refused_unless_one_is_named():
    pipeline = Pipeline()
    store = InMemoryDocumentStore()
    pipeline.add_component("one", InMemoryBM25Retriever(store))
    pipeline.add_component("two", InMemoryBM25Retriever(store, top_k=1))
    subject = measured(pipeline)
    subject.fill(COLLECTION)
    with pytest.raises(PipelineError, match=r"ends in documents at one\.documents and two\.documents"):
        subject.run("parcels")
    named = measured(pipeline, end=("two", "documents"))
    assert len(named.run("sent back parcels").documents) == 1
    with pytest.raises(PipelineError, match="no component 'three'"):
        measured(pipeline, end=("three", "documents"))


def test_the_store_of_someone_else_is_refused():
    pipeline = bm25_then_reverser()
    pipeline.get_component("retriever").document_store.write_documents([Document(content="mine")])
    with pytest.raises(PipelineError, match="already holds 1 documents that are not of collection 'shop'"):
        measured(pipeline).fill(COLLECTION)


def test_filling_twice_is_the_same_as_once():
    subject = measured(bm25_then_reverser())
    subject.fill(COLLECTION)
    subject.fill(COLLECTION)
    assert subject.pipeline.get_component("retriever").document_store.count_documents() == 3


def test_embeddings_are_made_by_the_counterpart_of_the_text_embedder_without_the_queries_prefix():
    pipeline = Pipeline()
    pipeline.add_component("embedder", LengthTextEmbedder(prefix="query: ", scale=0.5, only_here=1))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(InMemoryDocumentStore(), top_k=2))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    subject = measured(pipeline)
    notes = subject.fill(COLLECTION)
    stored = pipeline.get_component("retriever").document_store.filter_documents()
    assert {d.id: d.embedding for d in stored}["d3"] == [len("Invoices are sent by mail.") * 0.5, 1.0]
    assert any("embedded without" in note for note in notes)
    assert any("has no parameter only_here" in note for note in notes)
    assert len(subject.run("parcels").documents) == 2


def test_two_retrievers_behind_one_embedder_are_embedded_once():
    LengthDocumentEmbedder.calls = 0
    pipeline = Pipeline()
    pipeline.add_component("embedder", LengthTextEmbedder())
    for name in ("one", "two"):
        pipeline.add_component(name, InMemoryEmbeddingRetriever(InMemoryDocumentStore()))
        pipeline.connect("embedder.embedding", f"{name}.query_embedding")
    subject = measured(pipeline)
    subject.fill(COLLECTION)
    assert LengthDocumentEmbedder.calls == 1


def test_a_super_component_is_filled_and_queried():
    inner = bm25_then_reverser()
    wrapped = SuperComponent(
        pipeline=inner,
        input_mapping={"query": ["retriever.query", "ranker.query"]},
        output_mapping={"ranker.documents": "documents"},
    )
    pipeline = Pipeline()
    pipeline.add_component("search", wrapped)
    subject = measured(pipeline)
    subject.fill(COLLECTION)
    assert ids(subject.run("parcels warehouse"))[-1] == "d2"


def test_a_pipeline_without_a_query_or_documents_is_refused():
    pipeline = Pipeline()
    pipeline.add_component("joiner", DocumentJoiner())
    with pytest.raises(PipelineError, match="no unconnected input that takes a query"):
        measured(pipeline, candidates=True)
    pipeline = Pipeline()
    pipeline.add_component("prompt", PromptBuilder("{{ query }}"))
    with pytest.raises(PipelineError, match="no component that outputs a list of documents"):
        measured(pipeline)


def test_a_yaml_is_loaded_and_its_declared_inputs_and_outputs_count(tmp_path: Path):
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(InMemoryDocumentStore(), top_k=2))
    path = tmp_path / "mine.yaml"
    path.write_text(pipeline.dumps(), encoding="utf-8")
    subject = load_pipeline(path)
    assert subject.name == "mine"
    subject.fill(COLLECTION)
    assert ids(subject.run("parcels warehouse"))[0] == "d2"
    declared = "inputs:\n  query: [retriever.query]\noutputs:\n  documents: retriever.documents\n"
    path.write_text(pipeline.dumps() + declared, encoding="utf-8")
    assert load_pipeline(path).query_sockets == (("retriever", "query"),)
    path.write_text(pipeline.dumps() + "inputs:\n  query: retriever\n", encoding="utf-8")
    with pytest.raises(PipelineError, match=r"`inputs\.query` must be `component\.socket`"):
        load_pipeline(path)


def test_a_file_that_is_no_pipeline_is_named(tmp_path: Path):
    with pytest.raises(PipelineError, match="there is no pipeline file"):
        load_pipeline(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("components: 3")
    with pytest.raises(PipelineError, match="is not a pipeline that Haystack can load"):
        load_pipeline(tmp_path / "bad.yaml")
