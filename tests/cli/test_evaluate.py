"""`evaluate` says what it cannot do, in a line, and what it left out, above its verdict."""

import json

import pytest
from haystack import Document, Pipeline, component
from haystack.components.retrievers import MultiQueryTextRetriever
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from typer.testing import CliRunner

from fakes import save_bert
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

    def __init__(self, ids: list[str], url: str | None = None):
        self.ids, self.url = ids, url

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


def test_the_grids_intensity_is_a_parameter_and_stands_in_every_output(collection, tmp_path):
    path = written(tmp_path, BM25Retriever(InMemoryDocumentStore()))
    arguments = [collection, "--pipeline", path, "--output", tmp_path / "out"]
    for given, said in (
        ([], "445 g/kWh (the world's average of 2024"),
        (["--grid-intensity", 30], "30 g/kWh (as given)"),
    ):
        done = evaluate(*arguments, *given)
        assert done.exit_code == 0, done.output
        assert said in " ".join(done.output.split())
        found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
        units = found["systems"]["mine/retriever"]["units"]
        assert units["co2_g_per_1000_queries"] == pytest.approx(
            units["wh_per_1000_queries"] * found["grid"]["g_per_kwh"] / 1000
        )
        assert f"{found['grid']['g_per_kwh']:g} g/kWh" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert evaluate(*arguments, "--grid-intensity", -1).exit_code == 2


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


ALIKE = {
    "a": "the brake of the car is cold",
    "b": "the brake of the car is warm",
    "c": "a hut in the snow near the lake",
    "d": "a hut in the snow near the wood",
}
"""Documents that are queries as well; each one's only answer is the other that is like it."""

ANSWERS = {"a": {"b": 1}, "b": {"a": 1}, "c": {"d": 1}, "d": {"c": 1}}


def results_in(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def told(done, folder):
    """All that is said above the verdict, on each output."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    return {
        "terminal": done.output.partition("Is re-ranking worth it here?")[0],
        "results.json": " ".join(one["text"] for one in results_in(folder)["left_out"]),
        "report.html": page.partition("<h2>The verdict</h2>")[0],
    }


def run_of(folder, rankings):
    lines = [f"{q}\t{d}\t{-rank}\n" for q, some in rankings.items() for rank, d in enumerate(some)]
    (folder / "run.tsv").write_text("qid\tdocid\tscore\n" + "".join(lines), encoding="utf-8")
    return folder / "run.tsv"


def ways(tmp_path, folder):
    """The ways in which a first stage comes about: a pipeline, the sweep's, and a run of which one document counts."""
    run = run_of(folder, {one: [one, *ANSWERS[one]] for one in ANSWERS} | {"unjudged": ["a"]})
    return {
        "mine/retriever": ["--pipeline", written(tmp_path, InMemoryBM25Retriever(InMemoryDocumentStore()))],
        "bm25": [],
        "run": ["--run", run, "--depth", "1"],
    }


@pytest.mark.parametrize("system", ["mine/retriever", "bm25", "run"])
def test_a_query_that_is_a_document_does_not_find_itself(tmp_path, tiny_bert, system):
    folder = write_collection(tmp_path / "alike", texts=ALIKE, queries=ALIKE, judged=ANSWERS)
    arguments = ways(tmp_path, folder)[system]
    if system != "mine/retriever":
        arguments = ["--model", tiny_bert, "--backend", "torch", "--no-memory", *arguments]
    done = evaluate(folder, "--output", tmp_path, *arguments)
    assert done.exit_code == 0, done.output
    assert results_in(tmp_path)["systems"][system]["nDCG@10"] == 1.0
    for one in tmp_path.glob("run.*.trec"):
        rows = [line.split() for line in one.read_text(encoding="utf-8").splitlines()]
        assert [row for row in rows if row[0] == row[2]] == []
    for text in told(done, tmp_path).values():
        assert "4 of 4 queries are documents of the collection: that each finds itself is ignored" in text


def test_rows_of_a_run_that_nothing_judges_are_noted(tmp_path, tiny_bert):
    folder = write_collection(tmp_path / "alike", texts=ALIKE, queries=ALIKE, judged=ANSWERS)
    done = evaluate(folder, *ways(tmp_path, folder)["run"], "--model", tiny_bert, "--backend", "torch", "--no-memory")
    note = "Note: run.tsv: rows of queries that are not measured are left out (1 line)"
    assert done.output.index(note) < done.output.index("worth it here?")


def test_equal_ids_with_other_texts_are_two_things(tmp_path):
    queries = {**ALIKE, "a": "a cold hut"}
    judged = {**ANSWERS, "a": {"a": 1}}
    folder = write_collection(tmp_path / "alike", texts=ALIKE, queries=queries, judged=judged)
    done = evaluate(folder, "--output", tmp_path, *ways(tmp_path, folder)["mine/retriever"])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in (tmp_path / "run.mine-retriever.trec").read_text(encoding="utf-8").splitlines()]
    assert [row[0] for row in rows if row[0] == row[2]] == ["a"]
    assert "3 of 4 queries are documents of the collection" in told(done, tmp_path)["terminal"]


