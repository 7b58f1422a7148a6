"""`haystack-ce-ranker tune`: from a pipeline file and a collection to a table, advice, pictures and a changed file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from haystack import Document, Pipeline, component
from haystack.document_stores.in_memory import InMemoryDocumentStore
from typer.testing import CliRunner

from haystack_ce_ranker.cli import app
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.commands import tune_joiner
from haystack_ce_ranker.evaluation.commands.tune_joiner import collect, find_joiner, setting_of
from haystack_ce_ranker.evaluation.running.graphs import PipelineError
from haystack_ce_ranker.evaluation.running.pipelines import MeasuredPipeline, load_pipeline
from haystack_ce_ranker.evaluation.running.pipelines import measured as to_be_measured
from haystack_ce_ranker.fusion.calibration import logistic_frame
from haystack_ce_ranker.fusion.tuning import measure
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

pytest.importorskip("ir_measures", reason="ir_measures is not installed (extra `evaluate`)")

PIPELINE = """\
# Two first stages, one of which reads only the start.
components:
  good:
    type: haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever
    init_parameters:
      document_store:
        type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore
        init_parameters: {bm25_algorithm: BM25Plus}
      top_k: 20
  bad:
    type: haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever
    init_parameters:
      document_store:
        type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore
        init_parameters:
          bm25_algorithm: BM25Plus
          bm25_tokenization_regex: "^.{3}" # three letters of the whole text
      top_k: 20
  joiner:
    type: haystack_integrations.components.joiners.ce_ranker.hybrid_score_joiner.HybridScoreJoiner
    init_parameters:
      # how much each counts
      weights:
        good: 0.1 # a mistake
        bad: 0.9

      # and how many come back
      top_k: 10 # ten
