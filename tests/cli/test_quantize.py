"""`haystack-ce-ranker quantize`: a table, a folder, and one line for what cannot be done."""

import pytest
from typer.testing import CliRunner

from fakes import REPOSITORY
from haystack_ce_ranker.cli import app
from haystack_ce_ranker.quantizing import quantize as quantization

pytest.importorskip("onnx", reason="needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

runner = CliRunner()
FILES = {"onnx": ["model.onnx"], "openvino": ["openvino_model.bin", "openvino_model.xml"]}


@pytest.mark.parametrize("backend", FILES)
def test_the_command_prints_the_table_and_refuses_with_one_line(tiny_bert, tmp_path, monkeypatch, backend):
    monkeypatch.setenv("COLUMNS", "160")
    arguments = ["quantize", tiny_bert, str(tmp_path / "out"), "--min-correlation", "-1", "--min-overlap", "0"]
    arguments += ["--backend", backend]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "rank correlation, mean" in done.output
    assert all((tmp_path / "out" / name).is_file() for name in FILES[backend])
    again = runner.invoke(app, arguments)
    assert again.exit_code == 2
    assert "output must be a folder" in again.output


def test_the_command_verifies_on_a_collection(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(quantization, "_correlation", lambda ours, theirs: 0.7)
    handbook = REPOSITORY / "examples" / "handbook"
    done = runner.invoke(
        app,
        [
            *("quantize", tiny_bert, str(tmp_path / "out"), "--verify-on", str(handbook)),
            *("--queries", "3", "--depth", "4", "--min-correlation", "0.75"),
        ],
    )
    assert done.exit_code == 2
    assert "3 queries, 12 pairs" in done.output
    assert not (tmp_path / "out").exists()