def test_what_the_corpus_and_the_run_lack_is_said_first_on_every_output(collection, tmp_path, tiny_bert):
    lacking = {f"gone{n}": 1 for n in range(27)}
    queries = {f"q{n}": "brake car" for n in range(4)}
    folder = write_collection(
        tmp_path / "poor",
        queries=queries,
        judged={"q0": {"d2": 1, **lacking}} | {one: {"d2": 0} for one in ("q1", "q2", "q3")},
    )
    run = run_of(folder, {"q0": ["d2", "d1"]})
    output = tmp_path / "out"
    arguments = ["--run", run, "--model", tiny_bert, "--backend", "torch", "--no-memory", "--output", output]
    done = evaluate(folder, *arguments)
    assert done.exit_code == 0, done.output
    for text in told(done, output).values():
        assert "27 of 28 relevant documents are not in the corpus" in text
        assert "3 of 4 judged queries have no document in run" in text
        assert "3 of 4 judged queries have no relevant document" in text
    first = results_in(output)["verdict"]["answers"][0]
    assert first["answer"] == "Less than half of the judgments"
    assert first["reason"].startswith("27 of 28 relevant documents are not in the corpus")
    line = "This verdict rests on less than half of the judgments: 27 of 28 relevant documents"
    assert done.output.index(line) < done.output.index("3 of 4 judged queries") < done.output.index("worth it here?")


def test_the_output_opens_with_do_not_re_rank_where_that_only_costs(tmp_path):
    queries = {f"q{n}": "brake car" for n in range(4)}
    folder = write_collection(tmp_path / "small", queries=queries, judged={one: {"d2": 1} for one in queries})
    for name, ids in (("first", ["d2", "d1"]), ("second", ["d1", "d2"])):
        (tmp_path / name).mkdir()
        written(tmp_path / name, OwnIndex(ids))
        (tmp_path / name / "mine.yaml").rename(tmp_path / f"{name}.yaml")
    arguments = [part for name in ("first", "second") for part in ("--pipeline", tmp_path / f"{name}.yaml")]
    done = evaluate(folder, *arguments, "--baseline", "first/retriever", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    sentence = results_in(tmp_path / "out")["verdict"]["do_not_rerank"]
    assert sentence.startswith("Do not re-rank here: first/retriever alone has nDCG@10 1.000, and the best with")
    assert done.output.index("Do not re-rank here") < done.output.index("4 documents, 4 queries")
    assert done.output.count(sentence) == 2  # above the table, and where the verdict begins


def test_queries_that_nothing_judges_and_backends_that_cannot_load_are_said(collection, tmp_path, tiny_bert):
    (collection / "queries.jsonl").open("a").write(json.dumps({"_id": "q3", "text": "more"}) + "\n")
    done = evaluate(collection, "--model", tiny_bert, "--depth", "2", "--no-memory", "--output", tmp_path)
    assert done.exit_code == 0, done.output
    for text in told(done, tmp_path).values():
        assert "1 of 3 queries have no judgments" in text
        assert "cross-encoder onnx could not be loaded: model" in text
    assert "less than half" not in done.output


def test_a_model_that_no_backend_can_load_is_an_error(collection):
    done = evaluate(collection, "--model", "/no/such", "--no-memory")
    assert done.exit_code == 2
    assert "model '/no/such' could not be loaded by any backend" in done.output
    assert "Nothing to compare" not in done.output


def test_of_two_models_each_must_be_loaded_once(collection, tiny_bert):
    done = evaluate(collection, "--model", tiny_bert, "--model", "/no/such", "--no-memory")
    assert done.exit_code == 2
    assert "model '/no/such' could not be loaded by any backend" in done.output


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--strategy", "nonsense", "strategy nonsense is a setting of the built-in sweep"),
        ("--depth", "5", "depth 5 is a setting of the built-in sweep"),
    ],
)
def test_options_that_a_pipeline_does_not_heed_are_refused(collection, tmp_path, option, value, said):
    path = written(tmp_path, InMemoryBM25Retriever(InMemoryDocumentStore()))
    done = evaluate(collection, "--pipeline", path, option, value)
    assert done.exit_code == 2
    assert said in done.output


def test_two_pipelines_of_one_name_are_refused(collection, tmp_path):
    path = written(tmp_path, InMemoryBM25Retriever(InMemoryDocumentStore()))
    done = evaluate(collection, "--pipeline", path, "--pipeline", path)
    assert done.exit_code == 2
    assert "two systems would have the name 'mine/retriever'" in done.output


def test_a_relevance_level_that_no_judgment_reaches_is_said(collection, tmp_path):
    path = written(tmp_path, InMemoryBM25Retriever(InMemoryDocumentStore()))
    done = evaluate(collection, "--pipeline", path, "--relevance-level", "3", "--output", tmp_path)
    assert done.exit_code == 0, done.output
    for text in told(done, tmp_path).values():
        assert "no judgment reaches the relevance level 3" in text


def test_energy_that_a_service_takes_elsewhere_is_said_to_be_missing(collection, tmp_path):
    done = evaluate(
        collection, "--pipeline", written(tmp_path, OwnIndex(["d3"], "https://service.example")), "--output", tmp_path
    )
    assert done.exit_code == 0, done.output
    for text in told(done, tmp_path).values():
        assert "OwnIndex not covered" in text


def test_results_are_taken_over_with_a_word_unless_the_model_is_another(collection, tmp_path):
    model, output = tmp_path / "model", tmp_path / "out"
    save_bert(model)
    arguments = [collection, "--model", model, "--backend", "torch", "--depth", "2", "--no-memory", "--output", output]

    def noted():
        return len((output / "progress.jsonl").read_text(encoding="utf-8").splitlines())

    assert "taken over" not in evaluate(*arguments).output
    first = noted()
    done = evaluate(*arguments)
    assert "Note: 4 results are taken over from" in done.output
    assert noted() == first
    config = model / "tokenizer_config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    done = evaluate(*arguments)
    assert "Note: 2 results are taken over from" in done.output  # those of the first stage
    assert noted() > first
    assert "taken over" not in evaluate(*arguments, "--fresh").output
    assert noted() == first
