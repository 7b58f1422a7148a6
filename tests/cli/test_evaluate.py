"""`evaluate` says what it cannot do, in a line, and what it left out, above its verdict."""

import json

import pytest
from haystack import Document, Pipeline, component
from haystack.components.retrievers import MultiQueryTextRetriever
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from typer.testing import CliRunner

from haystack_ce_ranker import BM25Retriever
from haystack_ce_ranker.cli import app

pytest.importorskip("ir_measures", reason="needs the extra 'evaluate'")
pytest.importorskip("codecarbon", reason="needs the extra 'evaluate'")

TEXTS = {"d1": "the brake is cold", "d2": "the brake holds the car", "d3": "a hut in the snow", "d4": "a city"}
QUERIES = {"q1": "hut in snow", "q2": "brake car"}
JUDGED = {"q1": {"d3": 1}, "q2": {"d2": 1}}


def write_collection(folder, *, texts=TEXTS, queries=QUERIES, judged=JUDGED):
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", texts), ("queries", queries)):
        lines = [json.dumps({"_id": one, "text": text}) + "\n" for one, text in rows.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    lines = [f"{query}\t{document}\t{grade}\n" for query, some in judged.items() for document, grade in some.items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    """Haystack 3 loads no component of a test's module unless it is named."""
    monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", __name__)


@pytest.fixture
def collection(tmp_path):
    return write_collection(tmp_path / "small")


def written(tmp_path, instance):
    pipeline = Pipeline()
    pipeline.add_component("retriever", instance)
    path = tmp_path / "mine.yaml"
    path.write_text(pipeline.dumps(), encoding="utf-8")
    return str(path)


def evaluate(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "200"})


@component
class OwnIndex:
    """A retriever that asks a service of its own."""

    def __init__(self, ids: list[str]):
        self.ids = ids

    @component.output_types(documents=list[Document])
    def run(self, query: str) -> dict:
        return {"documents": [Document(id=one, content=one) for one in self.ids]}


@pytest.mark.parametrize("kind", [BM25Retriever, InMemoryBM25Retriever])
def test_a_retriever_within_another_is_filled(collection, tmp_path, kind):
    path = written(tmp_path, MultiQueryTextRetriever(retriever=kind(InMemoryDocumentStore())))
    done = evaluate(collection, "--pipeline", path, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert found["systems"]["mine/retriever"]["nDCG@10"] == 1.0


def test_retrievers_in_a_dictionary_are_filled(collection, tmp_path):
    retrievers = pytest.importorskip("haystack.components.retrievers")
    if not hasattr(retrievers, "MultiRetriever"):
        pytest.skip("this Haystack has no MultiRetriever")
    inner = {name: BM25Retriever(InMemoryDocumentStore()) for name in ("one", "two")}
    done = evaluate(
        collection, "--pipeline", written(tmp_path, retrievers.MultiRetriever(retrievers=inner)), "--output", tmp_path
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["systems"]["mine/retriever"]["nDCG@10"] == 1.0


def test_a_pipeline_without_a_store_is_refused(collection, tmp_path):
    done = evaluate(collection, "--pipeline", written(tmp_path, OwnIndex(["elsewhere"])))
    assert done.exit_code == 2
    assert "holds no document store that the collection could be written to" in done.output
    assert "give candidates with --run" in done.output
    assert "0.0000" not in done.output


def test_a_pipeline_without_a_store_that_knows_the_collection_is_measured(collection, tmp_path):
    done = evaluate(collection, "--pipeline", written(tmp_path, OwnIndex(["d3"])))
    assert done.exit_code == 0, done.output


def test_a_pipeline_that_finds_nothing_is_refused(collection, tmp_path):
    nothing = {"field": "meta.kind", "operator": "==", "value": "none"}
    path = written(tmp_path, InMemoryBM25Retriever(InMemoryDocumentStore(), filters=nothing))
    done = evaluate(collection, "--pipeline", path)
    assert done.exit_code == 2
    assert "mine/retriever was asked 2 queries and found no document at all: check filters" in done.output
    assert "0.0000" not in done.output


def test_a_store_that_calls_an_embedding_function_is_one_line_that_says_what_to_do(collection, tmp_path, monkeypatch):
    pytest.importorskip(
        "haystack_integrations.document_stores.chroma", reason="needs chroma-haystack", exc_type=ImportError
    )
    import httpx
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2
    from haystack_integrations.document_stores.chroma import ChromaDocumentStore

    def fail(self):
        raise httpx.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(ONNXMiniLM_L6_V2, "_download_model_if_not_exists", fail)
    path = written(tmp_path, BM25Retriever(ChromaDocumentStore(collection_name="refusing")))
    done = evaluate(collection, "--pipeline", path)
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert "the ChromaDocumentStore of 'retriever' did not take the collection (ConnectError: " in done.output
    assert "connect a text embedder" in done.output


def test_a_store_that_is_not_there_is_one_line(collection, tmp_path):
    pytest.importorskip(
        "haystack_integrations.document_stores.qdrant", reason="needs qdrant-haystack", exc_type=ImportError
    )
    from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

    path = written(tmp_path, BM25Retriever(QdrantDocumentStore(url="http://127.0.0.1:9", embedding_dim=4)))
    done = evaluate(collection, "--pipeline", path)
    assert done.exit_code == 2
    assert "the QdrantDocumentStore of 'retriever' did not take the collection" in done.output
    assert "check that the store can be reached" in done.output


@component
class Failing:
    """A component that fails when it is asked."""

    @component.output_types(documents=list[Document])
    def run(self, query: str) -> dict:
        raise RuntimeError("the service\nis away")


def test_a_component_that_fails_is_named_in_one_line(collection, tmp_path):
    done = evaluate(collection, "--pipeline", written(tmp_path, Failing()))
    assert done.exit_code == 2
    assert "pipeline 'mine': component 'retriever' failed (RuntimeError: the service is away)" in done.output
