"""The command `score`: a run that is re-ranked, and errors in one line."""

import json

import pytest
from typer.testing import CliRunner

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.cli import app
from haystack_ce_ranker.data.collections import load_run
from haystack_ce_ranker.training.teachers import Teacher

TEXTS = {
    "d1": "the brake is cold",
    "d2": "the brake holds the car",
    "d3": "a hut in the snow",
    "long": "a city. " * 200,
}


@pytest.fixture
def given(tmp_path, tiny_bert):
    """The arguments of a small case, and what its command printed."""
    folder = tmp_path / "small"
    folder.mkdir()
    rows = [json.dumps({"_id": name, "text": text}) for name, text in TEXTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "hut in snow"}\n', encoding="utf-8")
    lines = [f"q1 Q0 {name} {rank} {9 - rank} bm25" for rank, name in enumerate(TEXTS, 1)]
    (tmp_path / "first.run").write_text("\n".join(lines) + "\n", encoding="utf-8")
    output = tmp_path / "out" / "scored.run"
    return [
        "score",
        str(tmp_path / "first.run"),
        "--collection",
        str(folder),
        "--model",
        tiny_bert,
        "--output",
        str(output),
    ]


def test_a_run_is_scored_as_the_teacher_of_mine_scores_it(given, tmp_path, tiny_bert):
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    scorer = Teacher.load(ModelOptions(tiny_bert, threads=1)).reader.scorer
    expected, _ = scorer.score("hut in snow", list(TEXTS.values()))
    ranking = load_run(tmp_path / "out" / "scored.run")["q1"]
    assert ranking == {name: one.logit for name, one in zip(TEXTS, expected.documents, strict=True)}
    assert list(ranking.values()) == sorted(ranking.values(), reverse=True)
    assert "cut: 1 pairs show a part of their document" in done.output
    again = CliRunner().invoke(app, given)
    assert again.exit_code == 2
    assert "is there already" in again.output


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--model", "/nowhere"], "error: model '/nowhere' was not found: there is no folder /nowhere."),
        (
            ["--backend", "tflite"],
            "error: backend must be one of 'torch', 'onnx', 'openvino', 'auto', but got 'tflite'",
        ),
        (
            ["--backend", "remote"],
            "error: backend must be one of 'torch', 'onnx', 'openvino', 'auto', but got 'remote'",
        ),
        (["--engine", "spark"], "error: engine must be one of 'local', 'ray', but got 'spark'."),
        (["--replicas", "2"], "error: the engine 'local' is one replica in this process, but got replicas=2"),
        (["--output", "scored.txt"], "error: output must end in .run or .parquet, but got 'scored.txt'."),
        (["--long-documents", "some"], "error: long_documents must be one of "),
        (["--max-length", "4096"], "error: max_length must be at most 128, the model's own limit, but got 4096."),
    ],
)
def test_what_cannot_be_is_one_line(given, more, error):
    done = CliRunner().invoke(app, [*given, *more])
    assert done.exit_code == 2
    told = [line for line in done.stderr.splitlines() if "Loading weights" not in line and line]
    assert len(told) == 1
    assert told[0].startswith(error)


def test_the_address_of_a_cluster_in_the_environment_is_for_ray_alone(given, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert CliRunner().invoke(app, given).exit_code == 0
