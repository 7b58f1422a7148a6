"""Any pipeline can be measured: where collection, query and fixed candidates enter, where the result is taken."""

from pathlib import Path

import pytest
from haystack import Document, Pipeline, SuperComponent, component
from haystack.components.builders import PromptBuilder
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.tracing.tracer import tracer

from fakes import SHOP
from haystack_ce_ranker.evaluation.running.filling import candidates_of
from haystack_ce_ranker.evaluation.running.graphs import PipelineError
from haystack_ce_ranker.evaluation.running.pipelines import load_pipeline, measured


@component
class Reverser:
    """A ranker for tests: turns the order round."""

    @component.output_types(documents=list[Document], report=dict)
    def run(self, query: str, documents: list[Document]) -> dict:
        return {"documents": list(reversed(documents)), "report": {"seen": len(documents), "query": query}}


def bm25_then_reverser() -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(InMemoryDocumentStore(), top_k=3))
    pipeline.add_component("ranker", Reverser())
    pipeline.connect("retriever.documents", "ranker.documents")
    return pipeline


def ids(output):
    return [document.id for document in output.documents]


def test_a_pipeline_is_filled_queried_and_read_at_its_end():
    subject = measured(bm25_then_reverser(), name="reversed")
    notes = subject.fill(SHOP)
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
    subject.fill(SHOP)
    subject.run("parcels")
    assert tracer.actual_tracer is before


def test_candidates_take_the_place_of_the_first_stage():
    pipeline = bm25_then_reverser()
    subject = measured(pipeline, candidates=True)
    assert subject.candidate_sockets == (("ranker", "documents"),)
    assert subject.fill(SHOP) == ()
    answer = subject.run("anything", candidates_of(SHOP, {"d3": 2.0, "d1": 1.0}))
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
    assert sorted(ids(subject.run("x", candidates_of(SHOP, {"d3": 2.0, "d1": 1.0})))) == ["d1", "d3"]


def test_a_pipeline_that_begins_at_its_ranker_takes_candidates():
    pipeline = Pipeline()
    pipeline.add_component("ranker", Reverser())
    subject = measured(pipeline, candidates=True)
    assert ids(subject.run("x", candidates_of(SHOP, {"d3": 2.0, "d1": 1.0}))) == ["d1", "d3"]
    with pytest.raises(PipelineError, match=r"expects documents at ranker\.documents"):
        measured(pipeline)


def test_what_comes_after_the_documents_is_not_run():
    pipeline = bm25_then_reverser()
    pipeline.add_component("prompt", PromptBuilder("{{ documents[0].content }} {{ query }}", required_variables="*"))
    pipeline.connect("ranker.documents", "prompt.documents")
    subject = measured(pipeline)
    assert subject.notes == ("not run: prompt",)
    subject.fill(SHOP)
    assert ids(subject.run("parcels warehouse"))[-1] == "d2"


def test_two_ends_are_refused_unless_one_is_named():
    pipeline = Pipeline()
    store = InMemoryDocumentStore()
    pipeline.add_component("one", InMemoryBM25Retriever(store))
    pipeline.add_component("two", InMemoryBM25Retriever(store, top_k=1))
    subject = measured(pipeline)
    subject.fill(SHOP)
    with pytest.raises(PipelineError, match=r"ends in documents at one\.documents and two\.documents"):
        subject.run("parcels")
    named = measured(pipeline, end=("two", "documents"))
    assert len(named.run("sent back parcels").documents) == 1
    with pytest.raises(PipelineError, match="no component 'three'"):
        measured(pipeline, end=("three", "documents"))


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
    subject.fill(SHOP)
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
    subject.fill(SHOP)
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
