"""Spans and lines in the log of the components: under Haystack's own, with the run's figures, never with a text."""

import asyncio
import logging

import haystack
import pytest
from haystack import Document, Pipeline, tracing
from haystack.document_stores.in_memory import InMemoryDocumentStore

from fakes import REPOSITORY
from haystack_ce_ranker import BM25Retriever, CrossEncoderRanker, HybridScoreJoiner
from haystack_ce_ranker.observing import observed
from haystack_integrations.components.rankers.ce_ranker.report import TAGS
from haystack_integrations.components.routers.ce_ranker import RerankGate

pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

try:
    from haystack.tracing.opentelemetry import OpenTelemetryTracer
except ImportError:  # from Haystack 3 on it is a package of its own
    from haystack_integrations.tracing.opentelemetry import OpenTelemetryTracer

WORD = "marmalade"
"""A word that stands in the query and the documents, and nowhere else."""


@pytest.fixture
def spans():
    """Returns the finished spans of this test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = tracing.tracer.actual_tracer
    tracing.enable_tracing(OpenTelemetryTracer(provider.get_tracer("test")))
    yield exporter.get_finished_spans
    tracing.enable_tracing(before)


@pytest.fixture
def components(tiny_bert):
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(id=f"{WORD} {place}", content=f"{WORD} and toast " * place) for place in (1, 2, 50)]
    )
    return {
        "bm25_retriever": BM25Retriever(store),
        "gate": RerankGate(predictor="nqc", threshold=1e6),
        "ranker": CrossEncoderRanker(model=tiny_bert, name="cross_encoder"),
        "joiner": HybridScoreJoiner({"cross_encoder": 0.8, "bm25": 0.2}, top_k=2),
    }


def connected(components, pipeline):
    for name, one in components.items():
        pipeline.add_component(name, one)
    pipeline.connect("bm25_retriever.documents", "gate.documents")
    pipeline.connect("gate.rerank", "ranker.documents")
    pipeline.connect("bm25_retriever.documents", "joiner.bm25")
    pipeline.connect("ranker.documents", "joiner.cross_encoder")
    pipeline.connect("ranker.report", "joiner.cross_encoder_report")
    return pipeline


ASKED = {name: {"query": f"fresh {WORD}"} for name in ("bm25_retriever", "gate", "ranker")}
OPERATIONS = {"bm25_retriever": "retrieve", "gate": "route", "ranker": "rank", "joiner": "join"}


def run(components):
    return connected(components, Pipeline()).run(ASKED, include_outputs_from=set(components))


def run_async(components):
    pipeline = connected(components, getattr(haystack, "AsyncPipeline", Pipeline)())
    return asyncio.run(pipeline.run_async(ASKED, include_outputs_from=set(components)))


@pytest.mark.parametrize("way", [run, run_async])
def test_each_component_has_a_span_under_haystacks_with_what_it_did(way, components, spans):
    output = way(components)
    mine = {span.name: span for span in spans() if span.name.startswith("ce_ranker.")}
    haystacks = {span.attributes.get("haystack.component.name"): span for span in spans()}
    assert len([span for span in spans() if span.name.startswith("ce_ranker.")]) == len(mine) == 4
    for name, operation in OPERATIONS.items():
        assert mine[f"ce_ranker.{operation}"].parent.span_id == haystacks[name].context.span_id
        assert mine[f"ce_ranker.{operation}"].attributes["ce_ranker.seconds"] >= 0.0
    told, report = mine["ce_ranker.rank"].attributes, output["ranker"]["report"]
    for key in set(TAGS) - {"name"}:
        assert told[f"ce_ranker.{key}"] == report[key]
    assert (told["ce_ranker.ranker"], told["ce_ranker.documents_cut"]) == ("cross_encoder", 1)
    assert told["ce_ranker.seconds_score"] == report["seconds"]["score"]
    assert mine["ce_ranker.retrieve"].attributes["ce_ranker.engine"] == "own"
    assert mine["ce_ranker.route"].attributes["ce_ranker.decision"] == "rerank"
    assert {key: mine["ce_ranker.join"].attributes[f"ce_ranker.{key}"] for key in ("documents", "inputs", "cut")} == {
        "documents": 2,
        "inputs": 2,
        "cut": 1,
    }


def test_the_manual_names_every_tag(components, spans):
    run(components)
    page = (REPOSITORY / "docs" / "report.md").read_text(encoding="utf-8")
    for span in spans():
        if span.name.startswith("ce_ranker."):
            [row] = [line for line in page.split("\n") if line.startswith(f"| `{span.name}` |")]
            tags = {key.removeprefix("ce_ranker.") for key in span.attributes} - {"seconds"}
            assert {tag for tag in tags if f"`{tag}`" not in row} == set()


def test_spans_and_logs_hold_no_text_and_no_id(components, spans, caplog):
    with caplog.at_level(logging.INFO):
        run(components)
    ours = [one for one in caplog.records if one.name.startswith(("haystack_ce_ranker", "haystack_integrations"))]
    assert len(ours) == 4
    mine = [span for span in spans() if span.name.startswith("ce_ranker.")]  # Haystack's own hold the query
    assert len(mine) == 4
    for told in (*mine, *(vars(one) | {"said": one.getMessage()} for one in ours)):
        assert WORD not in (told.to_json() if hasattr(told, "to_json") else str(told))


def test_the_log_has_each_figure_as_a_value_of_its_own(components, caplog):
    with caplog.at_level(logging.INFO):
        run(components)
    [line] = [one for one in caplog.records if one.name.endswith(".cross_encoder_ranker")]
    assert line.levelname == "INFO"
    assert (line.documents, line.pairs, line.documents_cut) == (3, 6, 1)
    assert line.getMessage().startswith("rank: ranker=cross_encoder, backend=torch, ")


def test_nothing_is_logged_unless_it_is_asked_for(components, caplog):
    with caplog.at_level(logging.WARNING):
        run(components)
    assert not caplog.records


def test_a_run_that_raises_has_a_span_with_the_error(components, spans):
    with pytest.raises(ValueError, match="top_k"):
        components["ranker"].run(query="toast", documents=[], top_k=0)
    [span] = spans()
    assert (span.name, span.status.is_ok) == ("ce_ranker.rank", False)
    assert not span.attributes


def test_a_coroutine_has_its_span_around_all_that_it_waits_for(spans):
    class Slow:
        @observed("dawdle", lambda self, output: {"left_out": None, **output})
        async def run_async(self, steps):
            for _ in range(steps):
                await asyncio.sleep(0)
            assert not spans()
            return {"steps": steps}

    assert asyncio.run(Slow().run_async(3)) == {"steps": 3}
    [span] = spans()
    assert span.name == "ce_ranker.dawdle"
    assert (span.attributes["ce_ranker.steps"], len(span.attributes)) == (3, 2)
