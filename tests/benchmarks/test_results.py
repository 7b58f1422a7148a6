"""benchmarks/results.py: the command line of each collection, and the row that its results.json makes."""

import json

import pytest

import results
from fakes import REPOSITORY

KEPT = sorted((REPOSITORY / "benchmarks" / "results").glob("*.json"))


@pytest.fixture
def folders(tmp_path):
    for task, of_task in results.TASKS.items():
        (tmp_path / "data" / (of_task.folder or task)).mkdir(parents=True, exist_ok=True)
    (tmp_path / "models" / "bi-minilm-l6").mkdir(parents=True)
    (tmp_path / "models" / "ce-minilm-l12").mkdir()
    return tmp_path


def command_of(folders, name, *argv):
    model = str(folders / "models" / "ce-minilm-l12")
    where = ["--data", str(folders / "data"), "--models", str(folders / "models"), "--model", model]
    arguments = results.BENCHMARK.parse([*where, *argv])
    return " ".join(results.command_of(name, results.TASKS[name], arguments)).replace(f"{folders}/", "")


def test_a_command_says_what_the_table_says(folders):
    assert command_of(folders, "dl19") == (
        "evaluate data/dl19 --depth 10,20,50,100 --relevance-level 2 --model models/ce-minilm-l12 "
        "--model models/ce-minilm-l12 --run run.bm25.tsv"
    )
    assert command_of(folders, "stackfaq-bi-encoder") == (
        "evaluate data/stackfaq --depth 5,10,20 --relevance-level 1 --model models/ce-minilm-l12 --backend onnx "
        "--bi-encoder models/bi-minilm-l6 --queries 100"
    )


def test_a_quick_run_takes_few_queries_at_one_depth_and_no_memory(folders):
    assert command_of(folders, "dl19-long", "--quick") == (
        "evaluate data/dl19-long --depth 5 --relevance-level 2 --model models/ce-minilm-l12 --backend onnx "
        "--run run.bm25.tsv --queries 3 --no-memory"
    )


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_a_kept_result_makes_a_row_of_the_summary(file):
    found = json.loads(file.read_text("utf-8"))
    name, baseline, best, p, worth_it, choice, *costs = results.summary_row(file.stem, found)
    systems = found["systems"]
    assert name == f"{file.stem} ({found['queries']})"
    assert float(baseline) == pytest.approx(systems[found["baseline"]]["nDCG@10"], abs=0.0005)
    assert best.endswith(f"({found['verdict']['subject']})")
    assert p == "< 0.001" or 0 <= float(p) <= 1
    assert worth_it == found["verdict"]["worth_it"]
    assert choice in systems
    assert len(costs) == 2