connections:
  - {sender: good.documents, receiver: joiner.good}
  - {sender: bad.documents, receiver: joiner.bad}
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(PIPELINE)
    return path


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Thirty documents that all begin alike; each query shares its word with one of them."""
    folder = tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)
    words = [f"{a}{b}o" for a in "bdfgk" for b in ("ami", "elu", "ori", "ute", "ywa", "onz")]
    documents = [{"_id": f"d{i}", "text": f"the {word} and {word} of all"} for i, word in enumerate(words)]
    asked = [{"_id": f"q{i}", "text": f"the {word}"} for i, word in enumerate(words[:24])]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, asked)))
    judgments = "\n".join(f"q{i}\td{i}\t1" for i in range(24))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judgments}\n")
    return folder


def tune(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["tune", *map(str, arguments)], env={"COLUMNS": "200"})


def test_from_pipeline_and_collection_to_advice_pictures_and_file(
    pipeline: Path, collection: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `evaluate`)")
    output = tmp_path / "out"
    answer = tune(collection, "--pipeline", pipeline, "--output", output, "--write")
    assert answer.exit_code == 0, answer.output
    found = json.loads((output / "tune.json").read_text())
    assert found["queries"] == 24
    assert found["systems"]["good alone"]["nDCG@10"]["mean"] == pytest.approx(1.0)
    assert found["systems"]["bad alone"]["nDCG@10"]["mean"] < 0.6
    assert found["advice"]["use"] == "good alone"
    assert "use good alone: significantly better than bad alone" in answer.output.replace("\n", " ")
    assert set(found["nDCG@10_by_query"]["tuned"]) == {f"q{i}" for i in range(24)}
    assert "at weight 0 bad no longer counts, but what feeds it still runs" in answer.output.replace("\n", " ")
    assert "labelled queries are few" not in answer.output
    kept = found["recommended_score_thresholds"]
    assert kept["0.1"] < kept["0.25"] < kept["0.5"]
    assert f"{kept['0.5']:.2f} for a probability of 0.5" in answer.output.replace("\n", " ")
    assert (output / "weights.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "reliability.svg").read_text(encoding="utf-8").startswith("<svg")
    likely = found["probabilities"]
    assert len(likely["calibration_error_interval"]) == 2
    assert likely["abstention"]["queries"] == 24
    assert f"`score_threshold` of {likely['abstention']['threshold']:.2f} then leaves no document" in answer.output
    assert "text" not in json.dumps(found)
    changed = pipeline.read_text()
    assert yaml.safe_load(changed)["components"]["joiner"]["init_parameters"]["weights"] == {"good": 1.0, "bad": 0.0}
    for kept in (
        "# a mistake",
        "# Two first stages",
        "# three letters",
        "# how much each counts",
        "# and how many come back",
        "# ten",
    ):
        assert kept in changed
    again = tune(collection, "--pipeline", pipeline, "--output", output)
    assert "good alone" in again.output
    assert json.loads((output / "tune.json").read_text())["systems"]["default"]["nDCG@10"]["mean"] == pytest.approx(1.0)


def test_without_write_the_pipeline_file_stays_as_it_was(pipeline: Path, collection: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `evaluate`)")
    answer = tune(collection, "--pipeline", pipeline, "--output", tmp_path / "out", "--queries", "8", "--probabilities")
    assert answer.exit_code == 0, answer.output
    assert pipeline.read_text() == PIPELINE
    assert "name: logistic" in answer.output
    assert "note: 8 labelled queries are few" in answer.output
    assert "when nothing answers a query cannot be told" in answer.output
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["queries"] == 8


@component
class Reverse:
    """A ranker that turns the order round."""

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document]) -> dict[str, Any]:
        return {"documents": [replace(d, score=float(i)) for i, d in enumerate(documents)][::-1]}


def test_fixed_candidates_stand_for_the_first_stage(collection: Path) -> None:
    loaded = load_collection(collection)
    candidates = {f"q{i}": {f"d{(i + k) % 30}": 9.0 - k for k in range(3)} for i in range(24)}
    built = Pipeline()
    built.add_component("ranker", Reverse())
    built.add_component("joiner", HybridScoreJoiner({"cross_encoder": 0.9, "bm25": 0.1}))
    built.connect("ranker.documents", "joiner.cross_encoder")
    fed = (("ranker", "documents"), ("joiner", "bm25"))
    measured = MeasuredPipeline(
        "p", built, (("ranker", "query"),), fed, (("joiner", "documents"),), ("ranker", "joiner")
    )
    judged = collect(measured, loaded, "joiner", candidates=candidates)
    assert [list(query.lists["bm25"].ids) for query in judged[:2]] == [["d0", "d1", "d2"], ["d1", "d2", "d3"]]
    assert [list(query.lists["cross_encoder"].ids) for query in judged[:1]] == [["d2", "d1", "d0"]]
    assert list(judged[0].lists["bm25"].scores) == [9.0, 8.0, 7.0]
    assert judged[0].candidates is not None
    assert set(judged[0].candidates) == {"d0", "d1", "d2"}


def test_probabilities_say_which_model_they_were_fitted_on(collection: Path, tiny_bert: str) -> None:
    built = Pipeline()
    built.add_component("bm25", BM25Retriever(InMemoryDocumentStore(), top_k=5))
    built.add_component("ranker", CrossEncoderRanker(model=tiny_bert, backend="torch", top_k=5))
    built.add_component("joiner", HybridScoreJoiner({"cross_encoder": 0.9, "bm25": 0.1}))
    built.connect("bm25.documents", "ranker.documents")
    built.connect("bm25.documents", "joiner.bm25")
    built.connect("ranker.documents", "joiner.cross_encoder")
    built.connect("ranker.report", "joiner.cross_encoder_report")
    ready, loaded = to_be_measured(built, name="p"), load_collection(collection)
    ready.fill(loaded)
    frame = logistic_frame(collect(ready, loaded, "joiner"), ["cross_encoder", "bm25"])
    report = built.get_component("ranker").run("a", [Document(content="a")])["report"]
    told = f"{Path(tiny_bert).name}, float32, best_passages, {report['max_length']} tokens"
    assert frame.normalizations["cross_encoder"].fitted_on == told
    assert frame.normalizations["bm25"].fitted_on is None


def test_a_joiner_that_nothing_feeds_is_a_clear_error(collection: Path) -> None:
    built = Pipeline()
    built.add_component("ranker", Reverse())
    built.add_component("joiner", HybridScoreJoiner({"cross_encoder": 0.9, "bm25": 0.1}))
    ends = (("ranker", "documents"),)
    measured = MeasuredPipeline("p", built, (("ranker", "query"),), (), ends, ("ranker",))
    with pytest.raises(PipelineError, match="nothing is connected to the joiner 'joiner'"):
        collect(measured, load_collection(collection), "joiner")
    with pytest.raises(PipelineError, match="does not feed the pipeline's result"):
        collect(measured, load_collection(collection), "other")
    with pytest.raises(PipelineError, match="'ranker' is not a HybridScoreJoiner"):
        collect(measured, load_collection(collection), "ranker")


def test_a_joiner_at_which_no_document_arrives_is_a_clear_error(pipeline: Path, collection: Path) -> None:
    kept = "      filters: {field: meta.kind, operator: ==, value: none}\n      top_k: 20\n"
    pipeline.write_text(PIPELINE.replace("      top_k: 20\n", kept))
    answer = tune(collection, "--pipeline", pipeline)
    assert answer.exit_code == 2
    assert "the joiner 'joiner' was asked 24 queries and found no document at all" in answer.output.replace("\n", " ")


def test_a_query_that_is_a_document_does_not_find_itself(pipeline: Path, collection: Path) -> None:
    lines = (collection / "corpus.jsonl").read_text().splitlines()
    (collection / "queries.jsonl").write_text("\n".join(lines[:24]))
    others = "\n".join(f"d{i}\td{i + 1}\t1" for i in range(24))
    (collection / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{others}\n")
    loaded = load_collection(collection)
    measured = load_pipeline(pipeline)
    measured.prepare(loaded)
    judged = collect(measured, loaded, "joiner")
    assert len(judged) == 24
    assert [one.id for one in judged if one.id in one.candidates] == []
    assert [one.id for one in judged if one.id in one.lists["good"].ids] == []


def test_what_the_advice_lacks_is_said_before_it(pipeline: Path, collection: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `evaluate`)")
    with (collection / "qrels" / "test.tsv").open("a") as stream:
        stream.write("".join(f"q0\tgone{n}\t1\n" for n in range(25)))
    answer = tune(collection, "--pipeline", pipeline, "--output", tmp_path)
    assert answer.exit_code == 0, answer.output
    line = "This advice rests on less than half of the judgments: 25 of 49 relevant documents are not in the corpus"
    assert answer.output.index(line) < answer.output.index("advice: ")
    assert json.loads((tmp_path / "tune.json").read_text())["left_out"][0]["share"] == pytest.approx(25 / 49)


def test_a_depth_without_candidates_is_refused(pipeline: Path, collection: Path) -> None:
    answer = tune(collection, "--pipeline", pipeline, "--depth", "5")
    assert answer.exit_code == 2
    assert "depth 5 is of the fixed candidates" in answer.output


@pytest.mark.parametrize(
    ("options", "told"),
    [(("--output", "FILE"), "output must be a folder"), (("--queries", "1"), "tuning needs at least 2 judged queries")],
)
def test_what_cannot_be_tuned_or_written_is_told_before_any_query_runs(
    options: tuple[str, str], told: str, pipeline: Path, collection: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tune_joiner, "load_pipeline", None)
    (tmp_path / "file").write_text("")
    given = [str(tmp_path / "file") if one == "FILE" else one for one in options]
    answer = tune(collection, "--pipeline", pipeline, *given)
    assert answer.exit_code == 2
    assert told in answer.output


@pytest.mark.parametrize(("scale", "expected"), [(10.0, "bm25"), (0.05, None)])
def test_cosines_out_of_a_file_are_not_taken_for_bm25(scale: float, expected: str | None, collection: Path) -> None:
    loaded = load_collection(collection)
    built = Pipeline()
    built.add_component("joiner", HybridScoreJoiner({"first_stage": 1.0}))
    fed = (("joiner", "first_stage"),)
    measured = MeasuredPipeline("p", built, (), fed, (("joiner", "documents"),), ("joiner",))
    run = {query_id: {f"d{place}": scale * (9 - place) for place in range(9)} for query_id in loaded.queries}
    judged = collect(measured, loaded, "joiner", candidates=run)
    assert judged[0].lists["first_stage"].scale == expected


def test_what_is_collected_is_what_the_joiner_joins(pipeline: Path, collection: Path) -> None:
    loaded = load_collection(collection)
    measured = load_pipeline(pipeline)
    measured.fill(loaded)
    seen = []
    judged = collect(measured, loaded, "joiner", progress=lambda: seen.append(1))
    assert len(seen) == len(judged) == 24
    joiner = find_joiner(measured.pipeline)[1]
    for query in judged:
        first = [document.id for document in measured.run(loaded.queries[query.id]).documents]
        gain = 1.0 if f"d{query.id[1:]}" == first[0] else 0.0
        assert (measure([query], setting_of(joiner))[0] == 1.0) == (gain == 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("good: 0.1", "other: 0.1"), "is not a pipeline that Haystack can load"),
        (("good: 0.1", "good: -1"), "the weight of 'good' must be a finite number >= 0"),
        ((PIPELINE[PIPELINE.index("  joiner:") :], "connections: []\n"), "has no HybridScoreJoiner to tune"),
    ],
)
def test_a_pipeline_without_a_joiner_to_tune_is_a_clear_error(
    change: tuple[str, str], message: str, pipeline: Path, collection: Path, tmp_path: Path
) -> None:
    pipeline.write_text(PIPELINE.replace(*change))
    answer = tune(collection, "--pipeline", pipeline, "--output", tmp_path)
    assert answer.exit_code == 2
    assert "error:" in answer.output
    assert message in answer.output.replace("\n", " ")
    assert "Traceback" not in answer.output


def test_the_joiner_must_be_named_where_there_are_several() -> None:
    built = Pipeline()
    with pytest.raises(PipelineError, match="has no HybridScoreJoiner to tune"):
        find_joiner(built)
    built.add_component("one", HybridScoreJoiner({"a": 1.0}))
    assert find_joiner(built)[0] == "one"
    built.add_component("two", HybridScoreJoiner({"a": 1.0}))
    with pytest.raises(PipelineError, match=r"several joiners \(one, two\): name one"):
        find_joiner(built)
    assert find_joiner(built, "two")[0] == "two"
    with pytest.raises(PipelineError, match=r"no HybridScoreJoiner named 'three' \(found: one, two\)"):
        find_joiner(built, "three")
